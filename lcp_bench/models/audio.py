"""Audio conditioning: token projection, and the masked audio attention of Hallo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn import functional as F

from lcp_bench.models.attention import Attention, KeysValues
from lcp_bench.models.foreground import WHOLE, WholeRows


class AudioProjection(nn.Module):
    """Windowed speech features of a frame to audio tokens.

    Args:
        window: Frames of context per frame.
        layers: Stacked encoder layers.
        channels: Width of the encoder.
        hidden: Width of the two hidden layers.
        tokens: Audio tokens per frame.
        token_dim: Width of a token.
    """

    def __init__(
        self, window: int = 5, layers: int = 12, channels: int = 768, hidden: int = 512, tokens: int = 32,
        token_dim: int = 768,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens, self.token_dim = tokens, token_dim
        self.proj1 = nn.Linear(window * layers * channels, hidden)
        self.proj2 = nn.Linear(hidden, hidden)
        self.proj3 = nn.Linear(hidden, tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, windows: Tensor) -> Tensor:
        """(..., window, layers, channels) to (..., tokens, token_dim)."""
        hidden = F.relu(self.proj1(windows.flatten(-3)))
        hidden = F.relu(self.proj2(hidden))
        return self.norm(self.proj3(hidden).unflatten(-1, (self.tokens, self.token_dim)))


class MaskedAudioBlock(nn.Module):
    """Self-attention, one masked audio cross-attention per branch, feed-forward.

    A mask multiplies after the output projection; the 1x1 convolution's bias behind it acts everywhere.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, branches: Sequence[str]) -> None:
        super().__init__()
        self.branches = tuple(branches)
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        for number, name in enumerate(self.branches):
            setattr(self, f"attn2_{number}", Attention(dim, heads, context_dim=token_dim))
            setattr(self, f"zero_conv_{name}", nn.Conv2d(dim, dim, 1))
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, activation_fn="geglu")

    def cross_attention(self, number: int) -> Attention:
        """The cross-attention of one branch."""
        module = getattr(self, f"attn2_{number}")
        assert isinstance(module, Attention)
        return module

    def forward(
        self, x: Tensor, audio: Sequence[KeysValues], masks: Tensor, scale: Sequence[float], rows: WholeRows = WHOLE
    ) -> Tensor:
        """Apply the block.

        Args:
            x: (N, L, C).
            audio: Projected audio tokens of every row, one per branch.
            masks: (branches, N or 1, L, 1) in [0, 1].
            scale: Weight of each branch (pose, face, lip).
            rows: Which tokens are computed; the cross-attentions always have all of them.
        """
        x = x + rows.attend(self.norm1(x), lambda tokens, cells: self.attn1(tokens, None, cells))
        normed = self.norm2(x)
        for number, name in enumerate(self.branches):
            masked = self.cross_attention(number)(normed, audio[number]) * masks[number]
            conv = getattr(self, f"zero_conv_{name}")
            x = torch.add(x, F.linear(masked, conv.weight.flatten(1), conv.bias), alpha=scale[number])
        return x + rows.feed(self.norm3(x), self.ff)


class AudioTransformer(nn.Module):
    """A masked audio block between 1x1 convolutions, at an inner width of its own, with a residual around it."""

    def __init__(
        self, channels: int, inner: int, heads: int, groups: int, token_dim: int, branches: Sequence[str]
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList([MaskedAudioBlock(inner, heads, token_dim, branches)])
        self.proj_out = nn.Conv2d(inner, channels, 1)

    @property
    def block(self) -> MaskedAudioBlock:
        """The one transformer block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, MaskedAudioBlock)
        return block

    def project_audio(self, tokens: Tensor) -> tuple[KeysValues, ...]:
        """Keys and values of audio tokens (rows, tokens, token_dim), one pair per branch."""
        block = self.block
        return tuple(block.cross_attention(number).project(tokens) for number in range(len(block.branches)))

    def forward(
        self, x: Tensor, audio: Sequence[KeysValues], masks: Tensor, scale: Sequence[float], rows: WholeRows = WHOLE
    ) -> Tensor:
        """(N, C, h, w) to the same shape; see `MaskedAudioBlock.forward`."""
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        tokens = self.block(tokens, audio, masks, scale, rows)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
