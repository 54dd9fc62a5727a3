"""Inception-v3 of FID: the 2015-12-05 graph with 1008 classes.

Key names are those of torchvision's Inception-v3 (and of `pt_inception-2015-12-05-6726825d.pth`, mseitzer/pytorch-fid).
It deviates from torchvision's network in its pools: average pools leave padding out of the mean, and the pooled branch
of the last block is a max pool (Heusel et al. 2017, arXiv 1706.08500, used the TensorFlow graph).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.errors import MetricError

TAPS = (64, 192, 768, 2048)
BN_EPS = 1e-3
CLASSES = 1008
PoolKind = Literal["average", "max"]
Size = int | tuple[int, int]


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H', W')."""
        return F.relu(self.bn(self.conv(image)))


def _pool(image: Tensor, kind: PoolKind) -> Tensor:
    if kind == "max":
        return F.max_pool2d(image, 3, stride=1, padding=1)
    return F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35 block: 1x1, 5x5, double 3x3 and pooled branches."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(inputs, 64, 1)
        self.branch5x5_1 = ConvUnit(inputs, 48, 1)
        self.branch5x5_2 = ConvUnit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvUnit(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, padding=1)
        self.branch_pool = ConvUnit(inputs, pooled, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 224 + pooled, H, W)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(image)))
        five = self.branch5x5_2(self.branch5x5_1(image))
        return torch.cat([self.branch1x1(image), five, double, self.branch_pool(_pool(image, "average"))], 1)


class BlockB(nn.Module):
    """Reduction from 35 x 35 to 17 x 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvUnit(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvUnit(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 480 + in, H', W')."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(image)))
        return torch.cat([self.branch3x3(image), double, F.max_pool2d(image, 3, 2)], 1)


class BlockC(nn.Module):
    """17 x 17 block with factorised 7x7 branches."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        wide: tuple[Size, Size] = ((1, 7), (0, 3))
        tall: tuple[Size, Size] = ((7, 1), (3, 0))
        self.branch1x1 = ConvUnit(inputs, 192, 1)
        self.branch7x7_1 = ConvUnit(inputs, inner, 1)
        self.branch7x7_2 = ConvUnit(inner, inner, wide[0], padding=wide[1])
        self.branch7x7_3 = ConvUnit(inner, 192, tall[0], padding=tall[1])
        self.branch7x7dbl_1 = ConvUnit(inputs, inner, 1)
        self.branch7x7dbl_2 = ConvUnit(inner, inner, tall[0], padding=tall[1])
        self.branch7x7dbl_3 = ConvUnit(inner, inner, wide[0], padding=wide[1])
        self.branch7x7dbl_4 = ConvUnit(inner, inner, tall[0], padding=tall[1])
        self.branch7x7dbl_5 = ConvUnit(inner, 192, wide[0], padding=wide[1])
        self.branch_pool = ConvUnit(inputs, 192, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 768, H, W)."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(image)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(image)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(image), single, double, self.branch_pool(_pool(image, "average"))], 1)


class BlockD(nn.Module):
    """Reduction from 17 x 17 to 8 x 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvUnit(inputs, 192, 1)
        self.branch3x3_2 = ConvUnit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvUnit(inputs, 192, 1)
        self.branch7x7x3_2 = ConvUnit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvUnit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvUnit(192, 192, 3, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 512 + in, H', W')."""
        seven = self.branch7x7x3_2(self.branch7x7x3_1(image))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(image)), seven, F.max_pool2d(image, 3, 2)], 1)


class BlockE(nn.Module):
    """8 x 8 block with split 3x3 branches."""

    def __init__(self, inputs: int, pool: PoolKind) -> None:
        super().__init__()
        self.pool: PoolKind = pool
        self.branch1x1 = ConvUnit(inputs, 320, 1)
        self.branch3x3_1 = ConvUnit(inputs, 384, 1)
        self.branch3x3_2a = ConvUnit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvUnit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvUnit(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvUnit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvUnit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvUnit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvUnit(inputs, 192, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 2048, H, W)."""
        single = self.branch3x3_1(image)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(image))
        branches = [
            self.branch1x1(image),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(_pool(image, self.pool)),
        ]
        return torch.cat(branches, 1)


class FidInception(nn.Module):
    """Features of FID. The 2048-d tap is FID's; the others have other scales and are for tests and diagnosis."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, "average")
        self.Mixed_7c = BlockE(2048, "max")
        self.fc = nn.Linear(2048, CLASSES)  # in the public file, not used by FID

    def taps(self, images: Tensor) -> dict[int, Tensor]:
        """Spatial means of the four published taps.

        Args:
            images: float (B, 3, 299, 299), RGB in [-1, 1]; see `metrics.resize.inception_input`.

        Returns:
            {64: (B, 64), 192: (B, 192), 768: (B, 768), 2048: (B, 2048)}.

        Raises:
            MetricError: wrong layout.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise MetricError(f"Inception expects (batch, 3, 299, 299), got {tuple(images.shape)}")
        first = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images))), 3, 2)
        second = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first)), 3, 2)
        third = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(second))))
        third = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(third))))
        last = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(third)))
        maps = (first, second, third, last)
        return {size: hidden.mean(dim=(2, 3)) for size, hidden in zip(TAPS, maps, strict=True)}

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 299, 299) in [-1, 1] to the FID feature (B, 2048)."""
        return self.taps(images)[2048]
