"""Convolutional layers of the family. All maps are (rows, channels, height, width); a row is one frame of one branch.

Module attribute names are the published checkpoints' key names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pooled_norm(norm: nn.GroupNorm, x: Tensor, frames: int) -> Tensor:
    """A group norm whose statistics are those of `frames` consecutive rows together; one frame is the plain norm."""
    if frames == 1:
        return norm(x)
    samples = x.unflatten(0, (-1, frames)).transpose(1, 2)
    return norm(samples).transpose(1, 2).flatten(0, 1)


class ResnetBlock(nn.Module):
    """Residual block with a time embedding, per frame: norm, SiLU, conv, + time, norm, SiLU, conv, + shortcut."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int, *, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor, time_activation: Tensor, pooled: int = 1) -> Tensor:
        """Apply the block.

        Args:
            x: (rows, channels_in, height, width).
            time_activation: SiLU of the time embedding, (rows, time_dim).
            pooled: Consecutive rows that share the norms' statistics.
        """
        hidden = self.conv1(F.silu(pooled_norm(self.norm1, x, pooled)))
        hidden = hidden + self.time_emb_proj(time_activation)[:, :, None, None]
        hidden = self.conv2(F.silu(pooled_norm(self.norm2, hidden, pooled)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halve the resolution by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels, h, w) to (rows, channels, ceil(h/2), ceil(w/2))."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour to a given size (twice the input unless the latent was odd), then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(rows, channels, h, w) to (rows, channels, *size)."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class TimeEmbedding(nn.Module):
    """Sinusoid (cosines first, frequencies 10000^(-i/half)) and a two-layer MLP."""

    def __init__(self, width: int, time_dim: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, time_dim)
        self.linear_2 = nn.Linear(time_dim, time_dim)

    def forward(self, timesteps: Tensor) -> Tensor:
        """(steps,) timesteps, possibly fractional, to (steps, time_dim)."""
        half = self.width // 2
        exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
        angles = timesteps.to(torch.float32)[:, None] * torch.exp(exponents * -9.210340371976184)[None]
        code = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(code)))
