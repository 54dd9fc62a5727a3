"""Work of EchoMimic's original code by formula, against its own counts and the totals of arXiv 2509.00052."""

from __future__ import annotations

import pytest
import torch

from baselines.deepcache import DeepCache
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.scope import full_scope
from lcp_bench.accel.strategy import NoAcceleration, Strategy
from lcp_bench.measure.flops import FLOP_PER_MAC, StepShape, count_macs, published_layer_macs, published_scope_macs
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.echomimic import EchoMimic, build_modules, size_of, unet_configs

CONFIG = unet_configs(size_of("full"))[0]
GUIDED = StepShape(branches=2, frames=12, motion_frames=0, latent_size=64, image_tokens=50, audio_tokens=0)
SINGLE = StepShape(branches=1, frames=12, motion_frames=0, latent_size=64, image_tokens=50, audio_tokens=0)
GIGA, TERA = 1e9, 1e12

# 1e9 multiply-accumulates counted on the published code at 512 x 512: with guidance, and with one branch.
BLOCKS = {
    "conv_in": (1.13, 0.57), "out": (1.13, 0.57), "down.0": (2609.5, 1155.8), "down.1": (1437.8, 682.6),
    "down.2": (1295.7, 625.7), "down.3": (201.5, 100.8), "mid": (208.5, 101.7), "up.0": (475.9, 238.0),
    "up.1": (2614.2, 1273.9), "up.2": (2928.0, 1409.6), "up.3": (4313.2, 1933.1),
}  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [GUIDED, SINGLE], ids=["guided", "single"])
def test_blocks(block: str, shape: StepShape) -> None:
    layers = [spec for spec in CONFIG.topology.layers if spec.name == block or spec.name.startswith(f"{block}.")]
    macs = sum(published_layer_macs(CONFIG, shape, spec) for spec in layers) / GIGA
    assert macs == pytest.approx(BLOCKS[block][0 if shape is GUIDED else 1], rel=3e-4, abs=0.06)


@pytest.mark.parametrize(("shape", "wanted"), [(GUIDED, 16086.6), (SINGLE, 7522.3)], ids=["guided", "single"])
def test_whole_step(shape: StepShape, wanted: float) -> None:
    macs = published_scope_macs(CONFIG, shape, full_scope(CONFIG.topology)) / GIGA
    assert macs == pytest.approx(wanted, abs=0.06)


def clip_tflops(strategy: Strategy, num_steps: int, shape: StepShape) -> float:
    """A clip of one window: key steps in full, followers in their scope."""
    plan, topology = strategy.plan(num_steps), CONFIG.topology
    total = len(plan.key_steps) * published_scope_macs(CONFIG, shape, full_scope(topology))
    for group in plan.groups:
        for step in group.followers:
            total += published_scope_macs(CONFIG, shape, strategy.follower_scope(step, plan, topology))
    return FLOP_PER_MAC * total / TERA


def strategies(key_steps: int) -> tuple[Strategy, Strategy, Strategy]:
    """None, LightningCP without its other parts, the paper's DeepCache."""
    schedule = ScheduleConfig(key_steps=key_steps)
    return (
        NoAcceleration(),
        LightningCP(LightningCP.Config(schedule=schedule)),
        DeepCache(DeepCache.Config(schedule=schedule)),
    )


def test_our_own_work_is_less_by_what_upstream_repeats() -> None:
    """Each guidance half once (14156.1 as counted), and the reference projected once instead of for twelve frames."""
    model = EchoMimic(build_modules("full", "meta"))
    constants = model.meta_constants(512, 2)
    bank = model.write_reference(constants, torch.empty(1, 4, 64, 64, device="meta"))
    made: list[Conditions] = []
    prepared = count_macs(lambda: made.append(model.segment_conditions(constants, bank, 0)))
    latents, time = torch.empty(1, 1, 4, 12, 64, 64, device="meta"), model.unet.embed_time([0.0])
    executed = count_macs(lambda: model.unet(latents, time, made[0]))
    sites = [layer for layer in CONFIG.topology.layers if "reference" in layer.attentions]
    assert len(sites) == len(bank) == 16
    projection = sum(2 * (64 >> site.level) ** 2 * CONFIG.channels[site.level] ** 2 for site in sites)
    # we embed the time in every row instead of every branch, which is the tolerance
    assert (executed + prepared) / GIGA == pytest.approx(14156.1 - 11 * projection / GIGA, abs=0.8)


# TFLOP per 12-frame clip as printed; ours are 965.23, 319.28, 437.97 and 90.27, 62.70, 67.49.
PUBLISHED = {
    "normal": (30, 8, GUIDED, (965.19, 319.26, 437.97)),
    "accelerated": (6, 4, SINGLE, (90.27, 62.69, 67.49)),
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_totals(variant: str) -> None:
    steps, keys, shape, wanted = PUBLISHED[variant]
    got = [clip_tflops(strategy, steps, shape) for strategy in strategies(keys)]
    assert got == pytest.approx(wanted, rel=1.2e-4)
