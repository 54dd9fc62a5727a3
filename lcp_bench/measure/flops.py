"""Work of a denoising step, in multiply-accumulates, counted two ways that are never mixed.

`executed`: our own forward passes traced on the meta device by torch's flop counter (convolutions, linear layers and
batched matrix products; norms, activations and softmax are not counted). `as published`: the work of the original code
for the same step by a closed formula per layer; it evaluates the unconditional half's self-attention twice and repeats
constant projections at every step, and the published totals of arXiv 2509.00052 count exactly that.

TFLOP is 1e12 FLOP, and a multiply-accumulate is two FLOP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lcp_bench.accel.scope import Scope
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.topology import LayerSpec

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
    """

    branches: int
    frames: int
    motion_frames: int
    latent_size: int
    image_tokens: int
    audio_tokens: int

    @property
    def rows(self) -> int:
        """Frames of all branches."""
        return self.branches * self.frames


def published_scope_macs(config: UNetConfig, shape: StepShape, scope: Scope) -> int:
    """Work of the original code for the layers of a scope."""
    layers = config.topology.layers
    return sum(published_layer_macs(config, shape, layer) for layer in layers if layer.name in scope.evaluated)


def published_layer_macs(config: UNetConfig, shape: StepShape, layer: LayerSpec) -> int:
    """Work of the original code for one layer."""
    tokens = (shape.latent_size // 2**layer.level) ** 2
    width = config.channels[layer.level]
    kind, *place = layer.name.split(".")
    if layer.name in ("conv_in", "out"):
        return shape.rows * 9 * tokens * config.latent_channels * config.channels[0]
    if place and place[-1] == "ds":
        return shape.rows * 9 * tokens * config.channels[layer.level - 1] ** 2
    if place and place[-1] == "us":
        return shape.rows * 9 * tokens * config.channels[layer.level + 1] ** 2
    block, index = (0, 0) if kind == "mid" else (int(place[0]), int(place[1]))
    inputs = _resnet_inputs(config, kind, block, index)
    total = sum(_resnet_macs(config, shape, tokens, narrow, width) for narrow in inputs)
    attends = kind == "mid" or config.attention_levels[layer.level]
    if attends:
        total += _spatial_macs(config, shape, tokens, width)
    if attends and config.audio is not None:
        total += _audio_macs(config, shape, tokens, width, config.audio_width(kind, block, index))
    if config.temporal is not None and (attends or config.temporal.in_plain_blocks):
        total += _temporal_macs(config, shape, tokens, width)
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


def _spatial_macs(config: UNetConfig, shape: StepShape, tokens: int, width: int) -> int:
    """All rows read [own, reference]; under guidance the unconditional half is then computed a second time."""
    seen = 2 * tokens
    self_attention = shape.rows * (2 * tokens * width**2 + 2 * seen * width**2 + 2 * tokens * seen * width)
    again = (shape.rows // 2) * (4 * tokens * width**2 + 2 * tokens**2 * width) if shape.branches == 2 else 0
    around = shape.rows * (2 * tokens * width**2 + 12 * tokens * width**2)
    image = 0
    if config.image_token_dim is not None:
        image = _cross_attention_macs(shape.rows, tokens, width, shape.image_tokens, config.image_token_dim)
    return self_attention + again + around + image


def _audio_macs(config: UNetConfig, shape: StepShape, tokens: int, width: int, inner: int) -> int:
    assert config.audio is not None
    rows = shape.rows
    block = rows * (2 * tokens * width * inner + 4 * tokens * inner**2 + 2 * tokens**2 * inner + 12 * tokens * inner**2)
    branch = _cross_attention_macs(rows, tokens, inner, shape.audio_tokens, config.audio.token_dim)
    return block + len(config.audio.branches) * (branch + rows * tokens * inner**2)


def _temporal_macs(config: UNetConfig, shape: StepShape, tokens: int, width: int) -> int:
    assert config.temporal is not None
    length = shape.frames + shape.motion_frames
    attentions = config.temporal.attentions
    linear = shape.branches * length * tokens * (14 + 4 * attentions) * width**2
    return linear + attentions * shape.branches * tokens * 2 * length**2 * width
