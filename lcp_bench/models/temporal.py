"""Temporal modules: self-attention over frames at every pixel (AnimateDiff's, with Hallo's motion frames in front)."""

from __future__ import annotations

import math

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from lcp_bench.models.attention import Attention, KeysValues

NORM_GROUPS = 32
"""Fixed in every published model, whatever `norm_num_groups` says."""


class PositionTable(nn.Module):
    """Sinusoidal frame positions, sines at even and cosines at odd channels; a buffer that checkpoints contain."""

    pe: Tensor

    def __init__(self, dim: int, max_frames: int) -> None:
        super().__init__()
        position = torch.arange(max_frames, dtype=torch.float32)[:, None]
        frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
        table = torch.zeros(1, max_frames, dim)
        table[0, :, 0::2] = torch.sin(position * frequency)
        table[0, :, 1::2] = torch.cos(position * frequency)
        self.register_buffer("pe", table)


class TemporalAttention(Attention):
    """Attention over frames with a position table."""

    def __init__(self, dim: int, heads: int, max_frames: int) -> None:
        super().__init__(dim, heads)
        self.pos_encoder = PositionTable(dim, max_frames)


class TemporalBlock(nn.Module):
    """Temporal self-attentions and a feed-forward, pre-norm residuals."""

    def __init__(self, dim: int, heads: int, attentions: int, max_frames: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(dim, heads, max_frames) for _ in range(attentions))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(attentions))
        self.ff = FeedForward(dim, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(dim)

    def forward(self, y: Tensor, frames: int) -> Tensor:
        """(sequences, motion + frames, C) to (sequences, frames, C).

        Motion frames are dropped as soon as nothing reads them: in the last attention they only serve as keys.
        """
        last = len(self.attention_blocks) - 1
        for number, (norm, attention) in enumerate(zip(self.norms, self.attention_blocks, strict=True)):
            assert isinstance(attention, TemporalAttention)
            coded = norm(y) + attention.pos_encoder.pe[:, : y.shape[1]]
            queries = coded
            if number == last:
                queries, y = coded[:, -frames:], y[:, -frames:]
            context: KeysValues = attention.project(coded)
            y = y + attention.to_out[0](attention.attend(attention.to_q(queries), context))
        return y + self.ff(self.ff_norm(y))


class TemporalTransformer(nn.Module):
    """Group norm per frame, projection, temporal block, projection, residual."""

    def __init__(self, channels: int, heads: int, attentions: int, max_frames: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, heads, attentions, max_frames)])
        self.proj_out = nn.Linear(channels, channels)

    def project_motion(self, motion: Tensor) -> Tensor:
        """Motion frames (branches, frames, L, C) as the block sees them; constant over a segment."""
        normed = self.norm(motion.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        return self.proj_in(normed).unflatten(0, motion.shape[:2])

    def forward(self, x: Tensor, frames: int, motion: Tensor | None) -> Tensor:
        """Apply the module.

        Args:
            x: (samples * frames, C, h, w), frame index fastest.
            frames: Current frames per sample.
            motion: Projected motion frames (samples, motion frames, L, C), or None.
        """
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2)).unflatten(0, (-1, frames))
        if motion is not None:
            tokens = torch.cat([motion, tokens], dim=1)
        samples, _, length, _ = tokens.shape
        sequences = self.transformer_blocks[0](tokens.transpose(1, 2).flatten(0, 1), frames)
        out = self.proj_out(sequences).unflatten(0, (samples, length))
        return x + out.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, x.shape[2:])


class TemporalModule(nn.Module):
    """Holder of a temporal transformer under its published name."""

    def __init__(self, channels: int, heads: int, attentions: int, max_frames: int) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, heads, attentions, max_frames)

    def project_motion(self, motion: Tensor) -> Tensor:
        """See `TemporalTransformer.project_motion`."""
        return self.temporal_transformer.project_motion(motion)

    def forward(self, x: Tensor, frames: int, motion: Tensor | None) -> Tensor:
        """See `TemporalTransformer.forward`."""
        return self.temporal_transformer(x, frames, motion)
