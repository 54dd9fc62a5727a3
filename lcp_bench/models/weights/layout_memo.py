"""MEMO's public files: the repository `memoavatar/memo`, the Stable Diffusion autoencoder and wav2vec2.

The UNets are built as their own configuration says, because shapes do not reveal numbers of heads and groups; what it
says is held against the weights' shapes, and what is not implemented is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.models.audio import AudioProjection
from lcp_bench.models.emotion import EmotionClassifier
from lcp_bench.models.face import ImageProjection
from lcp_bench.models.memo_networks import build_modules
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.layouts import HALLO_LAYOUT, ComponentSource, Layout, describe_layout, load_layout
from lcp_bench.models.weights.report import WeightsReport

FOLDERS = {
    "denoising_unet": "memo/diffusion_net",
    "reference_unet": "memo/reference_net",
    "image_proj": "memo/image_proj",
    "audio_proj": "memo/audio_proj",
    "emotion_classifier": "memo/misc/audio_emotion_classifier",
}
"""Component to its folder below the weights folder, each with a configuration and one weight file."""
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
IN_FLOAT32 = ("audio_proj", "emotion_classifier")

MEMO_LAYOUT: Layout = {
    **{
        name: ComponentSource(file=f"{folder}/{WEIGHTS}", dtype=torch.float32 if name in IN_FLOAT32 else None)
        for name, folder in FOLDERS.items()
    },
    "vae": HALLO_LAYOUT["vae"],
    "wav2vec": HALLO_LAYOUT["wav2vec"],
}
CONFIG_FILES = tuple(f"{folder}/{CONFIG}" for folder in FOLDERS.values())

STATED = (
    "attention_head_dim", "block_out_channels", "layers_per_block", "motion_module_kwargs", "norm_eps",
    "norm_num_groups", "use_inflated_groupnorm",
)  # fmt: skip
STATED_MOTION = ("attention_block_types", "num_attention_heads", "temporal_position_encoding_max_len")
"""What the weights' shapes do not reveal, or not alone: the configuration has to say it."""


def describe_memo(root: Path) -> WeightsReport:
    """MEMO's public files with their hashes, without loading them; see `describe_layout`."""
    return describe_layout("memo", MEMO_LAYOUT, root, CONFIG_FILES)


def build_memo(root: Path, size: str = "full") -> dict[str, nn.Module]:
    """MEMO's networks on the `meta` device, the UNets shaped as the folder's own configuration says.

    Args:
        root: The weights folder.
        size: Size of the other networks.

    Raises:
        WeightsError: Files are missing, or the configuration is unreadable, incomplete or of something else.
    """
    describe_memo(root)
    path = root / FOLDERS["denoising_unet"] / CONFIG
    options = _options(path)
    try:
        return build_modules(size, "meta", options)
    except ConfigError as error:
        raise WeightsError(f"{path} is of another model: {error}") from error


def load_memo(modules: Mapping[str, nn.Module], root: Path, device: torch.device, dtype: torch.dtype) -> WeightsReport:
    """Load MEMO's public files, strictly; see `load_layout`.

    The audio projection and the emotion classifier stay in float32, as upstream runs them, and so does wav2vec2.
    """
    return load_layout("memo", MEMO_LAYOUT, modules, root, device, dtype, configs=_expected(modules))


def _options(path: Path) -> dict[str, Any]:
    """The denoising UNet's options, with everything in them that its weights cannot tell."""
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: expected a JSON configuration, got {str(error)[:120]}; fetch it again") from error
    if not isinstance(options, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(options).__name__}; fetch it again")
    motion = options.get("motion_module_kwargs")
    missing = [key for key in STATED if key not in options]
    missing += [key for key in STATED_MOTION if not isinstance(motion, dict) or key not in motion]
    if missing:
        raise WeightsError(
            f"{path} does not say {', '.join(missing)}, which the weights alone do not reveal; use the configuration "
            "that belongs to them"
        )
    return options


def _expected(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, object]]:
    """Configuration file to the values that the networks are built with; a file may say less."""
    denoising, image, audio, classifier = (
        modules[name] for name in ("denoising_unet", "image_proj", "audio_proj", "emotion_classifier")
    )
    assert isinstance(denoising, UNet) and isinstance(image, ImageProjection)
    assert isinstance(audio, AudioProjection) and isinstance(classifier, EmotionClassifier)
    shape = denoising.config
    shared: dict[str, object] = {
        "block_out_channels": shape.channels,
        "layers_per_block": shape.layers_per_block,
        "attention_head_dim": shape.heads,
        "norm_num_groups": shape.norm_groups,
        "norm_eps": shape.norm_eps,
        "in_channels": shape.latent_channels,
        "cross_attention_dim": shape.image_token_dim,
        "center_input_sample": False,
        "use_linear_projection": False,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
    }
    linears = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    places = dict(zip(FOLDERS, CONFIG_FILES, strict=True))
    return {
        places["denoising_unet"]: shared,
        places["reference_unet"]: shared,
        places["image_proj"]: {
            "cross_attention_dim": image.token_dim,
            "clip_embeddings_dim": image.proj.in_features,
            "clip_extra_context_tokens": image.tokens,
        },
        places["audio_proj"]: {
            "intermediate_dim": audio.proj1.out_features,
            "output_dim": audio.token_dim,
            "context_tokens": audio.tokens,
        },
        places["emotion_classifier"]: {
            "num_classifier_layers": len(linears),
            "num_classifier_channels": linears[0].out_features,
        },
    }
