"""What foreground attention and reference removal save: the published totals by formula, ours by tracing."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lcp_bench.accel.dfa import PAPER_RATIO, ForegroundConfig, with_foreground
from lcp_bench.accel.reference import RemovalConfig, without_reference
from lcp_bench.accel.scope import Scope, full_scope, shell_scope
from lcp_bench.config import RunConfig, build_strategy
from lcp_bench.measure.flops import StepShape, foreground_tokens, published_layer_macs, published_scope_macs
from lcp_bench.models.foreground import foreground_of
from lcp_bench.models.hallo import Hallo, build_modules, size_of, unet_configs
from lcp_bench.plan_report import CostReport, as_document, cost_report
from lcp_bench.preflight import load_run_config
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM

CONFIG = unet_configs(size_of("full"))[0]
TOPOLOGY = CONFIG.topology
UNRESTRICTED = StepShape(branches=2, frames=16, motion_frames=2, latent_size=64, image_tokens=4, audio_tokens=32)
SHAPE = replace(UNRESTRICTED, foreground_ratio=PAPER_RATIO)
SHELL, FULL = shell_scope(TOPOLOGY, "up.3.2"), full_scope(TOPOLOGY)


def tflop(scope: Scope, shape: StepShape = SHAPE) -> float:
    """Published work of one step."""
    return 2 * published_scope_macs(CONFIG, shape, scope) / 1e12


def clip_tflop(key: Scope, follower: Scope, shape: StepShape = SHAPE) -> float:
    """40 steps, 11 of them key."""
    return 11 * tflop(key, shape) + 29 * tflop(follower, shape)


def dfa(**options: Any) -> Scope:
    """The paper's follower with foreground attention."""
    return with_foreground(SHELL, ForegroundConfig(**options), TOPOLOGY)


def removed(scope: Scope, *sites: str, kind: Any = "key") -> Scope:
    """A scope without some references."""
    return without_reference(scope, RemovalConfig(sites=sites), TOPOLOGY, kind)


# ------------------------------------------------------------------ as published


def test_published_totals() -> None:
    """Table 2 of arXiv 2509.00052: LCP, + DFA, + removal (671.44 there, 671.40 in table 1)."""
    assert clip_tflop(FULL, SHELL) == pytest.approx(745.72, rel=1e-4)
    assert clip_tflop(FULL, dfa()) == pytest.approx(679.56, rel=1e-4)
    default = without_reference(FULL, RemovalConfig(), TOPOLOGY, "key")
    assert clip_tflop(default, dfa()) == pytest.approx(671.42, abs=0.03)


def test_other_readings_need_other_foregrounds() -> None:
    """With feed-forwards restricted, or only the cores, the published total comes out at another ratio."""
    for options, ratio in (({"feed_forward": True}, 0.575), ({"projections": False}, 0.236)):
        shape = replace(SHAPE, foreground_ratio=ratio)
        assert clip_tflop(FULL, dfa(**options), shape) == pytest.approx(679.56, abs=0.5)
        assert abs(clip_tflop(FULL, dfa(**options)) - 679.56) > 5


FITTING = [("down.0.0",), ("down.0.1",), ("up.3.0",), ("up.3.1",), ("down.2.*", "up.1.*", "up.2.*")]


@pytest.mark.parametrize("sites", FITTING)
def test_removals_that_fit(sites: tuple[str, ...]) -> None:
    """One 64 x 64 layer that followers skip, or all 16 x 16 layers and those of up.2: the same saving."""
    key, follower = removed(FULL, *sites), removed(dfa(), *sites, kind="followers")
    assert 671.40 < clip_tflop(key, follower) < 671.44
    assert clip_tflop(key, follower) == pytest.approx(clip_tflop(removed(FULL, "up.3.1"), dfa()), rel=1e-9)


@pytest.mark.parametrize("sites", [("up.3.2",), ("mid",), ("up.2.*",), ("down.0.*",), ("*",)])
def test_removals_that_do_not(sites: tuple[str, ...]) -> None:
    total = clip_tflop(removed(FULL, *sites), removed(dfa(), *sites, kind="followers"))
    assert abs(total - 671.42) > 1


def test_everything_as_foreground_saves_nothing() -> None:
    whole = replace(SHAPE, foreground_ratio=1.0)
    assert tflop(dfa(), whole) == tflop(SHELL, whole)
    nothing = replace(SHAPE, foreground_ratio=0.0)
    wanted = published_layer_macs(CONFIG, SHAPE, TOPOLOGY["up.3.2"]) - 1e9 * (966.4 + 397.3 + 2 * 62.1)
    layer = published_layer_macs(CONFIG, nothing, TOPOLOGY["up.3.2"], dfa())
    assert layer == pytest.approx(wanted, rel=1e-3), "all of three attentions of the published per-layer counts"


@pytest.mark.parametrize("part", ["reference", "audio", "temporal"])
def test_parts_add_up(part: Any) -> None:
    others = [other for other in ("reference", "audio", "temporal") if other != part]
    saved = [tflop(SHELL) - tflop(dfa(parts=parts)) for parts in ((part,), tuple(others), (part, *others))]
    assert saved[0] > 0
    assert saved[0] + saved[1] == pytest.approx(saved[2])


def test_options_cost_what_they_say() -> None:
    work = {
        name: tflop(dfa(**options))
        for name, options in {
            "default": {}, "all keys": {"reference_keys": False}, "cores": {"projections": False},
            "fed": {"feed_forward": True},
        }.items()
    }  # fmt: skip
    assert work["fed"] < work["default"] < work["cores"] < tflop(SHELL)
    # 2.328 more rows of keys and values, projected and attended to by the foreground
    inside = foreground_tokens(PAPER_RATIO, 4096)
    more = 32 * (4096 - inside) * (2 * 320**2 + 2 * inside * 320)
    assert work["all keys"] - work["default"] == pytest.approx(2 * more / 1e12, rel=1e-9)


