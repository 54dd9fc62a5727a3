"""Frames as the small networks take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metrics.errors import VideoGap
from metrics.frames import read_frames
from metrics.nets.mini import LIP_HEIGHT, LIP_LEFT, LIP_TOP, LIP_WIDTH, SIDE

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def read_small(path: Path, fps: float) -> NDArray[np.uint8]:
    """All frames of a video at 64 x 64 pixels.

    Returns:
        uint8 (F, 64, 64, 3), RGB.

    Raises:
        VideoGap: undecodable, another frame rate, or a side below 64 pixels.
    """
    frames = read_frames(path, fps)
    height, width = frames.shape[1:3]
    if min(height, width) < SIDE:
        raise VideoGap(
            f"{path.name} is {width} x {height} pixels, the mini metrics need {SIDE} x {SIDE} or more",
            reason="too small",
        )
    return small(frames)


def small(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 frames (F, H, W, 3), squeezed to (F, 64, 64, 3) where they have another size."""
    if frames.shape[1:3] == (SIDE, SIDE):
        return frames
    parts = [
        F.interpolate(as_images(part) * 255, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        for part in np.array_split(frames, max(1, len(frames) // 16))
    ]
    return np.asarray(torch.cat(parts).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


def as_images(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 (F, H, W, 3) as float32 (F, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def to_grey(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB (..., 3) to grey of 8 bits, ITU-R BT.601."""
    return np.asarray(np.rint(frames @ GREY), dtype=np.uint8)


def lower_face(grey: NDArray[np.uint8], down: int = 0, right: int = 0) -> NDArray[np.uint8]:
    """The fixed window of grey frames (F, 64, 64), shifted by so many pixels: (F, 32, 40)."""
    top, left = LIP_TOP + down, LIP_LEFT + right
    return grey[:, top : top + LIP_HEIGHT, left : left + LIP_WIDTH]
