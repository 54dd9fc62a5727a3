"""What a run will compute, before it does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lcp_bench import plan_report
from lcp_bench.accel.scope import shell_scope
from lcp_bench.config import RunConfig, build_strategy
from lcp_bench.measure.clock import monotonic_s
from lcp_bench.models.hallo import Hallo, build_modules
from lcp_bench.plan_report import CostReport, as_document, cost_report
from lcp_bench.preflight import load_run_config
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM


def plan_config(*words: str) -> RunConfig:
    """A planned run of Hallo."""
    return load_run_config(["+model=hallo", "run.action=plan", *words])


@pytest.fixture(scope="module")
def full() -> dict[str, tuple[RunConfig, CostReport, float]]:
    """Full-size plans of the published operating point, and the seconds that they took."""
    plans = {}
    for accel in ("none", "lcp"):
        start = monotonic_s()
        config = plan_config(f"+accel={accel}")
        plans[accel] = (config, cost_report(config), monotonic_s() - start)
    return plans


@pytest.mark.parametrize(("accel", "published"), [("none", 2158.08), ("lcp", 745.72)])
def test_published_totals(accel: str, published: float, full: dict[str, Any]) -> None:
    """Table 1 of arXiv 2509.00052: 40 steps, and 11 of them key."""
    config, costs, seconds = full[accel]
    document = as_document(config, costs)
    assert document["tflops_per_clip"]["as_published"] == pytest.approx(published, rel=1e-3)
    assert document["tflops_per_clip_unaccelerated"]["as_published"] == pytest.approx(2158.08, rel=1e-3)
    assert document["tflops_per_clip"]["executed"] < document["tflops_per_clip"]["as_published"]
    assert len(document["key_steps"]) == (40 if accel == "none" else 11)
    assert seconds < 60


def test_full_size_lcp(full: dict[str, Any]) -> None:
    config, costs, _ = full["lcp"]
    document = as_document(config, costs)
    json.dumps(document, allow_nan=False)
    assert document["cache_bytes"] == 83_886_080 == 2 * 2 * 16 * 320 * 64 * 64
    assert document["speedup_bound_as_published"] == pytest.approx(2158.08 / 745.72, rel=1e-3)
    assert document["speedup_bound_free_followers"] == 40 / 11
    executed = document["tflops_per_clip"]["executed"]
    assert document["speedup_bound"] == document["tflops_per_clip_unaccelerated"]["executed"] / executed
    follower = document["scopes"]["shell:up.3.2"]
    assert follower["evaluated"] == ["conv_in", "up.3.2", "out"]
    assert follower["reads"] == ["up.3.2:in"]
    assert document["scopes"]["full"]["tflops_per_step"]["as_published"] == pytest.approx(53.952, rel=1e-4)
    assert follower["tflops_per_step"]["as_published"] == pytest.approx(5.2498, rel=1e-3)
    for scope in document["scopes"].values():
        assert scope["tflops_per_step"]["executed"] < scope["tflops_per_step"]["as_published"]
    steps = [step for group in document["groups"] for step in (group["key"], *group["followers"])]
    assert steps == list(range(40))
    assert [group["key"] for group in document["groups"]] == document["key_steps"]
    for group in document["groups"]:
        assert group["scope"] == ("shell:up.3.2" if group["followers"] else None)


def test_full_size_baseline(full: dict[str, Any]) -> None:
    document = as_document(*full["none"][:2])
    assert document["cache_bytes"] == 0
    assert document["speedup_bound"] == 1
    assert set(document["scopes"]) == {"full"}
    around = document["tflops_around_per_clip"]
    # 2 x 1e9 multiply-accumulates of the published code: encode one image, decode sixteen frames
    assert around["encode"] == pytest.approx(2 * 0.5583, rel=2e-3)
    assert around["decode"] == pytest.approx(2 * 20.116, rel=2e-3)
    # the published reference network also runs its dead last transformer, all of it but the projection
    assert around["reference"] == pytest.approx(2 * (2.3910 - 0.1148 + 0.0025), rel=5e-3)


TINY = (
    "+accel=lcp", "model.size=tiny", "sampler.steps=4", "accel.schedule.key_steps=[0,1]", "model.frames_per_segment=4",
    "model.weights=seeded",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> tuple[RunConfig, CostReport]:
    """Key steps 0 and 1, followers 2 and 3."""
    config = plan_config(*TINY)
    return config, cost_report(config)


def test_executed_is_what_the_sampler_computes(tiny: tuple[RunConfig, CostReport]) -> None:
    """Every operation of a whole segment on the CPU, constants included, is the plan's number, exactly."""
    config, costs = tiny
    model = Hallo(build_modules("tiny", "cpu"), frames=4)
    strategy = build_strategy(config)
    plan = strategy.check(model.unet.topology, num_steps=4, eta=0.0)
    sampler = Sampler(model.unet, strategy, plan, DDIM(4), 3.5)
    tokens, masks = torch.zeros(2, 4, 32), [torch.zeros(3, 1, count, 1) for count in (64, 16, 4, 1)]
    bank = model.reference_bank(torch.zeros(3, 4, 8, 8), tokens)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        conditions = model.conditions(bank, tokens, torch.zeros(4, 8, 32), masks, torch.zeros(1, 32, 8, 8))
        sampler.denoise(torch.zeros(1, 4, 4, 8, 8), conditions)
    # the plan counts the time embedding at every step; the sampler computes all of them once, before the segment
    embedding = model.unet.time_embedding
    time = 2 * 4 * (embedding.linear_1.weight.numel() + embedding.linear_2.weight.numel())
    assert counter.get_total_flops() + time == pytest.approx(costs.tflops("executed") * 1e12, rel=1e-9)


