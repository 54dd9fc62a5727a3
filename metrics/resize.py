"""How frames become network inputs: the published conventions of FVD and FID, none of which equals another.

All of them take uint8 RGB frames and return float32 in [-1, 1].
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metrics.errors import MetricError

I3dResize = Literal["direct", "short_side"]
InceptionResize = Literal["pytorch_fid", "tf1", "antialias"]
I3D_SIDE = 224
INCEPTION_SIDE = 299


def _frames(frames: Any) -> Tensor:
    """uint8 (F, H, W, 3) as float32 (F, 3, H, W) in 0..255."""
    tensor = torch.as_tensor(np.asarray(frames)) if not isinstance(frames, Tensor) else frames
    if tensor.ndim != 4 or tensor.shape[-1] != 3 or tensor.dtype != torch.uint8:
        raise MetricError(f"expected uint8 RGB frames (n, height, width, 3), got {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.permute(0, 3, 1, 2).float()


def i3d_input(frames: NDArray[np.uint8] | Tensor, convention: I3dResize = "direct", side: int = I3D_SIDE) -> Tensor:
    """Frames of one clip as I3D takes them.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        convention: `direct` resizes the whole frame to a square (google-research and content-debiased FVD);
            `short_side` keeps the aspect ratio and crops the centre (VideoGPT, common_metrics). Both are bilinear with
            half-pixel centres and without antialiasing; on square frames they agree up to rounding.
        side: pixels of the result.

    Returns:
        float32 (3, T, side, side) in [-1, 1].

    Raises:
        MetricError: wrong layout or type of the frames, or an unknown convention.
    """
    images = _frames(frames)
    if convention == "direct":
        resized = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        return (2.0 * resized / 255.0 - 1.0).transpose(0, 1)
    if convention != "short_side":
        raise MetricError(f"expected a resize convention of direct, short_side, got {convention!r}")
    height, width = images.shape[2:]
    short = min(height, width)
    size = tuple(side if edge == short else math.ceil(edge * side / short) for edge in (height, width))
    resized = F.interpolate(images / 255.0, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return ((resized[:, :, top : top + side, left : left + side] - 0.5) * 2.0).transpose(0, 1)


def inception_input(frames: NDArray[np.uint8] | Tensor, convention: InceptionResize = "pytorch_fid") -> Tensor:
    """Frames as the FID Inception takes them.

    Args:
        frames: uint8 (N, H, W, 3), RGB, from lossless files or memory.
        convention: `pytorch_fid` (mseitzer/pytorch-fid: bilinear with half-pixel centres on [0, 1], then 2x - 1),
            `tf1` (torch-fidelity, torchmetrics with `antialias=False`: TensorFlow 1 bilinear, then (x - 128) / 128) or
            `antialias` (torchmetrics' default since 1.8, then (x - 128) / 128).

    Returns:
        float32 (N, 3, 299, 299) in [-1, 1].

    Raises:
        MetricError: wrong layout or type of the frames, or an unknown convention.
    """
    images, size = _frames(frames), (INCEPTION_SIDE, INCEPTION_SIDE)
    if convention == "pytorch_fid":
        return 2.0 * F.interpolate(images / 255.0, size, mode="bilinear", align_corners=False) - 1.0
    if convention == "antialias":
        resized = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return (resized - 128.0) / 128.0
    if convention != "tf1":
        raise MetricError(f"expected a resize convention of pytorch_fid, tf1, antialias, got {convention!r}")
    return (_tf1_bilinear(images, size) - 128.0) / 128.0


def _tf1_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """TensorFlow 1's bilinear resize: source = target * in / out, without the half-pixel shift, neighbours clamped."""
    for axis, target in ((2, size[0]), (3, size[1])):
        length = images.shape[axis]
        source = torch.arange(target, dtype=torch.float32, device=images.device) * (length / target)
        low = source.floor().long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        share = (source - low).reshape(-1, *([1] * (3 - axis)))
        one, two = images.index_select(axis, low), images.index_select(axis, high)
        images = one + (two - one) * share
    return images
