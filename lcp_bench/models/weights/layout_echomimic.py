"""EchoMimic's public files: the repository `BadToBest/EchoMimic` and the Stable Diffusion autoencoder.

The denoising UNet lies in two files, its temporal modules in the second. Numbers of heads and groups do not show in
shapes: they are read from the configuration of the UNets and from the dimensions in Whisper's file, and everything
else that these say is held against the weights. Both variants differ in the denoising UNet's two files only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.models.config import UNetConfig, unet_config_from_diffusers
from lcp_bench.models.echomimic import build_modules, size_of, unet_configs
from lcp_bench.models.temporal import PositionTable
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.assign import assign_tensor
from lcp_bench.models.weights.layouts import HALLO_LAYOUT, ComponentSource, Layout, describe_layout, load_layout
from lcp_bench.models.weights.report import WeightsReport
from lcp_bench.models.weights.seeded import position_table
from lcp_bench.models.whisper import WhisperEncoder

FOLDER = "echomimic"
UNET_CONFIG = f"{FOLDER}/sd-image-variations-diffusers/unet/config.json"
SPEECH = f"{FOLDER}/audio_processor/whisper_tiny.pt"
STATED = ("attention_head_dim", "block_out_channels", "layers_per_block", "norm_eps", "norm_num_groups")
"""What the weights' shapes do not reveal, or not alone: the UNets' configuration has to say it."""
DIMENSIONS = {
    "n_mels": "bands",
    "n_audio_ctx": "context",
    "n_audio_state": "width",
    "n_audio_head": "heads",
    "n_audio_layer": "blocks",
}
"""Dimensions in Whisper's file and the encoder's arguments."""


def rename_whisper(key: str) -> str | None:
    """Our encoder's name of a key of OpenAI's file; the decoder is dropped (`None`).

    >>> rename_whisper("encoder.blocks.0.attn.query.weight"), rename_whisper("decoder.ln.weight")
    ('blocks.0.attn.query.weight', None)
    """
    return None if key.startswith("decoder.") else key.removeprefix("encoder.")


def layout_of(variant: str, tables: frozenset[str] = frozenset()) -> Layout:
    """Files of a variant, `""` or `"_acc"`; the position tables named in `tables` may be absent from them."""
    return {
        "denoising_unet": ComponentSource(
            file=f"{FOLDER}/denoising_unet{variant}.pth",
            more=(f"{FOLDER}/motion_module{variant}.pth",),
            optional=tables,
        ),
        "reference_unet": ComponentSource(file=f"{FOLDER}/reference_unet.pth"),
        "face_locator": ComponentSource(file=f"{FOLDER}/face_locator.pth"),
        "vae": HALLO_LAYOUT["vae"],
        "whisper": ComponentSource(file=SPEECH, rename=rename_whisper, dtype=torch.float32),
    }


class EchoMimicFiles:
    """The public files of one variant.

    Args:
        model: Its name, `echomimic` or `echomimic_acc`.
        size: Size of what the files do not say; tests use the tiny one.
    """

    def __init__(self, model: str, size: str = "full") -> None:
        self.model, self.size = model, size
        self.variant = model.removeprefix("echomimic")

    def describe(self, root: Path) -> WeightsReport:
        """The files with their hashes, without loading them; see `describe_layout`."""
        return describe_layout(self.model, layout_of(self.variant), root, (UNET_CONFIG,))

    def build(self, root: Path) -> dict[str, nn.Module]:
        """The networks on the `meta` device, shaped as the folder's own files say.

        Raises:
            WeightsError: Files are missing, unreadable, incomplete, or of something else.
        """
        self.describe(root)
        denoising, reference = _unet_configs(root / UNET_CONFIG, self.size)
        modules, heard = build_modules(self.size, "meta"), _dimensions(root / SPEECH)
        with torch.device("meta"):
            modules |= {
                "denoising_unet": _built(root / UNET_CONFIG, lambda: UNet(denoising)),
                "reference_unet": _built(root / UNET_CONFIG, lambda: UNet(reference)),
                "whisper": _built(root / SPEECH, lambda: WhisperEncoder(**heard)),
            }
        return {name: module.eval().requires_grad_(False) for name, module in modules.items()}

    def load(
        self, modules: Mapping[str, nn.Module], root: Path, device: torch.device, dtype: torch.dtype
    ) -> WeightsReport:
        """Load the files, strictly; see `load_layout`. Position tables that a file leaves out are computed."""
        unet = modules["denoising_unet"]
        tables = {name: module for name, module in unet.named_modules() if isinstance(module, PositionTable)}
        layout = layout_of(self.variant, frozenset(f"{name}.pe" for name in tables))
        report = load_layout(self.model, layout, modules, root, device, dtype, configs={UNET_CONFIG: {}})
        for name, table in tables.items():
            if not table.pe.any():
                computed = position_table(tuple(table.pe.shape)).to(device, dtype)
                assign_tensor(unet, f"{name}.pe", computed)
        return report


def _unet_configs(path: Path, size: str) -> tuple[UNetConfig, UNetConfig]:
    """Configurations of both UNets, with everything that the base network's file says."""
    options = _options(path)
    missing = [key for key in STATED if key not in options]
    if missing:
        raise WeightsError(
            f"{path} does not say {', '.join(missing)}, which the weights alone do not reveal; use the configuration "
            "of the base network that belongs to them"
        )
    own = unet_configs(size_of(size))
    blocks = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in own[0].attention_levels]
    given = {"in_channels": own[0].latent_channels, "cross_attention_dim": None, "down_block_types": blocks, **options}
    try:
        base = unet_config_from_diffusers(given, three_dimensional=True)
    except ConfigError as error:
        raise WeightsError(f"{path} is of another model: {error}") from error
    stated: dict[str, Any] = {
        "channels": base.channels,
        "layers_per_block": base.layers_per_block,
        "attention_levels": base.attention_levels,
        "heads": base.heads,
        "norm_groups": base.norm_groups,
        "norm_eps": base.norm_eps,
        "latent_channels": base.latent_channels,
    }
    return replace(own[0], **stated), replace(own[1], **stated)


def _built(path: Path, build: Callable[[], nn.Module]) -> nn.Module:
    """A network of the sizes in `path`, which may be such that there is none."""
    try:
        return build()
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is of another model: no network has the sizes it says ({error})") from error


def _options(path: Path) -> dict[str, Any]:
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: expected a JSON configuration, got {str(error)[:120]}; fetch it again") from error
    if not isinstance(options, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(options).__name__}; fetch it again")
    return options


def _dimensions(path: Path) -> dict[str, int]:
    """The encoder's arguments, from the `dims` of OpenAI's file; the tensors stay on the disk."""
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises whatever bad bytes lead to
        raise WeightsError(f"{path}: truncated, or not a torch file ({str(error)[:120]}); fetch it again") from error
    dims = content.get("dims") if isinstance(content, dict) else None
    wrong = [key for key in DIMENSIONS if not isinstance(dims, dict) or not isinstance(dims.get(key), int)]
    if wrong:
        raise WeightsError(
            f"{path} has no dims with whole numbers {', '.join(wrong)}; expected a Whisper file as OpenAI wrote it, "
            "which says its number of heads there"
        )
    assert isinstance(dims, dict)
    return {argument: dims[key] for key, argument in DIMENSIONS.items()}
