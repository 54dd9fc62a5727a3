"""Temporal modules: self-attention over frames at every pixel (AnimateDiff's, with Hallo's motion frames in front)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, TypeAlias, Union

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from lcp_bench.models.attention import Attention, KeysValues
from lcp_bench.models.config import TemporalConfig
from lcp_bench.models.foreground import WHOLE, Foreground, KeptRows, MergedRows, WholeRows

if TYPE_CHECKING:
    from lcp_bench.models.memory import Memory

Past: TypeAlias = Union[Tensor, "tuple[Memory, ...]", None]
"""What a module knows of earlier frames: projected motion frames (samples, frames, L, C), memories, or nothing."""


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

    attention_class: ClassVar[type[TemporalAttention]] = TemporalAttention

    def __init__(self, dim: int, heads: int, attentions: int, max_frames: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(self.attention_class(dim, heads, max_frames) for _ in range(attentions))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(attentions))
        self.ff = FeedForward(dim, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(dim)

    def attend(self, y: Tensor, frames: int, added: list[Tensor] | None = None) -> Tensor:
        """The attentions: (sequences, motion + frames, C) to (sequences, frames, C).

        Motion frames are dropped as soon as nothing reads them: in the last attention they only serve as keys.

        Args:
            y: Motion frames, then current frames.
            frames: Current frames.
            added: If given, what each attention adds to the current frames is appended.
        """
        last = len(self.attention_blocks) - 1
        for number, (norm, attention) in enumerate(zip(self.norms, self.attention_blocks, strict=True)):
            assert isinstance(attention, TemporalAttention)
            coded = norm(y) + attention.pos_encoder.pe[:, : y.shape[1]]
            queries = coded
            if number == last:
                queries, y = coded[:, -frames:], y[:, -frames:]
            context: KeysValues = attention.project(coded)
            attended = attention.to_out[0](attention.attend(attention.to_q(queries), context))
            y = y + attended
            if added is not None:
                added.append(attended[:, -frames:])
        return y


class TemporalTransformer(nn.Module):
    """Group norm per frame, projection, temporal block, projection, residual."""

    block_class: ClassVar[type[TemporalBlock]] = TemporalBlock

    def __init__(self, channels: int, config: TemporalConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        block = self.block_class(channels, config.heads, config.attentions, config.max_frames)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels)

    def project_motion(self, motion: Tensor) -> Tensor:
        """Motion frames (branches, frames, L, C) as the block sees them; constant over a segment."""
        normed = self.norm(motion.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        return self.proj_in(normed).unflatten(0, motion.shape[:2])

    @property
    def block(self) -> TemporalBlock:
        """The one temporal block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TemporalBlock)
        return block

    def forward(self, x: Tensor, frames: int, past: Past, rows: WholeRows = WHOLE) -> Tensor:
        """Apply the module.

        Args:
            x: (samples * frames, C, h, w), frame index fastest.
            frames: Current frames per sample.
            past: What the module knows of earlier frames.
            rows: Which cells are computed and kept.
        """
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        if isinstance(rows, MergedRows) and not rows.everything:
            y = self._merged(tokens, frames, past, rows)
        else:
            y = self._whole(tokens, frames, past, rows)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])

    def _attend(
        self, tokens: Tensor, frames: int, past: Past, added: list[Tensor] | None, foreground: Foreground | None = None
    ) -> Tensor:
        """The block's attentions: (rows, L, C), of all cells or the foreground's, to (samples * L, frames, C)."""
        assert not isinstance(past, tuple)
        if past is not None and foreground is not None and tokens.shape[1] != past.shape[2]:
            past = foreground.select(past, dim=2)
        return self.block.attend(sequences_of(tokens, frames, past), frames, added)

    def _whole(self, tokens: Tensor, frames: int, past: Past, rows: WholeRows) -> Tensor:
        """Every cell: (rows, L, C) to what the module adds."""
        block, length = self.block, tokens.shape[1]
        added: list[Tensor] | None = [] if isinstance(rows, KeptRows) else None
        y = self._attend(tokens, frames, past, added)
        fed = block.ff(block.ff_norm(y))
        if isinstance(rows, KeptRows):
            assert added is not None
            rows.kept("attention", _rows(sum(added[1:], added[0]), length))
            rows.kept("feed_forward", _rows(fed, length))
        elif isinstance(rows, MergedRows):
            rows.read_all()
        return _rows(self.proj_out(y + fed), length)

    def _merged(self, tokens: Tensor, frames: int, past: Past, rows: MergedRows) -> Tensor:
        """Foreground cells as `_whole`, the others with what the key step's attentions added to them, in sum.

        A background cell's first attention serves its second one only, and its motion frames serve nothing else: the
        sum over the current frames is all that is missing.
        """
        block = self.block

        def attend(current: Tensor, _: object) -> Tensor:
            added: list[Tensor] = []
            self._attend(current, frames, past, added, rows.foreground)
            return _rows(sum(added[1:], added[0]), current.shape[1])

        y = tokens + rows.attend(tokens, attend)
        return self.proj_out(y + rows.feed(block.ff_norm(y), block.ff))


class TemporalModule(nn.Module):
    """Holder of a temporal transformer under its published name."""

    transformer_class: ClassVar[type[TemporalTransformer]] = TemporalTransformer

    def __init__(self, channels: int, config: TemporalConfig) -> None:
        super().__init__()
        self.temporal_transformer = self.transformer_class(channels, config)

    def project_motion(self, motion: Tensor) -> Tensor:
        """See `TemporalTransformer.project_motion`."""
        return self.temporal_transformer.project_motion(motion)

    def forward(self, x: Tensor, frames: int, past: Past, rows: WholeRows = WHOLE) -> Tensor:
        """See `TemporalTransformer.forward`."""
        return self.temporal_transformer(x, frames, past, rows)


def sequences_of(tokens: Tensor, frames: int, motion: Tensor | None) -> Tensor:
    """(samples * frames, L, C) to (samples * L, motion + frames, C)."""
    grouped = tokens.unflatten(0, (-1, frames))
    if motion is not None:
        grouped = torch.cat([motion, grouped], dim=1)
    return grouped.transpose(1, 2).flatten(0, 1)


def _rows(sequences: Tensor, length: int) -> Tensor:
    """(samples * L, frames, C) to (samples * frames, L, C), L being `length`."""
    return sequences.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1)
