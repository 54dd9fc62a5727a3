"""Linear attention over frames with a memory of earlier frames (MEMO, Zheng et al. 2024, arXiv 2412.04448).

Queries are softmaxed over features, keys over frames, so that a sequence of frames is summed up in one small matrix per
head and position. What past frames leave behind is such a matrix too: it fades by a constant factor per frame and is
carried from segment to segment. It depends on the reference network's features only, hence is built once per segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lcp_bench.models.foreground import Foreground
from lcp_bench.models.temporal import (
    Past,
    TemporalAttention,
    TemporalBlock,
    TemporalModule,
    TemporalTransformer,
    sequences_of,
)

DECAY = 0.9
"""What a frame's traces keep of their weight per frame that passes."""
_SMALLEST = 1e-10


class Memory(NamedTuple):
    """What past frames left in one attention.

    Attributes:
        values: Sums of outer products of keys and values, (branches, L, heads, d, d).
        weights: Sums of keys, (branches, L, heads, 1, d).
        frames: Past frames that it was last updated with.
    """

    values: Tensor
    weights: Tensor
    frames: int

    def after(self, previous: Memory | None) -> Memory:
        """This memory of the newest past frames on top of the faded one of earlier segments."""
        if previous is None:
            return self
        faded = DECAY**self.frames
        return Memory(faded * previous.values + self.values, faded * previous.weights + self.weights, self.frames)

    def at(self, foreground: Foreground) -> Memory:
        """The memory of the foreground's positions."""
        return Memory(foreground.select(self.values), foreground.select(self.weights), self.frames)


class MemoryAttention(TemporalAttention):
    """Linear attention over frames that also reads a memory; past frames get no position code."""

    def _heads(self, sequences: Tensor) -> Tensor:
        """(sequences, frames, C) to (sequences, heads, frames, d)."""
        return sequences.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def remember(self, past: Tensor) -> Memory:
        """Memory of normed past frames (branches, frames, L, C), oldest first.

        As published, the fading counts twice in the products, once in the sums of keys.
        """
        branches, frames, length = past.shape[:3]
        tokens = past.transpose(1, 2).flatten(0, 1)
        ages = torch.arange(frames - 1, -1, -1, device=past.device)
        fading = (DECAY**ages).to(past.dtype)[:, None]
        keys = fading * self._heads(self.to_k(tokens)).softmax(dim=-2)
        values = fading * self._heads(self.to_v(tokens))
        products, sums = keys.transpose(-2, -1) @ values, keys.sum(dim=-2, keepdim=True)
        return Memory(products.unflatten(0, (branches, length)), sums.unflatten(0, (branches, length)), frames)

    def recall(self, coded: Tensor, memory: Memory) -> Tensor:
        """(samples * L, frames, C) with position codes to the attention's result, same shape.

        Samples are members of the memory's branches; it serves them all without being copied.
        """
        queries = self._heads(self.to_q(coded)).softmax(dim=-1)
        queries = queries * queries.shape[-1] ** -0.5
        keys = self._heads(self.to_k(coded)).softmax(dim=-2)
        values = self._with_memory(keys.transpose(-2, -1) @ self._heads(self.to_v(coded)), memory.values)
        weights = self._with_memory(keys.sum(dim=-2, keepdim=True), memory.weights)
        attended = (queries @ values) / (queries @ weights.transpose(-2, -1)).clamp_min(_SMALLEST)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))

    @staticmethod
    def _with_memory(now: Tensor, memory: Tensor) -> Tensor:
        branches, length = memory.shape[:2]
        return (now.unflatten(0, (branches, -1, length)) + DECAY * memory[:, None]).flatten(0, 2)


class MemoryBlock(TemporalBlock):
    """A temporal block whose attentions read memories instead of frames put in front of the current ones."""

    attention_class = MemoryAttention

    def remember(self, past: Tensor) -> tuple[Memory, ...]:
        """Memories of projected past frames (branches, frames, L, C), one per attention."""
        found = []
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            assert isinstance(attention, MemoryAttention)
            found.append(attention.remember(norm(past)))
        return tuple(found)

    def attend_with(self, y: Tensor, memories: Sequence[Memory], added: list[Tensor] | None) -> Tensor:
        """As `TemporalBlock.attend`, for current frames (sequences, frames, C)."""
        for norm, attention, memory in zip(self.norms, self.attention_blocks, memories, strict=True):
            assert isinstance(attention, MemoryAttention)
            attended = attention.recall(norm(y) + attention.pos_encoder.pe[:, : y.shape[1]], memory)
            y = y + attended
            if added is not None:
                added.append(attended)
        return y


class MemoryTransformer(TemporalTransformer):
    """See `TemporalTransformer`; the past is one memory per attention."""

    block_class = MemoryBlock

    def remember(self, past: Tensor) -> tuple[Memory, ...]:
        """Memories of past frames' features (branches, frames, L, C), one per attention."""
        block = self.block
        assert isinstance(block, MemoryBlock)
        return block.remember(self.project_motion(past))

    def _attend(
        self, tokens: Tensor, frames: int, past: Past, added: list[Tensor] | None, foreground: Foreground | None = None
    ) -> Tensor:
        block = self.block
        assert isinstance(block, MemoryBlock) and isinstance(past, tuple)
        if foreground is not None and tokens.shape[1] != past[0].values.shape[1]:
            past = tuple(memory.at(foreground) for memory in past)
        return block.attend_with(sequences_of(tokens, frames, None), past, added)


class MemoryModule(TemporalModule):
    """Holder of a memory transformer under its published name."""

    transformer_class = MemoryTransformer

    def remember(self, past: Tensor) -> tuple[Memory, ...]:
        """See `MemoryTransformer.remember`."""
        transformer = self.temporal_transformer
        assert isinstance(transformer, MemoryTransformer)
        return transformer.remember(past)
