"""Work of a denoising step, in multiply-accumulates, counted two ways that are never mixed.

`executed`: our own forward passes traced on the meta device by torch's flop counter (convolutions, linear layers and
batched matrix products; norms, activations and softmax are not counted). `as published`: the work of the original code
for the same step by a closed formula per layer; it evaluates the unconditional half's self-attention twice and repeats
constant projections at every step, and the published totals of arXiv 2509.00052 count exactly that. Those of MEMO leave
out what happens inside its fused attention kernels (`uncounted_layer_macs`); with it, it is `as coded`.

TFLOP is 1e12 FLOP, and a multiply-accumulate is two FLOP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lcp_bench.accel.scope import Scope
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.topology import LayerSpec

if TYPE_CHECKING:
    from lcp_bench.accel.dfa import ForegroundRule

FLOP_PER_MAC = 2


def count_macs(evaluate: Callable[[], object]) -> int:
    """Multiply-accumulates of a call; meta tensors cost nothing to trace."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        evaluate()
    return counter.get_total_flops() // FLOP_PER_MAC


def count_parameters(module: nn.Module) -> int:
    """Number of weights, buffers excluded."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """The batch of one denoising step.

    Attributes:
        branches: Guidance branches.
        frames: Frames per sample.
        motion_frames: Frames in front of them in the temporal modules.
        latent_size: Side of the square latent.
        image_tokens: Image tokens per frame.
        audio_tokens: Audio tokens per frame.
        foreground_ratio: Foreground's share of every map, for scopes that restrict attention to it.
    """

    branches: int
    frames: int
    motion_frames: int
    latent_size: int
    image_tokens: int
    audio_tokens: int
    foreground_ratio: float = 1.0

    @property
    def rows(self) -> int:
        """Frames of all branches."""
        return self.branches * self.frames


@dataclass(frozen=True, slots=True)
class AttentionTokens:
    """How many tokens the self-attentions of a layer handle, where a scope changes that.

    Attributes:
        all: Tokens of the map.
        foreground: Its foreground, as counted.
        rule: Which attentions are restricted to it; None is none.
        parts: Which of this layer's attentions are.
        reads_reference: Whether the spatial attention reads the reference.
    """

    all: int
    foreground: int
    rule: ForegroundRule | None = None
    parts: tuple[str, ...] = ()
    reads_reference: bool = True

    def core(self, part: str) -> int:
        """Tokens of the attention proper."""
        return self.foreground if part in self.parts else self.all

    def projected(self, part: str) -> int:
        """Tokens that are projected to queries, keys and values, and from the result."""
        return self.core(part) if self.rule and self.rule.projections else self.all

    def fed(self, part: str) -> int:
        """Tokens of the feed-forward."""
        return self.core(part) if self.rule and self.rule.feed_forward else self.all


def foreground_tokens(ratio: float, tokens: int) -> int:
    """Cells of a map that a plan counts as foreground."""
    return round(ratio * tokens)


def published_scope_macs(config: UNetConfig, shape: StepShape, scope: Scope) -> int:
    """Work of the original code for the layers of a scope."""
    layers = config.topology.layers
    return sum(published_layer_macs(config, shape, layer, scope) for layer in layers if layer.name in scope.evaluated)


def uncounted_scope_macs(config: UNetConfig, shape: StepShape, scope: Scope) -> int:
    """What the published totals leave out of a scope's work; see `uncounted_layer_macs`."""
    layers = config.topology.layers
    return sum(uncounted_layer_macs(config, shape, layer, scope) for layer in layers if layer.name in scope.evaluated)


