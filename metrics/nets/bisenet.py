"""BiSeNet face parser with 19 CelebAMask-HQ classes (Yu et al. 2018, arXiv 1808.00897, without its spatial path).

One network, published under two sets of key names: zllrunning/face-parsing.PyTorch and yakhyo/face-parsing. The
constructor takes the naming, so that either file loads strictly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.errors import MetricError
from metrics.nets.resnet import BasicBlock, ResNet

Naming = Literal["zllrunning", "yakhyo"]
Backbone = Literal["resnet18", "resnet34"]
CLASSES = 19
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
DEPTHS: dict[Backbone, tuple[int, int, int, int]] = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the parts that differ between the two publications."""

    context: str
    trunk: str
    trunk_classes: int | None
    norm: str
    attention_unit: str
    attention_conv: str
    attention_norm: str
    fusion_unit: str
    head_unit: str
    head_conv: str


NAMINGS: dict[Naming, Names] = {
    "zllrunning": Names("cp", "resnet", None, "bn", "conv", "conv_atten", "bn_atten", "convblk", "conv", "conv_out"),
    "yakhyo": Names(
        "fpn", "backbone", 1000, "norm", "conv_block", "attention.0", "attention.1", "conv_block", "conv_block", "conv"
    ),
}


def _attach(module: nn.Module, path: str, child: nn.Module) -> None:
    """Register `child` under a dotted name, making the containers in between."""
    group, _, rest = path.partition(".")
    if not rest:
        module.add_module(group, child)
        return
    if group not in dict(module.named_children()):
        module.add_module(group, nn.Module())
    _attach(module.get_submodule(group), rest, child)


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU; the size stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, names: Names) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self._norm = names.norm
        self.add_module(names.norm, nn.BatchNorm2d(outputs))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        return F.relu(self.get_submodule(self._norm)(self.conv(image)))


class AttentionRefinement(nn.Module):
    """Convolution whose channels are gated by their global mean."""

    def __init__(self, inputs: int, outputs: int, names: Names) -> None:
        super().__init__()
        self._names = names
        _attach(self, names.attention_unit, ConvUnit(inputs, outputs, 3, names))
        _attach(self, names.attention_conv, nn.Conv2d(outputs, outputs, 1, bias=False))
        _attach(self, names.attention_norm, nn.BatchNorm2d(outputs))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        features: Tensor = self.get_submodule(self._names.attention_unit)(image)
        gate = self.get_submodule(self._names.attention_conv)(features.mean(dim=(2, 3), keepdim=True))
        return features * torch.sigmoid(self.get_submodule(self._names.attention_norm)(gate))


class ContextPath(nn.Module):
    """ResNet trunk with attention refinement of its two deepest maps."""

    def __init__(self, backbone: Backbone, names: Names) -> None:
        super().__init__()
        self._trunk = names.trunk
        self.add_module(names.trunk, ResNet(BasicBlock, DEPTHS[backbone], names.trunk_classes))
        self.arm16 = AttentionRefinement(256, 128, names)
        self.arm32 = AttentionRefinement(512, 128, names)
        self.conv_head32 = ConvUnit(128, 128, 3, names)
        self.conv_head16 = ConvUnit(128, 128, 3, names)
        self.conv_avg = ConvUnit(512, 128, 1, names)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) to the trunk's 1/8 map (128), the refined 1/8 map (128) and the refined 1/16 map (128)."""
        trunk = cast(ResNet, self.get_submodule(self._trunk))
        _, eighth, sixteenth, last = trunk.stages(image)
        whole = self.conv_avg(last.mean(dim=(2, 3), keepdim=True))
        deep = self.arm32(last) + F.interpolate(whole, last.shape[2:], mode="nearest")
        deep = self.conv_head32(F.interpolate(deep, sixteenth.shape[2:], mode="nearest"))
        fine = self.arm16(sixteenth) + deep
        return eighth, self.conv_head16(F.interpolate(fine, eighth.shape[2:], mode="nearest")), deep


class FeatureFusion(nn.Module):
    """Joins two maps and re-weighs their channels."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._unit = names.fusion_unit
        self.add_module(names.fusion_unit, ConvUnit(256, 256, 1, names))
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two (B, 128, H, W) to (B, 256, H, W)."""
        features: Tensor = self.get_submodule(self._unit)(torch.cat([first, second], dim=1))
        gate = torch.sigmoid(self.conv2(F.relu(self.conv1(features.mean(dim=(2, 3), keepdim=True)))))
        return features * gate + features


class Head(nn.Module):
    """Class logits at the size of the input image."""

    def __init__(self, inputs: int, inner: int, names: Names) -> None:
        super().__init__()
        self._names = names
        self.add_module(names.head_unit, ConvUnit(inputs, inner, 3, names))
        self.add_module(names.head_conv, nn.Conv2d(inner, CLASSES, 1, bias=False))

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, in, h, w) to (B, 19, *size)."""
        hidden = self.get_submodule(self._names.head_unit)(features)
        logits = self.get_submodule(self._names.head_conv)(hidden)
        return F.interpolate(logits, size, mode="bilinear", align_corners=True)


class BiSeNet(nn.Module):
    """The parser.

    Args:
        naming: whose key names the module has.
        backbone: trunk; only `yakhyo` publishes `resnet34`.

    Raises:
        MetricError: unknown naming or backbone.
    """

    def __init__(self, naming: Naming = "zllrunning", backbone: Backbone = "resnet18") -> None:
        super().__init__()
        if naming not in NAMINGS or backbone not in DEPTHS:
            raise MetricError(
                f"expected a naming of {sorted(NAMINGS)} and a backbone of {sorted(DEPTHS)}, got {naming!r} and "
                f"{backbone!r}"
            )
        names = NAMINGS[naming]
        self._context = names.context
        self.add_module(names.context, ContextPath(backbone, names))
        self.ffm = FeatureFusion(names)
        self.conv_out = Head(256, 256, names)
        self.conv_out16 = Head(128, 64, names)
        self.conv_out32 = Head(128, 64, names)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the main and the two auxiliary heads, each (B, 19, H, W); `image` as for `forward`.

        Raises:
            MetricError: wrong layout.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise MetricError(f"the parser expects (batch, 3, height, width), got {tuple(image.shape)}")
        size = (image.shape[2], image.shape[3])
        eighth, fine, deep = self.get_submodule(self._context)(image)
        return self.conv_out(self.ffm(eighth, fine), size), self.conv_out16(fine, size), self.conv_out32(deep, size)

    def forward(self, image: Tensor) -> Tensor:
        """Main logits (B, 19, H, W).

        Args:
            image: float (B, 3, H, W), RGB in [0, 1] minus `MEAN` over `STD`; 512 x 512 is the trained size.
        """
        return self.heads(image)[0]
