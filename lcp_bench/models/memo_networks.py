"""MEMO's networks: their sizes, what upstream's options say about their shapes, and how they are built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lcp_bench.errors import ConfigError
from lcp_bench.models.audio import AudioProjection
from lcp_bench.models.config import JointAudioConfig, TemporalConfig, UNetConfig
from lcp_bench.models.emotion import EMOTIONS, EmotionClassifier
from lcp_bench.models.encoders import autoencoder, speech_encoder
from lcp_bench.models.face import ImageProjection
from lcp_bench.models.sizes import TINY_WAV2VEC, find_size
from lcp_bench.models.unet import UNet

COMPONENTS = (
    "denoising_unet", "reference_unet", "image_proj", "audio_proj", "emotion_classifier", "vae", "wav2vec",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoSize:
    """Widths of one size of the model.

    Attributes:
        image_size: Side of the square frames, px; eight times the latent's side.
        unet: What differs from the full size in upstream's options of the UNets.
        audio_tokens: Audio tokens per frame.
        classifier_channels: Width of the emotion classifier.
        vae_channels: Widths of the autoencoder's levels.
        vae_layers: Resnets per autoencoder level.
        vae_groups: Groups of the autoencoder's norms.
        speech: Overrides of the speech encoder's configuration (empty: wav2vec2-base).
    """

    image_size: int
    unet: Mapping[str, Any]
    audio_tokens: int
    classifier_channels: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    speech: Mapping[str, object]


SIZES: dict[str, MemoSize] = {
    "full": MemoSize(
        image_size=512,
        unet={},
        audio_tokens=32,
        classifier_channels=2048,
        vae_channels=(128, 256, 512, 512),
        vae_layers=2,
        vae_groups=32,
        speech={},
    ),
    "tiny": MemoSize(
        image_size=64,
        unet={
            "block_out_channels": (32, 32, 64, 64),
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "audio_attention_dim": 32,
        },
        audio_tokens=8,
        classifier_channels=32,
        vae_channels=(32, 32, 32, 32),
        vae_layers=1,
        vae_groups=16,
        speech=TINY_WAV2VEC,
    ),
}
"""Real size, and a size for tests and demonstrations that has every structural feature of the real one."""


def size_of(name: str) -> MemoSize:
    """Look a size up; an unknown name is a `ConfigError`."""
    return find_size(SIZES, name)


_DENOISING_DEFAULTS: Mapping[str, Any] = {
    "in_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "audio_attention_dim": 768,
    "use_inflated_groupnorm": True,
    "emo_drop_rate": 0.3,
    "motion_module_kwargs": {
        "num_attention_heads": 8,
        "attention_block_types": ("Temporal_Self", "Temporal_Self"),
        "temporal_position_encoding_max_len": 32,
    },
}
_ONLY: Mapping[str, Any] = {
    "center_input_sample": False,
    "use_linear_projection": False,
    "unet_use_temporal_attention": False,
    "motion_module_resolutions": [1, 2, 4, 8],
}
_ONLY_MOTION: Mapping[str, Any] = {
    "num_transformer_block": 1,
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
}


def unet_configs(options: Mapping[str, Any] | None = None) -> tuple[UNetConfig, UNetConfig]:
    """Configurations of the denoising and the reference UNet.

    Args:
        options: Upstream's options of the denoising UNet; what they leave out is that of the full size.

    Raises:
        ConfigError: An option has a value that this family does not implement.
    """
    given = {**_DENOISING_DEFAULTS, **(options or {})}
    motion = given["motion_module_kwargs"]
    for found, only in ((given, _ONLY), (motion, _ONLY_MOTION)):
        for key, expected in only.items():
            if found.get(key, expected) != expected:
                raise ConfigError(f"MEMO's option {key}={found[key]!r} is not implemented; it has to be {expected!r}")
    shared: dict[str, Any] = {
        "channels": tuple(given["block_out_channels"]),
        "layers_per_block": given["layers_per_block"],
        "heads": given["attention_head_dim"],
        "norm_groups": given["norm_num_groups"],
        "norm_eps": given["norm_eps"],
        "latent_channels": given["in_channels"],
        "image_token_dim": given["cross_attention_dim"],
    }
    denoising = UNetConfig(
        **shared,
        joint_audio=JointAudioConfig(
            token_dim=given["audio_attention_dim"], labels=EMOTIONS + (given["emo_drop_rate"] > 0)
        ),
        temporal=TemporalConfig(
            heads=motion["num_attention_heads"],
            attentions=len(motion["attention_block_types"]),
            max_frames=motion["temporal_position_encoding_max_len"],
            memory=True,
        ),
        pooled_norms=not given["use_inflated_groupnorm"],
    )
    return denoising, UNetConfig(**shared, output_head=False, writes_maps=True)


def build_modules(
    size: str = "full", device: str | torch.device = "meta", options: Mapping[str, Any] | None = None
) -> dict[str, nn.Module]:
    """All networks of MEMO by component name, in eval mode, without weights when built on the `meta` device.

    Args:
        size: See `SIZES`.
        device: Where they are built.
        options: Upstream's options of the UNets where a checkpoint states its own, see `unet_configs`.
    """
    shape = size_of(size)
    denoising, reference = unet_configs({**shape.unet, **(options or {})})
    assert denoising.joint_audio is not None and denoising.image_token_dim is not None
    with torch.device(device):
        speech = speech_encoder(shape.speech)
        modules: dict[str, nn.Module] = {
            "denoising_unet": UNet(denoising),
            "reference_unet": UNet(reference),
            "image_proj": ImageProjection(denoising.image_token_dim),
            "audio_proj": AudioProjection(
                layers=speech.config.num_hidden_layers,
                channels=speech.config.hidden_size,
                tokens=shape.audio_tokens,
                token_dim=denoising.joint_audio.token_dim,
            ),
            "emotion_classifier": EmotionClassifier(channels=shape.classifier_channels),
            "vae": autoencoder(shape.vae_channels, shape.vae_layers, shape.vae_groups, shape.image_size),
            "wav2vec": speech,
        }
    return {name: modules[name].eval().requires_grad_(False) for name in COMPONENTS}
