"""Attention of the family: spatial transformers with reference features, on `scaled_dot_product_attention`.

Shapes: N rows (branch, member, frame), L tokens of a map, C channels, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn import functional as F

from lcp_bench.models.foreground import WHOLE, Foreground, WholeRows

SEQUENCES_PER_KERNEL = 32768
"""Largest batch of one attention call: CUDA attention kernels index the batch with a grid axis of 65535."""


class KeysValues(NamedTuple):
    """Projected keys and values, each (rows, tokens, inner width)."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Multi-head attention whose keys and values may be projected ahead of time.

    q, k, v have no bias, the output projection has one; heads is a number, the head width is inner / heads. The inner
    width is the queries' own unless given.
    """

    def __init__(
        self, query_dim: int, heads: int, *, context_dim: int | None = None, inner_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads, inner = heads, inner_dim or query_dim
        self.to_q = nn.Linear(query_dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim or query_dim, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, query_dim)])

    def project(self, tokens: Tensor) -> KeysValues:
        """Keys and values of (rows, tokens, context_dim)."""
        return KeysValues(self.to_k(tokens), self.to_v(tokens))

    def attend(self, queries: Tensor, context: KeysValues) -> Tensor:
        """Softmax attention without the output projection; queries (rows, tokens, inner)."""
        rows = queries.shape[0]
        if rows <= SEQUENCES_PER_KERNEL:
            return self._attend(queries, context.keys, context.values)
        pieces = [tensor.split(SEQUENCES_PER_KERNEL) for tensor in (queries, *context)]
        return torch.cat([self._attend(*piece) for piece in zip(*pieces, strict=True)])

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        split = [tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2) for tensor in (queries, keys, values)]
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    def forward(self, tokens: Tensor, context: KeysValues | None = None, cells: Foreground | None = None) -> Tensor:
        """Attend from `tokens` (rows, tokens, query_dim) to `context`, or to the tokens themselves.

        With `cells`, everything is projected, but only those tokens take part in the attention; the others' result
        means nothing.
        """
        queries, own = self.to_q(tokens), context or self.project(tokens)
        if cells is None:
            return self.to_out[0](self.attend(queries, own))
        gathered = KeysValues(*(cells.select(tensor) for tensor in own))
        return self.to_out[0](cells.refill(self.attend(cells.select(queries), gathered)))


class ReferenceContext(NamedTuple):
    """Reference features of one site, projected once per segment.

    Attributes:
        features: Keys and values of `period` reference rows; conditional row r reads row r mod period.
        plain_rows: How many leading rows (the unconditional half) do not read the reference.
    """

    features: KeysValues
    plain_rows: int


class TransformerBlock(nn.Module):
    """Self-attention with optional reference features, image cross-attention, feed-forward; pre-norm residuals."""

    def __init__(self, dim: int, heads: int, image_token_dim: int | None, image_scale: float = 1.0) -> None:
        super().__init__()
        self.image_scale = image_scale
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        if image_token_dim is not None:
            self.norm2 = nn.LayerNorm(dim)
            self.attn2 = Attention(dim, heads, context_dim=image_token_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, activation_fn="geglu")

    def self_attention(
        self, tokens: Tensor, reference: ReferenceContext | None, cells: Foreground | None = None
    ) -> Tensor:
        """attn1 on normed tokens (N, L, C); conditional rows see their own tokens followed by the reference's.

        Each half is evaluated once: the unconditional half never pays for the reference. For `cells` see
        `Attention.forward`.
        """
        if reference is None:
            return self.attn1(tokens, None, cells)
        queries, own = self.attn1.to_q(tokens), self.attn1.project(tokens)
        if cells is not None:
            queries, own = cells.select(queries), KeysValues(*(cells.select(tensor) for tensor in own))
        plain = reference.plain_rows
        context = KeysValues(
            *(_append_reference(mine[plain:], ref) for mine, ref in zip(own, reference.features, strict=True))
        )
        attended = self.attn1.attend(queries[plain:], context)
        if plain:
            first = self.attn1.attend(queries[:plain], KeysValues(own.keys[:plain], own.values[:plain]))
            attended = torch.cat([first, attended])
        return self.attn1.to_out[0](attended if cells is None else cells.refill(attended))

    def forward(
        self,
        x: Tensor,
        reference: ReferenceContext | None,
        image: KeysValues | None,
        bank: list[Tensor] | None,
        rows: WholeRows = WHOLE,
    ) -> Tensor:
        """Apply the block.

        Args:
            x: (N, L, C).
            reference: Reference features to read, or None.
            image: Projected image tokens of every row, or None where the block has no such attention.
            bank: If given, the normed input of the self-attention is appended (a reference network writing).
            rows: Which tokens are computed; the image attention always has all of them.
        """
        normed = self.norm1(x)
        if bank is not None:
            bank.append(normed)
        if reference is not None:
            seen = KeysValues(*(rows.keys(tensor) for tensor in reference.features))
            reference = ReferenceContext(seen, reference.plain_rows)
        x = x + rows.attend(normed, lambda tokens, cells: self.self_attention(tokens, reference, cells))
        if image is not None:
            x = torch.add(x, self.attn2(self.norm2(x), image), alpha=self.image_scale)
        return x + rows.feed(self.norm3(x), self.ff)


def _append_reference(own: Tensor, reference: Tensor) -> Tensor:
    """Concatenate (rows, L, C) with reference rows (period, L_r, C) on the token axis, reference row = row mod period.

    The repeated reference is a view, so the only copy is the concatenation itself.
    """
    period = reference.shape[0]
    grouped = own.unflatten(0, (-1, period))
    repeated = reference.expand(grouped.shape[0], *reference.shape)
    return torch.cat([grouped, repeated], dim=2).flatten(0, 1)


class SpatialTransformer(nn.Module):
    """A transformer block on the tokens of a map, between 1x1 convolutions, with a residual around it."""

    def __init__(
        self, channels: int, heads: int, groups: int, image_token_dim: int | None, image_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, image_token_dim, image_scale)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    @property
    def block(self) -> TransformerBlock:
        """The one transformer block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TransformerBlock)
        return block

    def forward(
        self,
        x: Tensor,
        reference: ReferenceContext | None = None,
        image: KeysValues | None = None,
        bank: list[Tensor] | None = None,
        rows: WholeRows = WHOLE,
    ) -> Tensor:
        """(N, C, h, w) to the same shape; see `TransformerBlock.forward`."""
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        tokens = self.block(tokens, reference, image, bank, rows)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))

    def cut(self) -> None:
        """Drop every module that `write_only` does not need."""
        del self.proj_out
        for name, _ in [*self.block.named_children()]:
            if name != "norm1":
                delattr(self.block, name)

    def write_only(self, x: Tensor) -> Tensor:
        """The normed input of the self-attention (N, L, C) and nothing after it."""
        return self.block.norm1(self.proj_in(self.norm(x)).flatten(2).transpose(1, 2))
