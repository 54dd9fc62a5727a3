"""Shapes of a UNet of the family, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology, unet_topology


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig:
    """Masked audio attention (Hallo): one cross-attention per branch, each under its own mask.

    Attributes:
        token_dim: Width of the audio tokens.
        branches: Names of the masked branches, in the order of the `attn2_K` weights and of `motion_scale`.
    """

    token_dim: int = 768
    branches: tuple[str, ...] = ("full", "face", "lip")


@dataclass(frozen=True, kw_only=True, slots=True)
class JointAudioConfig:
    """Joint attention of image and audio tokens under an emotion (MEMO); the audio tokens are a second stream.

    Attributes:
        token_dim: Width of the audio tokens.
        labels: Rows of the emotion tables: the emotions, and one more for none.
    """

    token_dim: int = 768
    labels: int = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TemporalConfig:
    """Temporal modules: softmax attention over frames, per pixel.

    Attributes:
        heads: Attention heads.
        attentions: Self-attentions per module.
        max_frames: Length of the position table; motion frames plus current frames must fit.
        norm_groups: Groups of the modules' norm; 32 in every published model, whatever its other norms have.
        in_plain_blocks: Whether blocks without spatial attention run their temporal modules. Hallo's checkpoint has
            them, but its inference never runs them.
        memory: Linear attention with a memory of earlier frames instead of softmax over motion and current frames.
    """

    heads: int = 8
    attentions: int = 2
    max_frames: int = 32
    norm_groups: int = 32
    in_plain_blocks: bool = True
    memory: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig:
    """One SD-1.5-shaped UNet of the family, two- or three-dimensional.

    Attributes:
        channels: Width of each level, finest first.
        layers_per_block: Layers of a down block; up blocks have one more.
        attention_levels: Which levels have spatial (and audio) attention.
        heads: Number of heads of every spatial attention (the upstream option `attention_head_dim` is this number).
        norm_groups: Groups of the resnet and spatial-transformer norms.
        norm_eps: Epsilon of the resnet and output norms.
        latent_channels: Channels of the latent.
        image_token_dim: Width of the cross-attended tokens: of the portrait (Hallo, MEMO) or of each frame's sound
            (EchoMimic); None if blocks have no such attention.
        image_scale: Factor on what that cross-attention adds, its bias included.
        audio: Audio modules, or None.
        temporal: Temporal modules, or None for a two-dimensional network.
        output_head: Whether `conv_norm_out` and `conv_out` exist.
        joint_audio: Joint audio modules, or None; instead of `audio`.
        pooled_norms: Whether the resnet and output norms pool over a sample's frames instead of each frame.
        writes_maps: For a reference network: also write the maps of blocks without attention, and end the last
            transformer where its features are.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    heads: int = 8
    norm_groups: int = 32
    norm_eps: float = 1e-5
    latent_channels: int = 4
    image_token_dim: int | None = 768
    image_scale: float = 1.0
    audio: AudioConfig | None = None
    temporal: TemporalConfig | None = None
    output_head: bool = True
    joint_audio: JointAudioConfig | None = None
    pooled_norms: bool = False
    writes_maps: bool = False

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention_levels):
            raise ConfigError(
                f"channels and attention_levels must be equally long, got {self.channels}, {self.attention_levels}"
            )

    @property
    def time_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels[0]

    @property
    def topology(self) -> Topology:
        """Names and order of the layers."""
        kinds = [("audio", self.audio or self.joint_audio), ("temporal", self.temporal)]
        return unet_topology(
            len(self.channels),
            self.layers_per_block,
            self.channels,
            attention_levels=self.attention_levels,
            attentions=("reference", *(name for name, module in kinds if module is not None)),
        )

    def audio_width(self, block: str, index: int, layer: int) -> int:
        """Inner width of an audio module, a slip of the original code that the checkpoint freezes.

        The first layer of a down block is as wide as the block's input; every layer of an up block is as wide as the
        next up block (the last one as itself).

        Args:
            block: `down`, `mid` or `up`.
            index: Block index.
            layer: Layer index within the block.
        """
        if block == "mid":
            return self.channels[-1]
        if block == "down":
            return self.channels[index - 1] if layer == 0 and index > 0 else self.channels[index]
        rising = self.channels[::-1]
        return rising[min(index + 1, len(rising) - 1)]


_UNSUPPORTED = {
    "center_input_sample": False,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "use_linear_projection": False,
    "unet_use_cross_frame_attention": False,
    "unet_use_temporal_attention": False,
    "use_inflated_groupnorm": True,
    "motion_module_decoder_only": False,
    "motion_module_mid_block": True,
    "motion_module_type": "Vanilla",
    "motion_module_resolutions": [1, 2, 4, 8],
    "stack_enable_blocks_depth": [0, 1, 2, 3],
}
_UNSUPPORTED_MOTION = {
    "num_transformer_block": 1,
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
}


def unet_config_from_diffusers(options: Mapping[str, Any], *, three_dimensional: bool) -> UNetConfig:
    """Translate a diffusers-style `config.json` (SD-1.5's, or Hallo's for the denoising UNet).

    Raises:
        ConfigError: An option has a value that this family does not implement; silently ignoring it would load weights
            into a network that computes something else.
    """
    motion = options.get("motion_module_kwargs", {})
    for given, only in ((options, _UNSUPPORTED), (motion, _UNSUPPORTED_MOTION)):
        for key, expected in only.items():
            if key in given and given[key] != expected:
                raise ConfigError(f"UNet option {key}={given[key]!r} is not implemented; this family has {expected!r}")
    audio = AudioConfig(token_dim=options["audio_attention_dim"]) if options.get("use_audio_module") else None
    temporal = None
    if options.get("use_motion_module"):
        temporal = TemporalConfig(
            heads=motion["num_attention_heads"],
            attentions=len(motion["attention_block_types"]),
            max_frames=motion["temporal_position_encoding_max_len"],
            in_plain_blocks=audio is None,
        )
    return UNetConfig(
        channels=tuple(options["block_out_channels"]),
        layers_per_block=options["layers_per_block"],
        attention_levels=tuple(kind.startswith("CrossAttn") for kind in options["down_block_types"]),
        heads=options["attention_head_dim"],
        norm_groups=options["norm_num_groups"],
        norm_eps=options["norm_eps"],
        latent_channels=options["in_channels"],
        image_token_dim=options["cross_attention_dim"],
        audio=audio if three_dimensional else None,
        temporal=temporal if three_dimensional else None,
        output_head=three_dimensional,
    )