# ------------------------------------------------------------------ as executed

TINY = (
    "+model=hallo", "run.action=plan", "model.size=tiny", "sampler.steps=4", "accel.schedule.key_steps=[0,1]",
    "model.frames_per_segment=4", "model.weights=seeded",
)  # fmt: skip
VARIANTS = {
    "dfa": ("+accel=lcp_dfa",),
    "no motion": ("+accel=lcp_dfa_rm", "accel.reference.sites=[up.3.*]", "model.motion_frames=0"),
    "fed": ("+accel=lcp_dfa", "accel.attention.feed_forward=true", "accel.site=up.3.0"),
    "cores": ("+accel=lcp_dfa", "accel.attention.projections=false"),
    "all keys": ("+accel=lcp_dfa", "accel.attention.reference_keys=false", "accel.batch=1"),
    "removal": ("+accel=lcp_dfa_rm",),
    "removal alone": ("+accel=lcp", "accel.reference.sites=[up.3.*,mid]", "accel.site=up.3.1"),
    "at key steps": ("+accel=lcp_dfa_rm", "accel.reference.sites=[up.3.2]", "accel.reference.steps=key"),
}
DEFAULT = "no motion"


@cache
def planned(words: tuple[str, ...]) -> tuple[RunConfig, CostReport]:
    """A planned run in which exactly a quarter of every map is foreground."""
    extra = ("accel.attention.assumed_ratio=0.25",) if "+accel=lcp" not in words else ()
    config = load_run_config([*TINY, *words, *extra])
    return config, cost_report(config)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name == DEFAULT else pytest.mark.slow) for name in VARIANTS]
)
def test_executed_is_what_is_computed(variant: str) -> None:
    """Every operation of a segment on the CPU, the reference network and constants included, is the plan's, exactly."""
    config, costs = planned(VARIANTS[variant])
    motion = config.model.motion_frames
    model = Hallo(build_modules("tiny", "cpu"), frames=4, motion_frames=motion)
    strategy = build_strategy(config)
    plan = strategy.check(model.unet.topology, num_steps=4, eta=0.0)
    sampler = Sampler(model.unet, strategy, plan, DDIM(4), 3.5)
    unread = sampler.unread_references
    tokens, masks = torch.zeros(2, 4, 32), [torch.zeros(3, 1, count, 1) for count in (64, 16, 4, 1)]
    left_out = model._left_out(unread)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as reference:
        bank = model.reference_bank(torch.zeros(1 + motion, 4, 8, 8), tokens, left_out)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        conditions = model.conditions(bank, tokens, torch.zeros(4, 8, 32), masks, torch.zeros(1, 32, 8, 8), unread)
        levels = [foreground_of(torch.arange(count) < round(count / 4)) for count in (64, 16, 4, 1)]
        result = sampler.denoise(torch.zeros(1, 4, 4, 8, 8), replace(conditions, foreground=levels))
    embedding = model.unet.time_embedding
    time = 2 * 4 * (embedding.linear_1.weight.numel() + embedding.linear_2.weight.numel())
    assert counter.get_total_flops() + time == pytest.approx(costs.tflops("executed") * 1e12, rel=1e-9)
    assert reference.get_total_flops() == 2 * costs.around_macs["reference"]
    assert result.cache_bytes == costs.cache_bytes


@pytest.mark.slow
def test_the_baseline_reads_every_reference() -> None:
    """The plan's number for the unaccelerated run is that run's own."""
    document = as_document(*planned(VARIANTS[DEFAULT]))
    words = [word for word in TINY if not word.startswith("accel")]
    config = load_run_config([*words, "+accel=none", "model.motion_frames=0"])
    own = as_document(config, cost_report(config))["tflops_per_clip"]
    assert document["tflops_per_clip_unaccelerated"] == own


def test_the_plan_says_what_is_restricted() -> None:
    document = as_document(*planned(VARIANTS[DEFAULT]))
    json.dumps(document, allow_nan=False)
    assert document["foreground_ratio_assumed"] == 0.25
    assert document["scopes"]["full-reference"]["without_reference"] == ["up.3.0", "up.3.1", "up.3.2"]
    follower = document["scopes"]["shell:up.3.2+foreground-reference"]
    assert follower["foreground"] == {"up.3.2": ["reference", "audio", "temporal"]}
    features = [f"up.3.2:{part}.attention" for part in ("reference", "audio", "temporal")]
    assert follower["reads"] == ["up.3.2:in", *features]


def test_a_plan_at_another_foreground() -> None:
    """The true ratio takes the place of the assumed one in every count, and changes the followers only."""
    config, costs = planned(VARIANTS[DEFAULT])
    more = cost_report(config, 0.5)
    assert more.foreground_ratio == 0.5
    for convention in ("as_published", "executed"):
        assert costs.tflops(convention) < more.tflops(convention) < costs.tflops(convention, 4)
        assert more.tflops(convention, 4) == costs.tflops(convention, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("accel", "published"), [("lcp_dfa", 679.56), ("lcp_dfa_rm", 671.44)])
def test_full_size_plans(accel: str, published: float) -> None:
    config = load_run_config(["+model=hallo", f"+accel={accel}", "run.action=plan"])
    document = as_document(config, cost_report(config))
    assert document["tflops_per_clip"]["as_published"] == pytest.approx(published, rel=1e-4)
    assert document["cache_bytes"] == 4 * 16 * 320 * (4096 + 3 * (4096 - foreground_tokens(PAPER_RATIO, 4096)))
