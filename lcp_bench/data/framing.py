"""What of a portrait a model animates: all of it, or EchoMimic's square around the face.

Whatever is known of the portrait (face box, landmarks, foreground) is brought into the coordinates of what is taken.
Deviation: a portrait without a face is refused before; upstream animates it as it is, under a mask of everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lcp_bench.data.echomimic_crop import face_crop, face_mask
from lcp_bench.data.locate import LocatedFace
from lcp_bench.model_config import FaceCropConfig


@dataclass(frozen=True, slots=True)
class FramedPortrait:
    """A portrait as a model sees it.

    Attributes:
        image: uint8 (height, width, 3), RGB.
        face: The face in it.
        lip_box: Lip box in it, where known.
        foreground: (H, W) in [0, 1], its foreground where one is given.
        region: float32 (3, S, S) in [0, 1], the face mask that belongs to the crop; None where the whole was taken.
        notes: Facts for the record.
    """

    image: NDArray[np.uint8]
    face: LocatedFace
    lip_box: ArrayLike | None
    foreground: torch.Tensor | None
    region: torch.Tensor | None
    notes: dict[str, Any]


def framed_portrait(whole: FramedPortrait, crop: FaceCropConfig | None, size: int) -> FramedPortrait:
    """Cut a portrait to what is animated.

    Args:
        whole: The portrait as read.
        crop: How; None takes all of it.
        size: Side of the square picture in pixels.

    Returns:
        With a crop, a picture of `size` x `size` with the mask that upstream makes; that mask can be empty, where the
        face lies at the image's upper or left edge, and its share is noted.
    """
    if crop is None:
        return whole
    height, width = whole.image.shape[:2]
    x0, y0, x1, y1 = face_crop(whole.face.box, height, width, crop.dilation).taken
    mask = face_mask(whole.face.box, height, width, crop.mask_dilation)[y0:y1, x0:x1]
    region = torch.from_numpy(_resized(mask, size).astype(np.float32) / np.float32(255))
    start, scale = np.array([x0, y0], dtype=np.float64), size / (x1 - x0)
    corners = np.clip(_moved(whole.face.box, start, scale), 0, size).flatten()
    box = (float(corners[0]), float(corners[1]), float(corners[2]), float(corners[3]))
    return replace(
        whole,
        image=_resized(whole.image[y0:y1, x0:x1], size),
        face=replace(whole.face, box=box, landmarks5=_moved(whole.face.landmarks5, start, scale)),
        lip_box=None if whole.lip_box is None else _moved(whole.lip_box, start, scale).flatten(),
        foreground=None if whole.foreground is None else whole.foreground[y0:y1, x0:x1],
        region=region.expand(3, -1, -1),
        notes={"face_crop": [x0, y0, x1, y1], "face_mask_share": float(region.mean())},
    )


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    square = cv2.resize(np.ascontiguousarray(pixels), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(square, dtype=np.uint8)


def _moved(points: ArrayLike, start: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Points x, y, x, y, ... or (n, 2) of the portrait in the square's pixels, (n, 2)."""
    return (np.asarray(points, dtype=np.float64).reshape(-1, 2) - start) * scale
