"""The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356) under the key names of OpenAI's own checkpoints.

EchoMimic reads the file that OpenAI published, and takes the state after the positions and after every block, none of
them normalised; the encoder of transformers has other key names and normalises its last state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEL_BANDS = 80
CONTEXT = 1500
"""States of one 30-second segment, 50 per second."""


def position_table(length: int, width: int) -> Tensor:
    """Fixed positions (length, width): sines in the first half of the channels, cosines in the second."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class WhisperAttention(nn.Module):
    """Self-attention; the keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, states, width) to the same shape."""
        projected = [layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in self._layers()]
        return self.out(F.scaled_dot_product_attention(*projected).transpose(1, 2).flatten(2))

    def _layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value


class WhisperBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = WhisperAttention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, states, width) to the same shape."""
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class WhisperEncoder(nn.Module):
    """Log-mel segments to the states of every depth.

    Args:
        width: Width of the states.
        heads: Attention heads.
        blocks: Transformer blocks.
        bands: Mel bands.
        context: States per segment; a segment has twice as many spectrogram columns.
    """

    positional_embedding: Tensor

    def __init__(
        self, width: int = 384, heads: int = 6, blocks: int = 4, bands: int = MEL_BANDS, context: int = CONTEXT
    ) -> None:
        super().__init__()
        self.context, self.bands = context, bands
        self.conv1 = nn.Conv1d(bands, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", position_table(context, width))
        self.blocks = nn.ModuleList(WhisperBlock(width, heads) for _ in range(blocks))
        self.ln_post = nn.LayerNorm(width)  # in the file, and unused: EchoMimic takes states before it

    @property
    def depths(self) -> int:
        """States per time step: after the positions, and after each block."""
        return len(self.blocks) + 1

    @property
    def width(self) -> int:
        """Width of a state."""
        return self.conv1.out_channels

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (rows, bands, 2 * context) to states (rows, context, depths, width)."""
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(log_mel)))).transpose(1, 2)
        states = [hidden + self.positional_embedding]
        for block in self.blocks:
            states.append(block(states[-1]))
        return torch.stack(states, dim=2)
