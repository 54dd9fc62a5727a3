"""EchoMimic's square crop around the face, and its face mask, as its public inference script makes them.

Coordinates are pixels, x to the right and y down; boxes are (x0, y0, x1, y1), half open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MASK_DILATION = 0.1
CROP_DILATION = 0.5
"""By how much of its own size the face box grows on each side, for the mask and for the crop."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """What is taken of a portrait.

    Attributes:
        widened: The widened face box, clipped to the image.
        square: The square taken; as upstream takes it, it can be wider than high, see `taken`.
        taken: The square that is left after both sides were made equal; what the network sees, after a resize.
    """

    widened: Box
    square: Box
    taken: Box


def face_mask(box: Sequence[float], height: int, width: int, dilation: float = MASK_DILATION) -> NDArray[np.uint8]:
    """White box on black, uint8 (height, width).

    A widened box that would begin before the image is not clipped: the negative start counts from the image's end, as
    upstream's does, and the mask is then usually empty.

    Args:
        box: Face box, x0, y0, x1, y1.
        height: Image height in pixels.
        width: Image width in pixels.
        dilation: Growth on each side.
    """
    x0, y0, x1, y1 = _widened(box, dilation)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y0:y1, x0:x1] = 255
    return mask


def face_crop(box: Sequence[float], height: int, width: int, dilation: float = CROP_DILATION) -> FaceCrop:
    """The square around a face, before it is resized.

    Args:
        box: Face box, x0, y0, x1, y1.
        height: Image height in pixels.
        width: Image width in pixels.
        dilation: Growth on each side.
    """
    x0, y0, x1, y1 = _widened(box, dilation)
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(x1, width), min(y1, height)
    side = min(x1 - x0, y1 - y0)
    left = max(0, (x0 + x1) // 2 - side // 2)
    top = max(0, (y0 + y1) // 2 - side // 2)
    right, bottom = min(width, left + side), min(height, top + side)
    equal = min(right - left, bottom - top)
    return FaceCrop((x0, y0, x1, y1), (left, top, right, bottom), (left, top, left + equal, top + equal))


def _widened(box: Sequence[float], dilation: float) -> Box:
    x0, y0, x1, y1 = (int(np.round(value)) for value in box)
    wider, higher = int((x1 - x0) * dilation), int((y1 - y0) * dilation)
    return x0 - wider, y0 - higher, x1 + wider, y1 + higher
