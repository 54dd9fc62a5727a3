"""MEMO's audio modules: image and audio tokens attend to each other, both change, and the emotion sets their norms.

The audio tokens are a second stream beside the hidden map: what one module makes of them is the next one's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn import functional as F

from lcp_bench.models.attention import Attention, KeysValues
from lcp_bench.models.config import JointAudioConfig
from lcp_bench.models.foreground import WHOLE, WholeRows


class Style(NamedTuple):
    """What an emotion does to one norm: (rows, 1, width) each."""

    shift: Tensor
    scale: Tensor


class _LabelTable(nn.Module):
    """Holder of the emotions' embeddings under their published name."""

    def __init__(self, labels: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(labels, dim)


class EmotionNorm(nn.Module):
    """Layer norm whose shift and scale come from an emotion label; one label more than emotions stands for none."""

    def __init__(self, dim: int, labels: int) -> None:
        super().__init__()
        self.class_embedder = _LabelTable(labels, dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def style(self, labels: Tensor) -> Style:
        """Shift and scale of integer labels (rows,)."""
        shift, scale = self.adaLN_modulation(self.class_embedder.embedding_table(labels))[:, None].chunk(2, dim=-1)
        return Style(shift, scale)

    def forward(self, x: Tensor, style: Style) -> Tensor:
        """(rows, L, dim) to the same shape."""
        return torch.addcmul(style.shift, F.layer_norm(x, x.shape[-1:], eps=1e-5), 1 + style.scale)


class JointAttention(Attention):
    """One softmax attention over image tokens followed by audio tokens; each kind has its own projections.

    Args:
        dim: Width of the image tokens, and of the attention.
        heads: Number of heads.
        token_dim: Width of the audio tokens.
        final: Whether the audio tokens' result is dropped, as nothing follows.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, *, final: bool) -> None:
        super().__init__(dim, heads)
        self.add_q_proj = nn.Linear(token_dim, dim)
        self.add_k_proj = nn.Linear(token_dim, dim)
        self.add_v_proj = nn.Linear(token_dim, dim)
        if not final:
            self.to_add_out = nn.Linear(dim, token_dim)

    def join(self, image: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, L, dim) and (rows, T, token_dim) to the attended tokens of both, before the output projections."""
        queries = torch.cat([self.to_q(image), self.add_q_proj(audio)], dim=1)
        keys = torch.cat([self.to_k(image), self.add_k_proj(audio)], dim=1)
        values = torch.cat([self.to_v(image), self.add_v_proj(audio)], dim=1)
        attended = self.attend(queries, KeysValues(keys, values))
        return attended[:, : image.shape[1]], attended[:, image.shape[1] :]


class JointAudioBlock(nn.Module):
    """Self-attention of each stream, joint attention, feed-forward of each stream; pre-norm residuals."""

    STYLED = ("norm1", "norm2", "audio_norm1", "audio_norm2")
    norm1: EmotionNorm
    norm2: EmotionNorm
    audio_norm1: EmotionNorm
    audio_norm2: EmotionNorm

    def __init__(self, dim: int, heads: int, config: JointAudioConfig, *, final: bool) -> None:
        super().__init__()
        audio = config.token_dim
        for name in self.STYLED:
            setattr(self, name, EmotionNorm(audio if name.startswith("audio") else dim, config.labels))
        self.attn1 = Attention(dim, heads)
        self.audio_attn1 = Attention(audio, heads, inner_dim=dim)
        self.attn2 = JointAttention(dim, heads, audio, final=final)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, activation_fn="geglu")
        self.final = final
        if not final:
            self.audio_norm3 = nn.LayerNorm(audio)
            self.audio_ff = FeedForward(audio, activation_fn="geglu")

    def styles(self, labels: Tensor) -> tuple[Style, ...]:
        """What integer labels (rows,) do to each norm of `STYLED`."""
        return tuple(getattr(self, name).style(labels) for name in self.STYLED)

    def forward(
        self, x: Tensor, audio: Tensor, styles: Sequence[Style], rows: WholeRows = WHOLE
    ) -> tuple[Tensor, Tensor]:
        """Apply the block.

        Args:
            x: Image tokens (N, L, C).
            audio: Audio tokens (N, T, token_dim).
            styles: See `styles`, of every row.
            rows: Which image tokens the self-attention and the feed-forward compute; the joint attention always has
                all of them.

        Returns:
            Image tokens, and audio tokens; the last block's are those after its self-attention, for nobody.
        """
        first, second, audio_first, audio_second = styles
        x = x + rows.attend(self.norm1(x, first), lambda tokens, cells: self.attn1(tokens, None, cells))
        audio = audio + self.audio_attn1(self.audio_norm1(audio, audio_first))
        seen, heard = self.attn2.join(self.norm2(x, second), self.audio_norm2(audio, audio_second))
        x = x + self.attn2.to_out[0](seen)
        x = x + rows.feed(self.norm3(x), self.ff)
        if self.final:
            return x, audio
        audio = audio + self.attn2.to_add_out(heard)
        return x, audio + self.audio_ff(self.audio_norm3(audio))


class JointAudioTransformer(nn.Module):
    """A joint block between 1x1 convolutions, at an inner width of its own, with residuals around both streams."""

    def __init__(
        self, channels: int, inner: int, heads: int, groups: int, config: JointAudioConfig, *, final: bool
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList([JointAudioBlock(inner, heads, config, final=final)])
        self.proj_out = nn.Conv2d(inner, channels, 1)

    @property
    def block(self) -> JointAudioBlock:
        """The one transformer block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, JointAudioBlock)
        return block

    def forward(
        self, x: Tensor, audio: Tensor, styles: Sequence[Style], rows: WholeRows = WHOLE
    ) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) and (N, T, token_dim) to the same shapes; see `JointAudioBlock.forward`.

        As published, the audio stream is added once more here, so that it about doubles with every module.
        """
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        tokens, heard = self.block(tokens, audio, styles, rows)
        x = x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
        return x, heard + audio
