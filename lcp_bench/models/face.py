"""Small portrait networks: the face locator and the identity projection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class FaceLocator(nn.Module):
    """A face-region image at pixel resolution to a feature map at latent resolution (1/8), added after `conv_in`."""

    def __init__(
        self, out_channels: int = 320, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64, 128)
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            blocks.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            blocks.append(nn.Conv2d(narrow, wide, 3, padding=1, stride=2))
        self.blocks = nn.ModuleList(blocks)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, region: Tensor) -> Tensor:
        """(rows, in_channels, H, W) in [0, 1] to (rows, out_channels, H/8, W/8)."""
        hidden = F.silu(self.conv_in(region))
        for block in self.blocks:
            hidden = F.silu(block(hidden))
        return self.conv_out(hidden)


class ImageProjection(nn.Module):
    """A face-identity embedding to a few tokens for cross-attention."""

    def __init__(self, token_dim: int = 768, embedding_dim: int = 512, tokens: int = 4) -> None:
        super().__init__()
        self.tokens, self.token_dim = tokens, token_dim
        self.proj = nn.Linear(embedding_dim, tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        """(rows, embedding_dim), not normalised, to (rows, tokens, token_dim)."""
        return self.norm(self.proj(embedding).unflatten(-1, (self.tokens, self.token_dim)))
