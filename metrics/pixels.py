"""PSNR and SSIM of paired frames, in float64.

PSNR goes through torchmetrics. SSIM does not: in float64 torchmetrics takes 8 seconds for a frame of 512 x 512 pixels,
because its 11 x 11 window is not taken apart into rows and columns. Here it takes 0.05, and the tests hold both equal.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrics.errors import MetricError

Array = NDArray[np.float64]
Border = Literal["valid", "reflect"]
PSNR_CAP_DB = 100.0
CAP_BELOW = 1e-10
C1, C2 = 0.01**2, 0.03**2
SIGMA = 1.5
_BELL: Array = np.exp(-0.5 * np.square(np.arange(-5, 6) / SIGMA))
WINDOW: Array = _BELL / _BELL.sum()
"""11 weights of SSIM's Gaussian window along one axis."""


def _checked(first: Any, second: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two videos as arrays, if they are uint8 (F, H, W, 3) of one shape."""
    one, two = np.asarray(first), np.asarray(second)
    if one.shape != two.shape or one.ndim != 4 or one.shape[-1] != 3 or one.dtype != np.uint8 or two.dtype != np.uint8:
        raise MetricError(
            f"expected two aligned uint8 RGB videos (frames, height, width, 3), got {one.dtype} {one.shape} and "
            f"{two.dtype} {two.shape}; compare the same frames at the same size"
        )
    return one, two


def _planar(video: NDArray[np.uint8]) -> Tensor:
    """uint8 (F, H, W, 3) as float64 (F, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).double() / 255.0


def psnr(first: Any, second: Any, *, capped: bool = True) -> Array:
    """Peak signal-to-noise ratio per frame, over all pixels and RGB channels.

    A video's score is the mean over its frames; torchmetrics' own default pools the squared errors of the batch first,
    which is another number.

    Args:
        first: uint8 (F, H, W, 3).
        second: uint8 (F, H, W, 3), aligned with `first`.
        capped: 100 dB where the mean squared error is below 1e-10 (else infinity for equal frames).

    Returns:
        float64 (F,) in dB; higher is closer.

    Raises:
        MetricError: the videos differ in shape or are not uint8 RGB.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    one, two = map(_planar, _checked(first, second))
    values = peak_signal_noise_ratio(one, two, data_range=1.0, dim=(1, 2, 3), reduction="none")
    if capped:
        squared = (one - two).square().mean(dim=(1, 2, 3))
        values = torch.where(squared < CAP_BELOW, torch.full_like(values, PSNR_CAP_DB), values)
    return np.asarray(values.numpy(), dtype=np.float64)


def ssim(first: Any, second: Any, *, border: Border = "valid") -> Array:
    """Structural similarity per frame (Wang et al. 2004): 11 x 11 Gaussian of sigma 1.5, K1 0.01, K2 0.03, L 1.

    Args:
        first: uint8 (F, H, W, 3), at least 11 x 11 pixels.
        second: uint8 (F, H, W, 3), aligned with `first`.
        border: `valid` averages over the positions whose window lies inside the frame (the original definition);
            `reflect` over all positions of the reflected frame (torchmetrics' own number).

    Returns:
        float64 (F,), mean over RGB; 1 for equal frames, higher is closer.

    Raises:
        MetricError: the videos differ in shape, are not uint8 RGB, or are smaller than the window.
    """
    one, two = _checked(first, second)
    height, width = one.shape[1:3]
    if min(height, width) < len(WINDOW):
        raise MetricError(f"SSIM needs frames of at least 11 x 11 pixels, got {width} x {height}")
    edge = len(WINDOW) // 2 if border == "valid" else 0
    maps = (_similarity(frame / 255.0, other / 255.0) for frame, other in zip(one, two, strict=True))
    return np.array([full[edge : height - edge, edge : width - edge].mean() for full in maps])


def _similarity(frame: Array, other: Array) -> Array:
    """SSIM at each position and channel of two (H, W, 3) frames in [0, 1], reflected beyond their border."""
    mean, mean_other = _blur(frame), _blur(other)
    variance = np.maximum(_blur(frame * frame) - mean * mean, 0.0)
    variance_other = np.maximum(_blur(other * other) - mean_other * mean_other, 0.0)
    covariance = _blur(frame * other) - mean * mean_other
    structure = (2 * covariance + C2) / (variance + variance_other + C2)
    result: Array = structure * (2 * mean * mean_other + C1) / (mean * mean + mean_other * mean_other + C1)
    return result


def _blur(image: Array) -> Array:
    blurred = cv2.sepFilter2D(image, cv2.CV_64F, WINDOW, WINDOW, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, dtype=np.float64)