def test_a_wider_shell_costs_more_and_keeps_its_own_feature() -> None:
    config = plan_config("+accel=lcp", "model.size=tiny", "model.frames_per_segment=2")
    tracer, topology = plan_report._Tracer(config), plan_report.unet_topology(config)
    shells = [shell_scope(topology, site) for site in ("up.3.2", "up.3.1", "up.2.1")]
    tracer.sizes(tuple({name for shell in shells for name in shell.reads(topology)}))  # one pass records for all three
    costs = [tracer.cost(shell) for shell in shells]
    work = [(cost.published_macs, cost.executed_macs) for cost in costs]
    assert work == sorted(work)
    # float32, two branches, two frames: 32 channels at 8 x 8; then 64 at 4 x 4
    assert [tracer.cache_bytes(cost.reads) for cost in costs] == [4 * 4 * 32 * 64, 4 * 4 * 32 * 64, 4 * 4 * 64 * 16]


def test_text_and_json(
    tiny: tuple[RunConfig, CostReport], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_report, "cost_report", lambda config: tiny[1])
    plan_report.report(plan_config(*TINY, "run.format=json"))
    document = json.loads(capsys.readouterr().out)
    wanted = {"model", "accel", "steps", "key_steps", "groups", "tflops_per_clip", "speedup_bound", "cache_bytes"}
    assert wanted <= set(document)
    assert (document["model"], document["accel"], document["steps"]) == ("hallo", "lcp", 4)
    assert set(document["tflops_per_clip"]) == {"as_published", "executed"}
    plan_report.report(tiny[0])
    text = capsys.readouterr().out
    for word in ("shell:up.3.2", "as published", "executed", "up.3.2:in", "speed-up bound", "4 steps, 2 key"):
        assert word in text
    small = document["scopes"]["shell:up.3.2"]["tflops_per_step"]["executed"]
    assert document["tflops_per_clip"]["executed"] < 1
    assert "TFLOP" not in text and f"{1e3 * small:.3f}" in text, "a tiny model's work is given in GFLOP"