def attention_tokens(shape: StepShape, layer: LayerSpec, scope: Scope | None) -> AttentionTokens:
    """What a scope changes in a layer."""
    tokens = (shape.latent_size // 2**layer.level) ** 2
    rule = None if scope is None else scope.foreground
    return AttentionTokens(
        tokens,
        foreground_tokens(shape.foreground_ratio, tokens),
        rule,
        () if rule is None else rule.parts_of(layer),
        scope is None or layer.name not in scope.without_reference,
    )


def published_layer_macs(config: UNetConfig, shape: StepShape, layer: LayerSpec, scope: Scope | None = None) -> int:
    """Work of the original code for one layer as the published totals count it; a scope changes its attentions."""
    return coded_layer_macs(config, shape, layer, scope) - uncounted_layer_macs(config, shape, layer, scope)


def uncounted_layer_macs(config: UNetConfig, shape: StepShape, layer: LayerSpec, scope: Scope | None = None) -> int:
    """Products inside MEMO's fused attention kernels, of the spatial and the audio self-attention of one layer.

    Counters of operations do not see into such kernels. For the other models the published totals include them: 0.
    """
    if config.joint_audio is None or "audio" not in layer.attentions:
        return 0
    seen = attention_tokens(shape, layer, scope)
    kind, block, index = _place(layer)
    spatial, audio = seen.core("reference"), seen.core("audio")
    doubled = shape.rows // 2 if shape.branches == 2 else 0
    products = (shape.rows + doubled) * spatial**2
    if seen.reads_reference:
        restricted = seen.rule is None or seen.rule.reference_keys
        products += shape.rows * spatial * (spatial if restricted else seen.all)
    inner = config.audio_width(kind, block, index)
    return 2 * config.channels[layer.level] * products + 2 * inner * shape.rows * audio**2


def _place(layer: LayerSpec) -> tuple[str, int, int]:
    """Kind, block and index of a layer with a resnet."""
    kind, *place = layer.name.split(".")
    return (kind, 0, 0) if kind == "mid" else (kind, int(place[0]), int(place[1]))


def coded_layer_macs(config: UNetConfig, shape: StepShape, layer: LayerSpec, scope: Scope | None = None) -> int:
    """Work of the original code for one layer, with what a scope changes in its attentions."""
    seen = attention_tokens(shape, layer, scope)
    tokens = (shape.latent_size // 2**layer.level) ** 2
    width = config.channels[layer.level]
    kind, *place = layer.name.split(".")
    if layer.name in ("conv_in", "out"):
        return shape.rows * 9 * tokens * config.latent_channels * config.channels[0]
    if place and place[-1] == "ds":
        return shape.rows * 9 * tokens * config.channels[layer.level - 1] ** 2
    if place and place[-1] == "us":
        return shape.rows * 9 * tokens * config.channels[layer.level + 1] ** 2
    kind, block, index = _place(layer)
    inputs = _resnet_inputs(config, kind, block, index)
    total = sum(_resnet_macs(config, shape, tokens, narrow, width) for narrow in inputs)
    attends = kind == "mid" or config.attention_levels[layer.level]
    if attends:
        total += _spatial_macs(config, shape, seen, width)
    if attends and config.audio is not None:
        total += _audio_macs(config, shape, seen, width, config.audio_width(kind, block, index))
    if attends and config.joint_audio is not None:
        final = layer.name == f"up.{len(config.channels) - 1}.{config.layers_per_block}"
        total += _joint_audio_macs(config, shape, seen, width, config.audio_width(kind, block, index), final=final)
    if config.temporal is not None and (attends or config.temporal.in_plain_blocks):
        temporal = _memory_macs if config.temporal.memory else _temporal_macs
        total += temporal(config, shape, seen, width)
    return total


def _resnet_inputs(config: UNetConfig, kind: str, block: int, index: int) -> list[int]:
    if kind == "mid":
        return [config.channels[-1]] * 2
    if kind == "down":
        return [config.channels[block - 1] if index == 0 and block > 0 else config.channels[block]]
    rising = config.channels[::-1]
    hidden = rising[block - 1] if index == 0 and block > 0 else rising[block]
    last = index == config.layers_per_block
    return [hidden + (rising[min(block + 1, len(rising) - 1)] if last else rising[block])]


def _resnet_macs(config: UNetConfig, shape: StepShape, tokens: int, narrow: int, wide: int) -> int:
    shortcut = tokens * narrow * wide if narrow != wide else 0
    convolutions = shape.rows * (9 * tokens * wide * (narrow + wide) + shortcut)
    return convolutions + shape.branches * config.time_dim * wide


def _cross_attention_macs(rows: int, tokens: int, width: int, context: int, context_width: int) -> int:
    return rows * (2 * tokens * width**2 + 2 * context * context_width * width + 2 * tokens * context * width)


def _self_attention_macs(rows: int, projected: int, core: int, width: int) -> int:
    return rows * (4 * projected * width**2 + 2 * core**2 * width)


def _spatial_macs(config: UNetConfig, shape: StepShape, seen: AttentionTokens, width: int) -> int:
    """All rows read [own, reference]; under guidance the unconditional half is then computed a second time.

    The published code would also do so where the reference is removed; the published differences say that it does.
    """
    tokens, core, projected = seen.all, seen.core("reference"), seen.projected("reference")
    self_attention = _self_attention_macs(shape.rows, projected, core, width)
    if seen.reads_reference:
        restricted = seen.rule is None or seen.rule.reference_keys
        keys, projected_keys = (core, projected) if restricted else (tokens, tokens)
        self_attention += shape.rows * (2 * projected_keys * width**2 + 2 * core * keys * width)
    again = _self_attention_macs(shape.rows // 2, projected, core, width) if shape.branches == 2 else 0
    around = shape.rows * (2 * tokens * width**2 + 12 * seen.fed("reference") * width**2)
    image = 0
    if config.image_token_dim is not None:
        image = _cross_attention_macs(shape.rows, tokens, width, shape.image_tokens, config.image_token_dim)
    return self_attention + again + around + image


def _audio_macs(config: UNetConfig, shape: StepShape, seen: AttentionTokens, width: int, inner: int) -> int:
    assert config.audio is not None
    rows, tokens = shape.rows, seen.all
    block = rows * (2 * tokens * width * inner + 12 * seen.fed("audio") * inner**2)
    block += _self_attention_macs(rows, seen.projected("audio"), seen.core("audio"), inner)
    branch = _cross_attention_macs(rows, tokens, inner, shape.audio_tokens, config.audio.token_dim)
    return block + len(config.audio.branches) * (branch + rows * tokens * inner**2)


def _temporal_macs(config: UNetConfig, shape: StepShape, seen: AttentionTokens, width: int) -> int:
    """Where projections are not restricted, every position attends, and the background's result is discarded."""
    assert config.temporal is not None
    length = shape.frames + shape.motion_frames
    attentions, positions = config.temporal.attentions, seen.projected("temporal")
    linear = shape.branches * length * width**2 * (2 * seen.all + 12 * seen.fed("temporal"))
    return linear + attentions * shape.branches * positions * (4 * length * width**2 + 2 * length**2 * width)


def _joint_audio_macs(
    config: UNetConfig, shape: StepShape, seen: AttentionTokens, width: int, inner: int, *, final: bool
) -> int:
    """Self-attention of both streams, joint attention, feed-forward of both; the last module drops its audio."""
    assert config.joint_audio is not None
    rows, tokens, heard, audio_width = shape.rows, seen.all, shape.audio_tokens, config.joint_audio.token_dim
    image = rows * (2 * tokens * width * inner + 12 * seen.fed("audio") * inner**2)
    image += _self_attention_macs(rows, seen.projected("audio"), seen.core("audio"), inner)
    audio = rows * (4 * heard * audio_width * inner + 2 * heard**2 * inner)
    joint = 4 * tokens * inner**2 + 3 * heard * audio_width * inner + 2 * (tokens + heard) ** 2 * inner
    after = 0 if final else heard * inner * audio_width + 12 * heard * audio_width**2
    return image + audio + rows * (joint + after)


def _memory_macs(config: UNetConfig, shape: StepShape, seen: AttentionTokens, width: int) -> int:
    """Linear attention over frames.

    The original code sums up the past frames anew in every step; its counts have three projections of theirs, though
    keys and values are two.
    """
    assert config.temporal is not None
    attentions, positions = config.temporal.attentions, seen.projected("temporal")
    per_head = width * (width // config.temporal.heads)
    now = shape.frames * (width**2 * (2 * seen.all + 12 * seen.fed("temporal")))
    now += shape.frames * attentions * positions * (4 * width**2 + 2 * per_head + width)
    past = shape.motion_frames * (seen.all * width**2 + attentions * positions * (3 * width**2 + per_head))
    return shape.branches * (now + past)
