"""Plans that are decided at run time: bounds before the run, what came out after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lcp_bench.accel.gate import Decisions
from lcp_bench.accel.schedule import Plan, plan_of_keys
from lcp_bench.work_units import work_unit

if TYPE_CHECKING:
    from lcp_bench.plan_report import CostReport


def decisions_row(decisions: Sequence[Decisions]) -> list[dict[str, Any]]:
    """What a clip's row says of its segments: the key steps, and every (step, measured value)."""
    return [
        {"key_steps": list(each.plan.key_steps), "measured": [list(pair) for pair in each.measured]}
        for each in decisions
    ]


def after_the_fact(costs: CostReport, rows: Sequence[Mapping[str, Any]]) -> CostReport:
    """The costs of what was decided, from the rows of finished clips; fixed plans cost what they cost before."""
    plans: list[Plan] = [
        plan_of_keys(segment["key_steps"], costs.plan.num_steps) for row in rows for segment in row.get("decisions", ())
    ]
    return replace(costs, decided=tuple(plans)) if costs.plan.open else costs


def open_document(costs: CostReport) -> dict[str, Any]:
    """What a plan's document says in addition where the plan is decided at run time; else nothing.

    Before the run its numbers are those of the cheapest case, and the dearest one stands beside them. After the run
    `key_steps` are the steps that were key in every segment, and there are no groups, because segments differ.
    """
    if not costs.plan.open:
        return {}
    found: dict[str, Any] = {
        "decided_at_run_time": True,
        "tflops_per_clip_dearest": {name: costs.dearest_tflops(name) for name in ("as_published", "executed")},
    }
    if costs.decided:
        counts = Counter(step for plan in costs.decided for step in plan.key_steps)
        found["decided"] = {
            "segments": len(costs.decided),
            "mean_key_steps": costs.key_steps_per_segment,
            "segments_where_key": [counts[step] for step in range(costs.plan.num_steps)],
        }
        found["key_steps"] = [step for step, count in sorted(counts.items()) if count == len(costs.decided)]
        found["groups"] = []
    return found


def open_text(document: Mapping[str, Any]) -> str:
    """The line above the tables of an open plan."""
    dearest = document["tflops_per_clip_dearest"]
    unit = work_unit(dearest.values())
    return (
        "the plan is decided at run time; what follows is its cheapest case, and at most it costs "
        f"{unit.show(dearest['as_published'], 2)} {unit.name} per clip as published, "
        f"{unit.show(dearest['executed'], 2)} executed"
    )
