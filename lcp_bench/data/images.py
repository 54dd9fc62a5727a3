"""Reading the portrait of a clip: an image file, or the first frame of a talking clip."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lcp_bench.errors import LcpBenchError
from lcp_bench.video import read_video

MAX_ASPECT = 3.0


class ImageError(LcpBenchError):
    """A portrait cannot be used; whoever knows the clip turns it into a `ClipError`."""


def read_portrait(image: str | Path | None, video: str | Path | None) -> NDArray[np.uint8]:
    """The portrait as pixels, turned upright by its EXIF orientation.

    Args:
        image: Image file; preferred when given.
        video: Talking clip whose first frame is taken otherwise.

    Returns:
        uint8 (height, width, 3) RGB.

    Raises:
        ImageError: Missing, empty, truncated, not an image, or longer than 1:3.
        MediaError: The talking clip cannot be read.
    """
    if image is not None:
        pixels = _read_image(Path(image))
    elif video is not None:
        pixels = read_video(video, max_frames=1)[0]
    else:
        raise ImageError("expected a portrait image or a talking clip, got neither; check the pairs.csv")
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ImageError(
            f"{image or video} is {width}x{height} pixels: the model sees it squeezed to a square, and beyond "
            f"1:{MAX_ASPECT:g} no face survives that; crop it around the head"
        )
    return pixels


def _read_image(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise ImageError(f"expected a portrait at {path}, found no file; check the data set")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes), expected an image; replace the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files; all mean the same to the user
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{path} cannot be read as an image ({reason}); replace the file or remove the clip"
        ) from error
