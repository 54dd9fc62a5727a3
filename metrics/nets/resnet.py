"""ResNet trunks (He et al. 2015, arXiv 1512.03385) with torchvision's key names, without its package."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, width, H/stride, W/stride)."""
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(image)))))
        return F.relu(hidden + (image if self.downsample is None else self.downsample(image)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; the stride is in the 3x3 ("v1.5")."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 4 * width, H/stride, W/stride)."""
        hidden = F.relu(self.bn1(self.conv1(image)))
        hidden = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(hidden)))))
        return F.relu(hidden + (image if self.downsample is None else self.downsample(image)))


class ResNet(nn.Module):
    """Trunk of four stages.

    Args:
        block: `BasicBlock` (18, 34 layers) or `Bottleneck` (50 layers).
        depths: blocks per stage, for example (2, 2, 2, 2).
        classes: size of the unused classifier `fc` that some public files carry; None for none.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, nn.Sequential()
            for index in range(depth):
                blocks.append(block(channels, width, 2 if stage and not index else 1))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", blocks)
        if classes is not None:
            self.fc = nn.Linear(channels, classes)

    def stages(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs of the four stages for (B, 3, H, W): 1/4, 1/8, 1/16 and 1/32 of the size."""
        hidden = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        first = self.get_submodule("layer1")(hidden)
        second = self.get_submodule("layer2")(first)
        third = self.get_submodule("layer3")(second)
        return first, second, third, self.get_submodule("layer4")(third)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to the last stage's map."""
        return self.stages(image)[3]
