"""Inflated Inception-v1 (I3D) over RGB video: the backbone of FVD.

Architecture: Carreira & Zisserman 2017 (arXiv 1705.07750). Parameter names are those of piergiaj/pytorch-i3d, which the
VideoGPT conversion of the FVD weights (`i3d_pretrained_400.pt`) shares. Shapes: B batch, C channels, T time, H, W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.errors import MetricError

Variant = Literal["piergiaj", "videogpt", "disco"]
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class I3dSettings:
    """What differs between the published variants: batch-norm epsilon and the window of the last average pool."""

    bn_eps: float
    pool: Triple


VARIANTS: dict[Variant, I3dSettings] = {
    "piergiaj": I3dSettings(1e-3, (2, 7, 7)),
    "videogpt": I3dSettings(1e-5, (2, 7, 7)),
    "disco": I3dSettings(1e-3, (1, 7, 7)),
}
MIN_FRAMES = 9
MIN_SIDE = 193

# in channels, then b0, b1a, b1b, b2a, b2b, b3b
MIXED: dict[str, tuple[int, ...]] = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
FEATURES = 1024


def same_padding(size: tuple[int, ...], kernel: Triple, stride: Triple) -> list[int]:
    """TensorFlow's SAME padding of a (T, H, W) map, in the order `torch.nn.functional.pad` takes it.

    >>> same_padding((16, 224, 224), (7, 7, 7), (2, 2, 2))
    [2, 3, 2, 3, 2, 3]
    """
    pads: list[int] = []
    for length, width, step in zip(reversed(size), reversed(kernel), reversed(stride), strict=True):
        total = max(width - (step if length % step == 0 else length % step), 0)
        pads += [total // 2, total - total // 2]
    return pads


class Unit3d(nn.Module):
    """Convolution with SAME padding; batch norm and ReLU follow unless `plain`, which has a bias instead."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple = (1, 1, 1),
        stride: Triple = (1, 1, 1),
        *,
        bn_eps: float = 1e-3,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(outputs, eps=bn_eps)

    def forward(self, video: Tensor) -> Tensor:
        """(B, in, T, H, W) to (B, out, ceil(T/s), ceil(H/s), ceil(W/s))."""
        hidden = self.conv3d(F.pad(video, same_padding(tuple(video.shape[2:]), self.kernel, self.stride)))
        return hidden if self.bn is None else F.relu(self.bn(hidden))


class SamePool3d(nn.Module):
    """Max pool over SAME padding with zeros, as TensorFlow's on the non-negative maps it is used on."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, ceil(T/s), ceil(H/s), ceil(W/s))."""
        padded = F.pad(video, same_padding(tuple(video.shape[2:]), self.kernel, self.stride))
        return F.max_pool3d(padded, self.kernel, self.stride)


class Mixed(nn.Module):
    """Inception block: 1x1x1, two 3x3x3 paths and a pooled path, concatenated in that order."""

    def __init__(self, widths: tuple[int, ...], bn_eps: float) -> None:
        super().__init__()
        inputs, b0, b1a, b1b, b2a, b2b, b3b = widths
        three: Triple = (3, 3, 3)
        self.b0 = Unit3d(inputs, b0, bn_eps=bn_eps)
        self.b1a = Unit3d(inputs, b1a, bn_eps=bn_eps)
        self.b1b = Unit3d(b1a, b1b, three, bn_eps=bn_eps)
        self.b2a = Unit3d(inputs, b2a, bn_eps=bn_eps)
        self.b2b = Unit3d(b2a, b2b, three, bn_eps=bn_eps)
        self.b3a = SamePool3d(three, (1, 1, 1))
        self.b3b = Unit3d(inputs, b3b, bn_eps=bn_eps)

    def forward(self, video: Tensor) -> Tensor:
        """(B, in, T, H, W) to (B, b0 + b1b + b2b + b3b, T, H, W)."""
        paths = (self.b0(video), self.b1b(self.b1a(video)), self.b2b(self.b2a(video)), self.b3b(self.b3a(video)))
        return torch.cat(paths, dim=1)


class I3d(nn.Module):
    """I3D with 400 Kinetics logits; the FVD feature is the logits averaged over time, before any softmax.

    Args:
        variant: which publication's settings; `piergiaj` (with `rgb_imagenet.pt`, not the FVD weights), `videogpt` or
            `disco` (both with `i3d_pretrained_400.pt`). Their numbers differ and must not be mixed.
        classes: number of logits.

    Raises:
        MetricError: the variant is unknown.
    """

    def __init__(self, variant: Variant = "videogpt", classes: int = 400) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise MetricError(f"expected an I3D variant of {sorted(VARIANTS)}, got {variant!r}")
        settings = VARIANTS[variant]
        eps, self.pool = settings.bn_eps, settings.pool
        self.Conv3d_1a_7x7 = Unit3d(3, 64, (7, 7, 7), (2, 2, 2), bn_eps=eps)
        self.MaxPool3d_2a_3x3 = SamePool3d((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3d(64, 64, bn_eps=eps)
        self.Conv3d_2c_3x3 = Unit3d(64, 192, (3, 3, 3), bn_eps=eps)
        self.MaxPool3d_3a_3x3 = SamePool3d((1, 3, 3), (1, 2, 2))
        self._add_mixed("3", eps)
        self.MaxPool3d_4a_3x3 = SamePool3d((3, 3, 3), (2, 2, 2))
        self._add_mixed("4", eps)
        self.MaxPool3d_5a_2x2 = SamePool3d((2, 2, 2), (2, 2, 2))
        self._add_mixed("5", eps)
        self.trunk = tuple(self._modules)
        self.logits = Unit3d(FEATURES, classes, plain=True)

    def _add_mixed(self, stage: str, eps: float) -> None:
        for name, widths in MIXED.items():
            if name[6] == stage:
                self.add_module(name, Mixed(widths, eps))

    def pooled(self, video: Tensor) -> Tensor:
        """Pre-logit map after the average pool.

        Args:
            video: float (B, 3, T, H, W), RGB in [-1, 1], T >= 9, H and W >= 193 (224 is the trained size).

        Returns:
            (B, 1024, T', 1, 1) for 224 x 224 input.

        Raises:
            MetricError: wrong layout, or too few frames or pixels for the last pool.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise MetricError(f"I3D expects (batch, 3, frames, height, width), got {tuple(video.shape)}")
        if video.shape[2] < MIN_FRAMES or min(video.shape[3:]) < MIN_SIDE:
            raise MetricError(
                f"I3D needs at least {MIN_FRAMES} frames of {MIN_SIDE} x {MIN_SIDE} pixels, got "
                f"{video.shape[2]} of {video.shape[3]} x {video.shape[4]}; resize to 224 and use longer clips"
            )
        hidden = video
        for name in self.trunk:
            hidden = self.get_submodule(name)(hidden)
        return F.avg_pool3d(hidden, self.pool, stride=1)

    def logits_per_time(self, pooled: Tensor) -> Tensor:
        """(B, 1024, T', h, w) of `pooled` to logits (B, classes, T'), averaged over the h x w positions."""
        logits: Tensor = self.logits(pooled)
        return logits.mean(dim=(3, 4))

    def forward(self, video: Tensor) -> Tensor:
        """Video (B, 3, T, H, W) in [-1, 1] to the FVD feature (B, 400)."""
        return self.logits_per_time(self.pooled(video)).mean(dim=2)
