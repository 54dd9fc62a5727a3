"""R-Net of Deep3DFaceRecon: regresses 3DMM coefficients from an aligned face (Deng et al. 2019, arXiv 1903.08527).

Key names are those of sicxu/Deep3DFaceRecon_pytorch, entry `net_recon` of `epoch_20.pth`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metrics.errors import MetricError
from metrics.nets.resnet import Bottleneck, ResNet

HEADS = {"identity": 80, "expression": 64, "texture": 80, "angle": 3, "light": 27, "translation": 2, "depth": 1}
COEFFICIENTS = sum(HEADS.values())
EXPRESSION = slice(80, 144)
INPUT_SIDE = 224


class ReconNet(nn.Module):
    """ResNet-50 with one 1x1 convolution per group of coefficients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(Bottleneck, (3, 4, 6, 3))
        self.final_layers = nn.ModuleList(nn.Conv2d(2048, size, 1) for size in HEADS.values())

    def forward(self, faces: Tensor) -> Tensor:
        """Coefficients of aligned faces.

        Args:
            faces: float (B, 3, 224, 224), RGB in [0, 1] without mean or scale, aligned by `metrics.align`.

        Returns:
            (B, 257): identity 80, expression 64 (`EXPRESSION`), texture 80, angles 3, light 27, translation 3.

        Raises:
            MetricError: wrong layout.
        """
        if faces.ndim != 4 or faces.shape[1] != 3:
            raise MetricError(f"R-Net expects (batch, 3, 224, 224), got {tuple(faces.shape)}")
        pooled = self.backbone(faces).mean(dim=(2, 3), keepdim=True)
        return torch.cat([head(pooled).flatten(1) for head in self.final_layers], dim=1)
