"""Work of the original code by formula, and ours by tracing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lcp_bench.accel.scope import full_scope, shell_scope
from lcp_bench.measure.flops import StepShape, count_macs, count_parameters, published_layer_macs, published_scope_macs
from lcp_bench.models.hallo import size_of, unet_configs

CONFIG = unet_configs(size_of("full"))[0]
GUIDED = StepShape(branches=2, frames=16, motion_frames=2, latent_size=64, image_tokens=4, audio_tokens=32)
SINGLE = StepShape(branches=1, frames=16, motion_frames=2, latent_size=64, image_tokens=4, audio_tokens=32)
GIGA = 1e9

# 1e9 multiply-accumulates counted on the published code at 512 x 512: with guidance, and with one branch.
BLOCKS = {
    "conv_in": (1.51, 0.76), "out": (1.51, 0.76), "down.0": (4978.7, 2290.7), "down.1": (2521.7, 1212.6),
    "down.2": (2277.4, 1109.2), "down.3": (120.8, 60.4), "mid": (383.2, 188.2), "up.0": (412.7, 206.4),
    "up.1": (3902.6, 1907.0), "up.2": (4375.9, 2115.5), "up.3": (7999.9, 3702.0),
}  # fmt: skip
LAYERS = {
    "down.0.ds": 30.2,
    "down.3.0": 60.4,
    "up.0.1": 97.3,
    "up.0.us": 120.8,
    "up.1.us": 483.2,
    "down.0.0": 241.6 + 1181.5 + 715.5 + 335.6,
    "down.1.1": 241.6 + 429.8 + 412.4 + 333.9,
    "down.2.1": 241.6 + 335.9 + 375.8 + 333.0,
    "up.2.2": 322.1 + 429.8 + 122.3 + 333.9,
    "up.3.0": 523.5 + 1181.5 + 715.5 + 335.6,
    "up.3.2": 389.2 + 1181.5 + 715.5 + 335.6,
}
"""ResNet, spatial transformer, audio module and temporal module of single layers."""


def block_macs(shape: StepShape, block: str) -> float:
    """All layers of a block, in 1e9."""
    layers = [spec for spec in CONFIG.topology.layers if spec.name == block or spec.name.startswith(f"{block}.")]
    assert layers
    return sum(published_layer_macs(CONFIG, shape, spec) for spec in layers) / GIGA


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [GUIDED, SINGLE], ids=["guided", "single"])
def test_blocks(block: str, shape: StepShape) -> None:
    wanted = BLOCKS[block][0 if shape is GUIDED else 1]
    assert block_macs(shape, block) == pytest.approx(wanted, rel=3e-4, abs=0.006)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer: str) -> None:
    macs = published_layer_macs(CONFIG, GUIDED, CONFIG.topology[layer]) / GIGA
    assert macs == pytest.approx(LAYERS[layer], rel=3e-4, abs=0.1)


@pytest.mark.parametrize(("shape", "wanted"), [(GUIDED, 26975.9), (SINGLE, 12793.3)], ids=["guided", "single"])
def test_whole_step(shape: StepShape, wanted: float) -> None:
    macs = published_scope_macs(CONFIG, shape, full_scope(CONFIG.topology)) / GIGA
    assert macs == pytest.approx(wanted, rel=1e-5)


def test_a_scope_is_the_sum_of_its_layers() -> None:
    scope = shell_scope(CONFIG.topology, "up.3.2")
    layers = [published_layer_macs(CONFIG, GUIDED, CONFIG.topology[name]) for name in ("conv_in", "up.3.2", "out")]
    assert published_scope_macs(CONFIG, GUIDED, scope) == sum(layers)


def test_count_macs() -> None:
    """A linear layer and a convolution by hand; no gradient is needed, meta tensors will do."""
    with torch.device("meta"):
        linear, convolution = nn.Linear(6, 5), nn.Conv2d(4, 8, 3, padding=1)
        rows, maps = torch.empty(7, 6), torch.empty(2, 4, 10, 10)
    assert count_macs(lambda: linear(rows)) == 7 * 6 * 5
    assert count_macs(lambda: convolution(maps)) == 2 * 100 * 8 * 4 * 9
    assert count_parameters(linear) == 35
