"""The schedule of a run as a strip: one cell per step, from the record's plan. Pure text, no plotting library.

A key step evaluates everything, a follower reuses features; followers that are evaluated together share a bar.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

CELL_PX, HEIGHT_PX, BAR_PX, GAP_PX = 16, 22, 5, 2


@dataclass(frozen=True)
class Step:
    """One step of a schedule.

    Attributes:
        index: In sampling order; 0 is the noisiest.
        role: `key`, `follower`, or `mixed`: key in some segments only, where that was decided at run time.
        group: Number of the group, counted from 0; None where segments differ.
        key: The group's key step; None where segments differ.
        parallel: Whether it is evaluated together with its group's other followers.
        key_share: Share of the segments in which it was key, in 0..1.
    """

    index: int
    role: str
    group: int | None
    key: int | None
    parallel: bool
    key_share: float


def steps_of(plan: Mapping[str, Any] | None) -> list[Step]:
    """Every step of a record's plan; empty without a plan. A plan without groups has those of its key steps."""
    if plan is None:
        return []
    if "decided" in plan:
        return _decided(plan["decided"])
    found: list[Step] = []
    for number, group in enumerate(plan.get("groups") or _groups_of_keys(plan)):
        key, parallel = int(group["key"]), bool(group["parallel"])
        found.append(Step(key, "key", number, key, False, 1.0))
        found += [Step(int(step), "follower", number, key, parallel, 0.0) for step in group["followers"]]
    return found


def _decided(decided: Mapping[str, Any]) -> list[Step]:
    shares = [count / decided["segments"] for count in decided["segments_where_key"]]
    roles = {0.0: "follower", 1.0: "key"}
    return [Step(index, roles.get(share, "mixed"), None, None, False, share) for index, share in enumerate(shares)]


def _groups_of_keys(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = [*plan["key_steps"], plan["steps"]]
    pairs = itertools.pairwise(keys)
    return [{"key": key, "followers": list(range(key + 1, end)), "parallel": False} for key, end in pairs]


def summary(plan: Mapping[str, Any] | None) -> str:
    """One line for people.

    >>> summary({"steps": 3, "key_steps": [0], "groups": [{"key": 0, "followers": [1, 2], "parallel": True}]})
    '3 steps: 1 key, 2 followers; 2 of them in 1 parallel group'
    >>> summary({"steps": 2, "key_steps": [0, 1]})
    '2 steps, all key'
    """
    steps = steps_of(plan)
    if not steps:
        return "no plan in the record"
    if plan is not None and "decided" in plan:
        decided = plan["decided"]
        return (
            f"{len(steps)} steps, decided at run time: {decided['mean_key_steps']:.3g} key on average over "
            f"{decided['segments']} segments"
        )
    followers = [step for step in steps if step.role == "follower"]
    if not followers:
        return f"{len(steps)} steps, all key"
    text = f"{len(steps)} steps: {len(steps) - len(followers)} key, {len(followers)} followers"
    together = [step for step in followers if step.parallel]
    groups = len({step.group for step in together})
    if together:
        text += f"; {len(together)} of them in {groups} parallel group{'s' if groups > 1 else ''}"
    return text


def strip_svg(plan: Mapping[str, Any] | None, label: str) -> str:
    """The strip as one SVG element for a page whose style sheet colours `.key`, `.follower` and `.together`.

    Args:
        plan: The record's plan.
        label: Name of the run, for readers who cannot see it.

    Returns:
        The element, escaped; empty text without a plan.
    """
    steps = steps_of(plan)
    if not steps:
        return ""
    width, height = CELL_PX * len(steps), HEIGHT_PX + GAP_PX + BAR_PX
    parts = [_cell(step) for step in steps] + _bars(steps)
    return (
        f'<svg class="strip" role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'aria-label="{escape(f"{label}: {summary(plan)}")}">{"".join(parts)}</svg>'
    )


def _cell(step: Step) -> str:
    # Steps that were key in some segments are as full as their share.
    opacity = f' fill-opacity="{0.15 + 0.85 * step.key_share:.3g}"' if step.role == "mixed" else ""
    return (
        f'<rect class="{step.role}"{opacity} x="{CELL_PX * step.index + 1}" y="0" width="{CELL_PX - 2}" '
        f'height="{HEIGHT_PX}" rx="2"><title>step {step.index}: {_what(step)}</title></rect>'
    )


def _what(step: Step) -> str:
    if step.role == "key":
        return "key, evaluates everything"
    if step.role == "mixed":
        return f"key in {step.key_share:.0%} of the segments"
    if step.key is None:
        return "reuses features in every segment"
    return f"follows step {step.key}{', evaluated together with its group' if step.parallel else ''}"


def _bars(steps: list[Step]) -> list[str]:
    """A bar under each set of followers that are one batch."""
    together: dict[int, list[int]] = {}
    for step in steps:
        if step.parallel and step.group is not None:
            together.setdefault(step.group, []).append(step.index)
    return [
        f'<rect class="together" x="{CELL_PX * min(indices) + 1}" y="{HEIGHT_PX + GAP_PX}" '
        f'width="{CELL_PX * len(indices) - 2}" height="{BAR_PX}" rx="2"/>'
        for indices in together.values()
    ]
