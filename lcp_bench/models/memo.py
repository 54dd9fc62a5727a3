"""MEMO (Zheng et al. 2024, arXiv 2412.04448) as a configuration of the family.

Portrait and past frames pass once per segment through the reference UNet. The denoising UNet reads the portrait's
features, lets image and audio tokens attend to each other under an emotion, and looks along time through a memory of
the past frames that fades from segment to segment. Facts that are reproduced: conditional rows cycle through both
branches' reference rows, the reference UNet's rows cycle through both branches' image tokens, the unconditional branch
hears zeros but has a memory, and its emotion is "none".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lcp_bench.errors import ConfigError
from lcp_bench.models.audio import AudioProjection
from lcp_bench.models.conditions import Conditions, SiteConditions, split_bank
from lcp_bench.models.config import JointAudioConfig, TemporalConfig, UNetConfig
from lcp_bench.models.emotion import EMOTIONS, NO_EMOTION, EmotionClassifier
from lcp_bench.models.face import ImageProjection
from lcp_bench.models.joint_audio import JointAudioTransformer
from lcp_bench.models.memory import MemoryModule
from lcp_bench.models.unet import UNet

LATENT_SCALE = 0.18215
"""Scale of Stable Diffusion 1.x latents."""

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


def build_networks(device: str | torch.device = "meta") -> dict[str, nn.Module]:
    """MEMO's own networks at full size by component name, in eval mode, without weights on the `meta` device."""
    denoising, reference = unet_configs()
    with torch.device(device):
        modules: dict[str, nn.Module] = {
            "denoising_unet": UNet(denoising),
            "reference_unet": UNet(reference),
            "image_proj": ImageProjection(),
            "audio_proj": AudioProjection(),
            "emotion_classifier": EmotionClassifier(),
        }
    return {name: module.eval().requires_grad_(False) for name, module in modules.items()}


def write_reference(unet: UNet, reference_latents: Tensor, image_tokens: Tensor) -> dict[str, Tensor]:
    """Features of the portrait and the past frames by layer, plain layers included: (branches * images, L, C).

    Args:
        unet: The reference UNet.
        reference_latents: (1 + past frames, C, h, w).
        image_tokens: (branches, tokens, dim).
    """
    bank, _ = unet.write_features(reference_latents.repeat(image_tokens.shape[0], 1, 1, 1), image_tokens)
    return bank


def segment_conditions(
    unet: UNet,
    bank: Mapping[str, Tensor],
    image_tokens: Tensor,
    audio_tokens: Tensor,
    emotions: Tensor,
    previous: Conditions | None = None,
) -> Conditions:
    """Everything the denoising UNet needs for one segment.

    Args:
        unet: The denoising UNet.
        bank: See `write_reference`.
        image_tokens: (branches, tokens, dim).
        audio_tokens: (branches, frames, tokens, dim); see `branch_audio`.
        emotions: Integer label of each branch, (branches,); see `branch_emotions`.
        previous: Conditions of the segment before, whose memory goes on; None at the start of a clip.
    """
    branches, frames = audio_tokens.shape[:2]
    sites = unet.site_conditions(bank, image_tokens, None, branches=branches, frames=frames, row_rule="tiled")
    for name, (_, past) in split_bank(bank, branches).items():
        block, layer, _ = unet._module(name)
        site = sites.get(name)
        if site is None:
            module = block.motion_modules[layer]
            assert isinstance(module, MemoryModule)
            site = SiteConditions(memory=module.remember(past))
        else:
            hearing = block.audio_modules[layer]
            assert isinstance(hearing, JointAudioTransformer)
            styles = hearing.block.styles(emotions.repeat_interleave(frames))
            site = replace(site, styles=styles)
        if previous is not None:
            pairs = zip(site.memory, previous.sites[name].memory, strict=True)
            site = replace(site, memory=tuple(memory.after(before) for memory, before in pairs))
        sites[name] = site
    return Conditions(branches, frames, sites, audio_stream=audio_tokens.flatten(0, 1))


def branch_audio(tokens: Tensor, branches: int) -> Tensor:
    """Audio tokens (frames, tokens, dim) of each branch; the unconditional one hears zeros."""
    return torch.stack([*[torch.zeros_like(tokens)] * (branches - 1), tokens])


def branch_emotions(label: int, branches: int, device: torch.device | None = None) -> Tensor:
    """Labels of the branches (branches,); the unconditional one has none."""
    return torch.tensor([*[NO_EMOTION] * (branches - 1), label], device=device)
