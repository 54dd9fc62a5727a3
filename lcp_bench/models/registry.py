"""The models by name: what builds their networks, and what assembles them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lcp_bench.errors import ConfigError
from lcp_bench.models import hallo, mini
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.talking_head import TalkingHead


@dataclass(frozen=True, slots=True)
class ModelKind:
    """How one model is made.

    Attributes:
        sizes: Names of its sizes.
        build_modules: (size, device) to its networks by component name, without weights on the `meta` device.
        denoising_config: Size to the shape of its denoising UNet.
    """

    sizes: tuple[str, ...]
    build_modules: Callable[[str, str | torch.device], dict[str, nn.Module]]
    denoising_config: Callable[[str], UNetConfig]


MODELS: Mapping[str, ModelKind] = {
    "hallo": ModelKind(
        tuple(hallo.SIZES),
        hallo.build_modules,
        lambda size: hallo.unet_configs(hallo.size_of(size))[0],
    ),
    "mini": ModelKind(
        ("full",),
        lambda _size, device: mini.build_modules(device=device),
        lambda _size: mini.unet_configs()[0],
    ),
}


def kind_of(name: str, size: str) -> ModelKind:
    """The model of that name, which must have that size.

    Raises:
        ConfigError: It has not.
    """
    kind = MODELS[name]
    if size not in kind.sizes:
        raise ConfigError(f"model.size of {name} must be one of {', '.join(kind.sizes)}, got {size!r}")
    return kind


def assemble(
    name: str,
    modules: Mapping[str, nn.Module],
    *,
    frames: int,
    motion_frames: int,
    motion_scale: Sequence[float],
    reference_dtype: torch.dtype,
) -> TalkingHead:
    """A model around its networks.

    Args:
        name: The model.
        modules: Its networks by component name.
        frames: Frames per segment.
        motion_frames: Frames carried over from the previous segment.
        motion_scale: Weights of the full, face and lip branches of the audio attention.
        reference_dtype: Type to which reference features are rounded, where the model does so.
    """
    if name == "mini":
        return mini.Mini(modules, frames=frames, motion_frames=motion_frames, motion_scale=motion_scale)
    return hallo.Hallo(
        modules,
        frames=frames,
        motion_frames=motion_frames,
        motion_scale=motion_scale,
        reference_dtype=reference_dtype,
    )
