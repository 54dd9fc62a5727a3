"""Where a square is cut out of the source picture; one fixed square per clip, so that the head moves in it.

Two rules: a window that annotations list (HDTF), and a face looked for over the whole clip (MEAD, which has none).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcp_bench.data.faces import Box, Face, detect_faces
from lcp_bench.data.prepare_media import FPS, pictures_at
from lcp_bench.errors import ConfigError
from lcp_bench.video import MediaError, VideoInfo

Square = tuple[int, int, int]
"""x, y of the upper left corner, and side, in pixels of the source picture."""
LOOK_EVERY = 10
"""Faces are looked for in every tenth picture (0.4 s)."""


class CropRule(Protocol):
    """How the square of a clip is found."""

    def square(self, path: Path, info: VideoInfo, times: Sequence[float]) -> Square:
        """The square for the pictures at `times`; raises `MediaError` if there is none."""

    def stored(self) -> Mapping[str, Any]:
        """The rule as JSON; equal rules give equal clips."""


@dataclass(frozen=True, slots=True)
class ListedWindow:
    """A window given in pixels of a picture of `height` lines; other heights scale it.

    Attributes:
        x: Left edge in pixels.
        y: Upper edge in pixels.
        side: Width and height in pixels.
        height: Lines of the picture that the numbers refer to.
    """

    x: int
    y: int
    side: int
    height: int

    def square(self, path: Path, info: VideoInfo, times: Sequence[float]) -> Square:
        """The window in pixels of the file, rounded; a rounding error at the edge moves it inside."""
        width, height = info.width or 0, info.height or 0
        scale = height / self.height
        x, y, side = (round(value * scale) for value in (self.x, self.y, self.side))
        side = min(side, height)
        x, y = min(x, max(width - side, 0)), min(y, height - side)
        if side < 8 or abs(x - self.x * scale) > 2 or abs(y - self.y * scale) > 2 or x + side > width:
            raise MediaError(
                f"{path} is {width}x{height}; the window x={self.x} y={self.y} side={self.side} listed for "
                f"{self.height} lines does not fit; this is another picture than the annotated one"
            )
        return x, y, side

    def stored(self) -> Mapping[str, Any]:
        """The rule as JSON."""
        return {"rule": "listed", **asdict(self)}


@dataclass(frozen=True, slots=True)
class FaceWindow:
    """One square around all faces found over the clip, enlarged, and kept inside the picture.

    Attributes:
        expand: Side of the square over the longer side of the box around the faces, at least 1.
        detector: `cascade` or `insightface`.
        insightface_root: Folder of the detector's files; part of no result's identity.
    """

    expand: float
    detector: str
    insightface_root: str | None = None

    def square(self, path: Path, info: VideoInfo, times: Sequence[float]) -> Square:
        """Looks every 0.4 s; boxes far from the others (a false find) are left out."""
        boxes = [box for picture in pictures_at(path, times[::LOOK_EVERY]) if (box := self._find(picture)) is not None]
        looked = len(times[::LOOK_EVERY])
        if 2 * len(boxes) < looked:
            raise MediaError(
                f"{path}: a single face was found in {len(boxes)} of {looked} pictures by {self.detector}, expected at "
                "least half of them; look at the file, or try dataset.face_detector=insightface"
            )
        return around(np.asarray(boxes), self.expand, info.width or 0, info.height or 0)

    def _find(self, picture: NDArray[np.uint8]) -> Box | None:
        """The face of the middle of the picture, where studio recordings have it, else of the whole picture."""
        height, width = picture.shape[:2]
        left = max(0, (width - height) // 2)
        for x, part in ((left, picture[:, left : left + height]), (0, picture)):
            faces = self._detect(np.ascontiguousarray(part))
            if len(faces) == 1:
                x0, y0, x1, y1 = faces[0].box
                return x0 + x, y0, x1 + x, y1
        return None

    def _detect(self, picture: NDArray[np.uint8]) -> list[Face]:
        if self.detector == "cascade":
            return detect_faces(picture)
        from lcp_bench.data.insight import detect_faces_insightface

        return detect_faces_insightface(picture, self.insightface_root)

    def __post_init__(self) -> None:
        if self.detector == "manifest":
            raise ConfigError(
                "dataset.face_detector=manifest finds no face, and this data set lists none; use cascade or insightface"
            )

    def stored(self) -> Mapping[str, Any]:
        """The rule as JSON."""
        return {"rule": "face", "expand": self.expand, "detector": self.detector, "every": LOOK_EVERY / FPS}


def around(boxes: NDArray[np.float64], expand: float, width: int, height: int) -> Square:
    """One square around face boxes.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels; those whose centre is more than a median side away are left out.
        expand: Enlargement of the longer side of their union.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.

    Returns:
        A square inside the picture; it is moved, and only if too large shrunk, to fit.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = float(np.median(boxes[:, 2] - boxes[:, 0]))
    kept = boxes[np.abs(centres - np.median(centres, axis=0)).max(axis=1) <= side]
    (x0, y0), (x1, y1) = kept[:, :2].min(axis=0), kept[:, 2:].max(axis=0)
    size = min(math.ceil(max(x1 - x0, y1 - y0) * expand), width, height)
    x = min(max(round((x0 + x1 - size) / 2), 0), width - size)
    y = min(max(round((y0 + y1 - size) / 2), 0), height - size)
    return x, y, size


def cropped(picture: NDArray[np.uint8], square: Square, size: int) -> NDArray[np.uint8]:
    """The square of a picture, uint8 (size, size, 3); bicubic, with antialiasing where it shrinks (Pillow)."""
    x, y, side = square
    part = Image.fromarray(picture[y : y + side, x : x + side])
    return np.asarray(part.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)
