"""Runs whose plan is decided on the way: bounds before, decisions and their cost after."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lcp_bench import plan_report
from lcp_bench.accel.scope import Scope, delta_scope, full_scope, shell_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.config import build_strategy
from lcp_bench.open_plans import after_the_fact
from lcp_bench.plan_report import ScopeCost, _scopes, as_document, cost_report, report, unet_topology
from runs import Bench, Shared, composed

STEPS = 6
PACE = (f"sampler.steps={STEPS}", "+accel=adacache", "accel.codebook=[[0.05,3],[1.0,2]]")


def test_a_plan_says_that_it_is_decided_later_and_prints_the_bounds(
    shared_parts: Shared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(*PACE)
    costs = shared_parts.cost_report(config)
    document = as_document(config, costs)
    json.dumps(document, allow_nan=False)
    assert document["decided_at_run_time"] is True
    assert "decided" not in document
    for convention, dearest in document["tflops_per_clip_dearest"].items():
        assert document["tflops_per_clip"][convention] < dearest
        assert dearest == document["tflops_per_clip_unaccelerated"][convention]
    assert document["key_steps"] == [0, 1, 4, 5]
    assert costs.cache_bytes > 0
    monkeypatch.setattr(plan_report, "cost_report", shared_parts.cost_report)
    report(config)
    text = capsys.readouterr().out
    assert "at least 4 key" in text
    assert "the plan is decided at run time" in text


@pytest.mark.slow
def test_a_fixed_plan_says_nothing_of_the_kind() -> None:
    config = composed(f"sampler.steps={STEPS}", "+accel=dbcache", "accel.mask=fast", "accel.mask_policy=static")
    costs = cost_report(config)
    assert "decided_at_run_time" not in as_document(config, costs)
    assert after_the_fact(costs, [{"decisions": []}]) is costs


def test_costs_after_the_fact_are_the_mean_over_segments(shared_parts: Shared) -> None:
    costs = shared_parts.cost_report(composed(*PACE))
    everything, cheapest = {"key_steps": list(range(STEPS))}, {"key_steps": [0, 1, 4, 5]}
    rows = [{"decisions": [everything, cheapest]}, {"decisions": [cheapest, cheapest]}]
    after = after_the_fact(costs, rows)
    assert after.key_steps_per_segment == (6 + 4 + 4 + 4) / 4
    for convention in ("as_published", "executed"):
        wanted = (costs.dearest_tflops(convention) + 3 * costs.tflops(convention)) / 4
        assert after.tflops(convention) == pytest.approx(wanted, rel=1e-12)


def test_the_record_carries_the_decisions_and_their_cost(bench: Bench, shared_parts: Shared) -> None:
    done = bench.run(*PACE)
    segments = [segment for row in done.rows for segment in row["decisions"]]
    assert len(segments) == sum(row["segments"] for row in done.rows) > 1
    for segment in segments:
        assert segment["key_steps"][:2] == [0, 1]
        assert segment["key_steps"][-2:] == [STEPS - 2, STEPS - 1]
        assert all(step in segment["key_steps"] for step, _ in segment["measured"])
    plan, flops = done.record["plan"], done.record["flops"]
    counts = [sum(step in segment["key_steps"] for segment in segments) for step in range(STEPS)]
    assert plan["decided"] == {
        "segments": len(segments), "mean_key_steps": sum(counts) / len(segments), "segments_where_key": counts,
    }  # fmt: skip
    assert plan["key_steps"] == [step for step, count in enumerate(counts) if count == len(segments)]
    assert plan["decided_at_run_time"] is True
    computed = done.record["engagement"]["computed"]
    assert computed["mid"] == sum(counts)
    assert computed["out"] == STEPS * len(segments)
    costs = after_the_fact(shared_parts.cost_report(done.config), done.rows)
    assert flops["tflops_per_clip"]["executed"] == pytest.approx(costs.tflops("executed"), rel=1e-12)
    assert flops["speedup_bound_free_followers"] == pytest.approx(STEPS * len(segments) / sum(counts))
    assert done.record["cache_bytes"] == costs.cache_bytes


def test_scopes_of_one_name_are_counted_apart() -> None:
    """A cheap and a dear scope under one name must not share a cost."""
    config = composed(f"sampler.steps={STEPS}", "+accel=lcp", "accel.schedule.key_steps=[0]")
    topology, inner = unet_topology(config), build_strategy(config)
    shapes = {
        1: shell_scope(topology, "up.3.2"),
        2: shell_scope(topology, "up.2.1"),
        3: delta_scope(topology, "mid", "mid"),
    }

    class Tracer:
        """Counts layers in place of work."""

        model = SimpleNamespace(unet=SimpleNamespace(topology=topology))

        def cost(self, scope: Scope) -> ScopeCost:
            """One unit per layer."""
            return ScopeCost(scope, (), len(scope.evaluated), len(scope.evaluated))

    class Same(Strategy):
        """Followers with different scopes under one name."""

        plan = inner.plan

        def follower_scope(self, step: int, *_: object) -> Scope:
            """Three kinds in turn."""
            scope = shapes[1 + step % 3]
            return Scope("same", scope.evaluated, scope.deltas)

    scope_of, if_reused, costs = _scopes(Same(inner.config), inner.plan(STEPS), full_scope(topology), Tracer())
    assert [scope_of[step] for step in range(4)] == ["full", "same", "same #2", "same #3"]
    assert scope_of[4] == "same"
    assert if_reused == {}
    assert len({costs[name].executed_macs for name in ("full", "same", "same #2", "same #3")}) == 4
