"""The models by name: what builds their networks, what assembles them, and where their public weights lie.

A new model is one entry here, one configuration in `conf/model`, and its name in `lcp_bench.model_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lcp_bench.errors import ConfigError
from lcp_bench.model_config import MODEL_SIZES, ModelConfig
from lcp_bench.models import echomimic, hallo, memo, memo_networks, mini
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.talking_head import TalkingHead
from lcp_bench.models.weights.layout_echomimic import EchoMimicFiles
from lcp_bench.models.weights.layout_memo import build_memo, describe_memo, load_memo
from lcp_bench.models.weights.layouts import describe_hallo, load_hallo
from lcp_bench.models.weights.report import WeightsReport

Modules = Mapping[str, nn.Module]


@dataclass(frozen=True, slots=True)
class PublicWeights:
    """The public files of a model.

    Attributes:
        describe: Folder to the files with their hashes, without loading them.
        load: (networks, folder, device, number format): give the networks their weights.
        build: Folder to the networks on the `meta` device, shaped as the folder's own configurations say; None where
            the size says it all.
    """

    describe: Callable[[Path], WeightsReport]
    load: Callable[[Modules, Path, torch.device, torch.dtype], WeightsReport]
    build: Callable[[Path], dict[str, nn.Module]] | None = None


@dataclass(frozen=True, slots=True)
class ModelKind:
    """How one model is made.

    Attributes:
        build_modules: (size, device) to its networks by component name, without weights on the `meta` device.
        denoising_config: Size to the shape of its denoising UNet.
        assemble: (networks, configuration) to the model around them.
        public: Its public weights; None where there are none (mini's are trained here).
        float32: Components that keep their weights in float32 whatever the number format, as upstream does.
    """

    build_modules: Callable[[str, str | torch.device], dict[str, nn.Module]]
    denoising_config: Callable[[str], UNetConfig]
    assemble: Callable[[Modules, ModelConfig], TalkingHead]
    public: PublicWeights | None = None
    float32: frozenset[str] = frozenset({"wav2vec", "whisper"})


def _hallo(modules: Modules, config: ModelConfig) -> TalkingHead:
    return hallo.Hallo(
        modules,
        frames=config.frames_per_segment,
        motion_frames=config.motion_frames,
        motion_scale=config.motion_scale,
        reference_dtype=getattr(torch, config.reference_dtype),
    )


def _mini(modules: Modules, config: ModelConfig) -> TalkingHead:
    return mini.Mini(
        modules,
        frames=config.frames_per_segment,
        motion_frames=config.motion_frames,
        motion_scale=config.motion_scale,
    )


def _memo(modules: Modules, config: ModelConfig) -> TalkingHead:
    return memo.Memo(
        modules,
        frames=config.frames_per_segment,
        motion_frames=config.motion_frames,
        emotion=config.emotion if isinstance(config.emotion, int) else None,
    )


def _echomimic(modules: Modules, config: ModelConfig) -> TalkingHead:
    if config.window is None:
        raise ConfigError(f"{config.name} moves windows over the whole video, model.window must not be null")
    return echomimic.EchoMimic(
        modules,
        frames=config.frames_per_segment,
        overlap=config.window.overlap,
        shift=config.window.shift,
        max_frames=config.window.max_frames,
        reference_dtype=getattr(torch, config.reference_dtype),
    )


def _echomimic_kind(name: str) -> ModelKind:
    files = EchoMimicFiles(name)
    return ModelKind(
        echomimic.build_modules,
        lambda size: echomimic.unet_configs(echomimic.size_of(size))[0],
        _echomimic,
        PublicWeights(files.describe, files.load, files.build),
    )


MODELS: Mapping[str, ModelKind] = {
    "hallo": ModelKind(
        hallo.build_modules,
        lambda size: hallo.unet_configs(hallo.size_of(size))[0],
        _hallo,
        PublicWeights(describe_hallo, load_hallo),
    ),
    "echomimic": _echomimic_kind("echomimic"),
    "echomimic_acc": _echomimic_kind("echomimic_acc"),
    "mini": ModelKind(
        lambda _size, device: mini.build_modules(device=device),
        lambda _size: mini.unet_configs()[0],
        _mini,
    ),
    "memo": ModelKind(
        memo_networks.build_modules,
        lambda size: memo_networks.unet_configs(memo_networks.size_of(size).unet)[0],
        _memo,
        PublicWeights(describe_memo, load_memo, build_memo),
        frozenset({"audio_proj", "emotion_classifier", "wav2vec"}),
    ),
}


def kind_of(name: str, size: str) -> ModelKind:
    """The model of that name, which must have that size.

    Raises:
        ConfigError: It has not.
    """
    if size not in MODEL_SIZES[name]:
        raise ConfigError(f"model.size of {name} must be one of {', '.join(MODEL_SIZES[name])}, got {size!r}")
    return MODELS[name]


def assemble(modules: Modules, config: ModelConfig) -> TalkingHead:
    """A configured model around its networks, by component name."""
    return kind_of(config.name, config.size).assemble(modules, config)
