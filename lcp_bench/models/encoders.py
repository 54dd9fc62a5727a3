"""The two published networks beside the UNets that libraries build: Stable Diffusion's autoencoder and wav2vec 2.0.

The libraries are imported when a network is built: they take longer to load than everything else together, and not
every model needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model


def autoencoder(widths: Sequence[int], layers: int, groups: int, image_size: int) -> nn.Module:
    """The autoencoder of Stable Diffusion, 4 latent channels.

    Args:
        widths: Of its levels.
        layers: Resnets per level.
        groups: Of its norms.
        image_size: Side of the pictures, px.
    """
    from diffusers import AutoencoderKL

    levels = len(widths)
    network: nn.Module = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        norm_num_groups=groups,
        latent_channels=4,
        sample_size=image_size,
    )
    return network


def speech_encoder(options: Mapping[str, Any]) -> Wav2Vec2Model:
    """wav2vec 2.0, base size but for `options` of its configuration."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    # eager attention: the encoder must give every hidden state, at any length, on any device
    return Wav2Vec2Model(Wav2Vec2Config(**{**options, "attn_implementation": "eager"}))
