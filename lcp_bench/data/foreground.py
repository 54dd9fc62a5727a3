"""A clip's foreground as a file: a PNG as large as the portrait, white where the person is.

It stands for the portrait as it is read (upright, before any crop or squeeze), so that whatever is done to the portrait
can be done to it. A file of another size but the same proportions is brought to the portrait's with nearest neighbours:
a mask has no values in between.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lcp_bench.data.images import ImageError

WHITE = 128
"""From this grey value on (of 255) a pixel is foreground: the edges that drawing programs smooth have some."""
PROPORTIONS = 0.02
"""Relative difference of the sides' ratios up to which a mask is that of the portrait, resized and rounded."""


def read_foreground(path: str | Path, width: int, height: int) -> torch.Tensor:
    """The foreground of a portrait of `width` x `height` pixels.

    Args:
        path: PNG in black and white or grey, or in colours that are grey; without transparency.
        width: The portrait's width in pixels.
        height: Its height.

    Returns:
        float32 (height, width), 1 in the foreground and 0 elsewhere.

    Raises:
        ImageError: Missing, not such a file, of other proportions than the portrait, or without any foreground.
    """
    grey = _read_png(Path(path))
    rows, columns = grey.shape
    if abs(columns * height / (rows * width) - 1) > PROPORTIONS:
        raise ImageError(
            f"the foreground {path} is {columns}x{rows} pixels, its portrait {width}x{height}: expected the same size, "
            "or at least the same proportions; make it from that portrait"
        )
    inside = grey >= WHITE
    if not inside.any():
        raise ImageError(f"the foreground {path} has no white pixel, expected white where the person is; invert it?")
    if (rows, columns) != (height, width):
        inside = np.asarray(Image.fromarray(inside).resize((width, height), Image.Resampling.NEAREST))
    return torch.from_numpy(inside.astype(np.float32))


def _read_png(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if not path.is_file():
        raise ImageError(f"expected a foreground at {path}, found no file; check the column in pairs.csv")
    try:
        with Image.open(path, formats=("PNG",)) as image:
            # palettes and transparency become explicit; 16-bit grey is refused below, for its scale is not certain
            pixels = np.asarray(image if image.mode in ("1", "L", "RGB") else image.convert("RGBA"))
            mode = image.mode
    except Exception as error:  # Pillow's plugin raises many kinds for damaged files; all mean the same to the user
        reason = str(error) or type(error).__name__
        raise ImageError(f"the foreground {path} cannot be read as a PNG ({reason}); save it as one") from error
    if mode.startswith("I"):
        raise ImageError(f"the foreground {path} has 16 or more bits per pixel, expected 1 or 8; save it as 8-bit grey")
    if pixels.ndim == 2:
        return pixels.astype(np.uint8) * (255 if mode == "1" else 1)
    if pixels.shape[2] == 4 and (pixels[..., 3] < 255).any():
        raise ImageError(f"the foreground {path} is transparent in places, expected black and white; flatten it first")
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise ImageError(f"the foreground {path} is in colour, expected black and white: white where the person is")
    return np.ascontiguousarray(pixels[..., 0])
