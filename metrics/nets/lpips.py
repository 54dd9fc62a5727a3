"""LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924) over AlexNet or VGG-16 features, without torchvision.

Key names are those of richzhang/PerceptualSimilarity and torchmetrics: `net.slice{1..5}.{layer}`, `lin{0..4}.model.1`;
the layer numbers are torchvision's, so its trunk files map key by key (`trunk_key`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metrics.errors import MetricError

Trunk = Literal["alex", "vgg"]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class TrunkPlan:
    """Layers in torchvision's numbering: (channels, kernel, stride, padding), "relu" or (kernel, stride) of a pool."""

    layers: tuple[tuple[int, ...] | str, ...]
    taps: tuple[int, ...]
    channels: tuple[int, ...]


def _vgg_layers() -> tuple[tuple[int, ...] | str, ...]:
    layers: list[tuple[int, ...] | str] = []
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if stage:
            layers.append((2, 2))
        for _ in range(depth):
            layers += [(width, 3, 1, 1), "relu"]
    return tuple(layers)


PLANS: dict[Trunk, TrunkPlan] = {
    "alex": TrunkPlan(
        (
            *((64, 11, 4, 2), "relu", (3, 2), (192, 5, 1, 2), "relu", (3, 2)),
            *((384, 3, 1, 1), "relu", (256, 3, 1, 1), "relu", (256, 3, 1, 1), "relu"),
        ),
        (1, 4, 7, 9, 11),
        (64, 192, 384, 256, 256),
    ),
    "vgg": TrunkPlan(_vgg_layers(), (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
}


def trunk_key(trunk: Trunk, key: str) -> str | None:
    """Key of this module for a key of torchvision's weight file (`features.{layer}...`); None for the classifier.

    >>> trunk_key("alex", "features.3.weight")
    'net.slice2.3.weight'
    """
    group, _, rest = key.partition(".")
    if group != "features":
        return None
    layer = int(rest.partition(".")[0])
    part = next(index for index, tap in enumerate(PLANS[trunk].taps) if layer <= tap)
    return f"net.slice{part + 1}.{rest}"


class Features(nn.Module):
    """The convolutional trunk, cut after each tap."""

    def __init__(self, plan: TrunkPlan) -> None:
        super().__init__()
        channels, start = 3, 0
        for part, tap in enumerate(plan.taps):
            piece = nn.Sequential()
            for layer in range(start, tap + 1):
                what = plan.layers[layer]
                piece.add_module(str(layer), _layer(what, channels))
                if len(what) == 4 and not isinstance(what, str):
                    channels = what[0]
            self.add_module(f"slice{part + 1}", piece)
            start = tap + 1

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to five maps of falling size."""
        maps: list[Tensor] = []
        for piece in self.children():
            image = piece(image)
            maps.append(image)
        return maps


def _layer(what: tuple[int, ...] | str, inputs: int) -> nn.Module:
    if isinstance(what, str):
        return nn.ReLU()
    if len(what) == 2:
        return nn.MaxPool2d(what[0], what[1])
    return nn.Conv2d(inputs, what[0], what[1], what[2], what[3])


class Head(nn.Module):
    """Channel weights of one layer; index 1 in the public file, where index 0 is a dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 1, H, W)."""
        weighted: Tensor = self.model(difference)
        return weighted


class Lpips(nn.Module):
    """Learned perceptual distance of image pairs; 0 for equal images, lower is closer, no upper bound."""

    def __init__(self, trunk: Trunk = "alex") -> None:
        super().__init__()
        if trunk not in PLANS:
            raise MetricError(f"expected an LPIPS trunk of {sorted(PLANS)}, got {trunk!r}")
        self.net = Features(PLANS[trunk])
        for index, channels in enumerate(PLANS[trunk].channels):
            self.add_module(f"lin{index}", Head(channels))

    def per_layer(self, first: Tensor, second: Tensor) -> Tensor:
        """Contribution of each of the five layers, (B, 5), for images (B, 3, H, W), RGB in [-1, 1].

        Raises:
            MetricError: the two batches are not RGB images of one size.
        """
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
            raise MetricError(
                f"LPIPS expects two equal batches (batch, 3, height, width), got {tuple(first.shape)} and "
                f"{tuple(second.shape)}; pairs must be aligned frame by frame"
            )
        shift = first.new_tensor(SHIFT)[:, None, None]
        scale = first.new_tensor(SCALE)[:, None, None]
        pairs = zip(self.net((first - shift) / scale), self.net((second - shift) / scale), strict=True)
        parts = [
            self.get_submodule(f"lin{index}")((_unit(one) - _unit(two)) ** 2).mean(dim=(1, 2, 3))
            for index, (one, two) in enumerate(pairs)
        ]
        return torch.stack(parts, dim=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance per pair, (B,), for images (B, 3, H, W), RGB in [-1, 1]."""
        return self.per_layer(first, second).sum(dim=1)


def _unit(features: Tensor) -> Tensor:
    """Channel vectors scaled to length one; the epsilon is inside the root, as in torchmetrics."""
    return features / (features.square().sum(dim=1, keepdim=True) + EPSILON).sqrt()
