"""Work of MEMO's original code by formula, against its own counts and the totals of arXiv 2509.00052."""

from __future__ import annotations

import pytest

from baselines.deepcache import DeepCache
from baselines.faster_diffusion import FasterDiffusion
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.scope import full_scope, shell_scope
from lcp_bench.accel.strategy import NoAcceleration, Strategy
from lcp_bench.measure.flops import (
    FLOP_PER_MAC,
    StepShape,
    coded_layer_macs,
    published_scope_macs,
    uncounted_scope_macs,
)
from lcp_bench.models.memo_networks import unet_configs
from lcp_bench.plan_report import as_document, cost_report
from lcp_bench.preflight import load_run_config

CONFIG = unet_configs()[0]
SHAPE = StepShape(branches=2, frames=16, motion_frames=16, latent_size=64, image_tokens=4, audio_tokens=32)
TERA = 1e12

# 1e12 multiply-accumulates counted on the published code at 512 x 512, fused attention kernels included.
BLOCKS = {
    "conv_in": 0.0015, "out": 0.0015, "down.0": 5.669, "down.1": 2.647, "down.2": 2.351, "down.3": 0.320,
    "mid": 0.393, "up.0": 0.712, "up.1": 4.083, "up.2": 4.608, "up.3": 9.029,
}  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks(block: str) -> None:
    layers = [spec for spec in CONFIG.topology.layers if spec.name == block or spec.name.startswith(f"{block}.")]
    macs = sum(coded_layer_macs(CONFIG, SHAPE, spec) for spec in layers) / TERA
    assert macs == pytest.approx(BLOCKS[block], abs=6e-4)


def test_whole_step_and_lightningcps_follower() -> None:
    for scope, wanted in ((full_scope(CONFIG.topology), 29.815), (shell_scope(CONFIG.topology, "up.3.2"), 2.963)):
        macs = published_scope_macs(CONFIG, SHAPE, scope) + uncounted_scope_macs(CONFIG, SHAPE, scope)
        assert macs / TERA == pytest.approx(wanted, abs=6e-4)


def clip_tflops(strategy: Strategy) -> float:
    """A clip of one segment: key steps in full, followers in their scope."""
    plan, topology = strategy.plan(20), CONFIG.topology
    total = len(plan.key_steps) * published_scope_macs(CONFIG, SHAPE, full_scope(topology))
    for group in plan.groups:
        for step in group.followers:
            total += published_scope_macs(CONFIG, SHAPE, strategy.follower_scope(step, plan, topology))
    return FLOP_PER_MAC * total / TERA


KEYS = ScheduleConfig(key_steps=8)
# TFLOP per 16-frame clip as printed; ours are 922.09, 411.08, 492.24 and 714.21.
PUBLISHED: dict[str, tuple[Strategy, float]] = {
    "none": (NoAcceleration(), 919.86),
    "lcp": (LightningCP(LightningCP.Config(schedule=KEYS)), 411.02),
    "deepcache": (DeepCache(DeepCache.Config(schedule=KEYS)), 491.14),
    "faster_diffusion": (FasterDiffusion(FasterDiffusion.Config(schedule=KEYS)), 712.54),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    strategy, wanted = PUBLISHED[name]
    assert clip_tflops(strategy) == pytest.approx(wanted, rel=3e-3)


@pytest.mark.slow
def test_the_plan_at_full_size() -> None:
    """Published totals, the published code's whole work beside them, and ours: each guidance half once."""
    config = load_run_config(["+model=memo", "+accel=lcp", "run.action=plan"])
    document = as_document(config, cost_report(config))
    assert len(document["key_steps"]) == 8
    assert document["tflops_per_clip"]["as_published"] == pytest.approx(411.02, rel=1e-2)
    assert document["tflops_per_clip_unaccelerated"]["as_published"] == pytest.approx(919.86, rel=1e-2)
    whole = document["as_coded"]["tflops_per_clip_unaccelerated"]
    assert whole == pytest.approx(20 * 2 * 29.815, rel=1e-4)
    # 27.242 as counted, less what is constant over a segment and computed once
    step = document["scopes"]["full"]["tflops_per_step"]["executed"] / FLOP_PER_MAC
    assert 27.242 - 1.606 - 1.0 < step < 27.242 - 1.606
    assert document["tflops_around_per_clip"]["reference"] == pytest.approx(2 * 12.913, rel=2e-2)
    # the pair: hidden map in bfloat16, and the audio stream that enters the last layer
    assert document["cache_bytes"] == 2 * (2 * 16 * 320 * 64 * 64 + 2 * 16 * 32 * 768)
