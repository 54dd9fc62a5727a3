"""S3FD face detector (Zhang et al. 2017, arXiv 1708.05237), the one SyncNet's published pipeline uses.

Key names are those of `sfd_face.pth` (joonson/syncnet_python).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.errors import MetricError

STRIDES = (4, 8, 16, 32, 64, 128)
SIZES = (16, 32, 64, 128, 256, 512)
VARIANCE = (0.1, 0.2)
NORM_EPSILON = 1e-10
WIDTHS = (256, 512, 512, 1024, 512, 256)
TAPPED = {15: "L2Norm3_3", 22: "L2Norm4_3", 29: "L2Norm5_3"}


@dataclass(frozen=True, slots=True)
class RawDetections:
    """Network output for one batch; P priors, level by level from stride 4, row by row inside a level.

    Attributes:
        regression: (B, P, 4), offsets in units of the prior.
        scores: (B, P, 2), probabilities of background and face.
        priors: (P, 4), centre x, centre y, width, height as shares of the input's width and height.
    """

    regression: Tensor
    scores: Tensor
    priors: Tensor


class ChannelNorm(nn.Module):
    """Divides each position by its channel length and scales each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        length = features.square().sum(dim=1, keepdim=True).sqrt() + NORM_EPSILON
        return self.weight[:, None, None] * (features / length)


def _trunk() -> nn.ModuleList:
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if stage:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=stage == 3))
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    layers += [nn.MaxPool2d(2, 2), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU()]
    layers += [nn.Conv2d(1024, 1024, 1), nn.ReLU()]
    return nn.ModuleList(layers)


class S3fd(nn.Module):
    """VGG-16 with six detection levels of strides 4 to 128 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = _trunk()
        self.L2Norm3_3 = ChannelNorm(256)
        self.L2Norm4_3 = ChannelNorm(512)
        self.L2Norm5_3 = ChannelNorm(512)
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(1024, 256, 1),
                nn.Conv2d(256, 512, 3, 2, 1),
                nn.Conv2d(512, 128, 1),
                nn.Conv2d(128, 256, 3, 2, 1),
            ]
        )
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in WIDTHS)
        self.conf = nn.ModuleList(
            nn.Conv2d(width, 2 if level else 4, 3, padding=1) for level, width in enumerate(WIDTHS)
        )

    def sources(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the six levels, finest first."""
        found: list[Tensor] = []
        hidden = images
        for index, layer in enumerate(self.vgg):
            hidden = layer(hidden)
            if index in TAPPED:
                found.append(self.get_submodule(TAPPED[index])(hidden))
        found.append(hidden)
        for index, layer in enumerate(self.extras):
            hidden = F.relu(layer(hidden))
            if index % 2:
                found.append(hidden)
        return found

    def forward(self, images: Tensor) -> RawDetections:
        """Raw detections of a batch of equal-sized images.

        Args:
            images: float (B, 3, H, W), RGB in 0..255 minus (123, 117, 104), not divided.

        Raises:
            MetricError: wrong layout.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise MetricError(f"S3FD expects (batch, 3, height, width), got {tuple(images.shape)}")
        regression, scores, shapes = [], [], []
        for level, features in enumerate(self.sources(images)):
            shapes.append((features.shape[2], features.shape[3]))
            regression.append(_rows(self.loc[level](features)))
            logits = _rows(self.conf[level](features))
            if level == 0:
                # the finest level has three background classes; the best of them counts
                logits = torch.cat([logits[..., :3].amax(dim=-1, keepdim=True), logits[..., 3:]], dim=-1)
            scores.append(logits)
        return RawDetections(
            torch.cat(regression, 1),
            torch.cat(scores, 1).softmax(dim=-1),
            priors(shapes, images.shape[3], images.shape[2]).to(images.device),
        )


def _rows(heads: Tensor) -> Tensor:
    return heads.permute(0, 2, 3, 1).flatten(1, 2)


def priors(shapes: Sequence[tuple[int, int]], width: int, height: int) -> Tensor:
    """Reference boxes, one per cell of each level.

    Args:
        shapes: (rows, columns) of the levels, finest first.
        width: input width in pixels.
        height: input height in pixels.

    Returns:
        float32 (P, 4): centre x, centre y, width, height as shares of the input's size; not clipped.
    """
    boxes: list[Tensor] = []
    for (rows, columns), stride, size in zip(shapes, STRIDES, SIZES, strict=True):
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centre_x = (column.flatten() + 0.5) * stride / width
        centre_y = (row.flatten() + 0.5) * stride / height
        ones = torch.ones_like(centre_x)
        boxes.append(torch.stack([centre_x, centre_y, ones * size / width, ones * size / height], dim=1))
    return torch.cat(boxes)


def decode(regression: Tensor, boxes: Tensor) -> Tensor:
    """Corners of predicted boxes.

    Args:
        regression: (..., P, 4) of `RawDetections`.
        boxes: (P, 4) of `priors`.

    Returns:
        (..., P, 4): x0, y0, x1, y1 as shares of the input's size.
    """
    centre = boxes[:, :2] + regression[..., :2] * VARIANCE[0] * boxes[:, 2:]
    size = boxes[:, 2:] * torch.exp(regression[..., 2:] * VARIANCE[1])
    corner = centre - size / 2
    return torch.cat([corner, corner + size], dim=-1)
