"""Schedule strips: every step once, with its role; nothing unescaped."""

from __future__ import annotations

from xml.etree import ElementTree

from lcp_bench.report.strips import steps_of, strip_svg, summary

GROUPS = [{"key": 0, "followers": [], "parallel": False}, {"key": 1, "followers": [2, 3], "parallel": True}]
PLAN = {"steps": 4, "key_steps": [0, 1], "groups": GROUPS}
DECIDED = {
    "steps": 3, "key_steps": [0], "groups": [], "decided_at_run_time": True,
    "decided": {"segments": 4, "mean_key_steps": 1.25, "segments_where_key": [4, 0, 1]},
}  # fmt: skip


def test_steps_of_groups() -> None:
    assert [(step.role, step.key, step.parallel) for step in steps_of(PLAN)] == [
        ("key", 0, False), ("key", 1, False), ("follower", 1, True), ("follower", 1, True),
    ]  # fmt: skip


def test_a_plan_without_groups_follows_its_key_steps() -> None:
    steps = steps_of({"steps": 5, "key_steps": [0, 3]})
    assert [(step.index, step.role, step.key) for step in steps] == [
        (0, "key", 0), (1, "follower", 0), (2, "follower", 0), (3, "key", 3), (4, "follower", 3),
    ]  # fmt: skip


def test_what_was_decided_at_run_time_is_a_share() -> None:
    assert [(step.role, step.key_share) for step in steps_of(DECIDED)] == [("key", 1), ("follower", 0), ("mixed", 0.25)]
    assert summary(DECIDED) == "3 steps, decided at run time: 1.25 key on average over 4 segments"
    assert 'fill-opacity="0.362"' in strip_svg(DECIDED, "gate")


def test_the_strip_is_one_cell_per_step_and_one_bar_per_batch() -> None:
    root = ElementTree.fromstring(strip_svg(PLAN, 'a<b>"&'))
    classes = [cell.get("class") for cell in root]
    assert classes == ["key", "key", "follower", "follower", "together"]
    assert root.get("aria-label") == 'a<b>"&: 4 steps: 2 key, 2 followers; 2 of them in 1 parallel group'
    assert root[2][0].text == "step 2: follows step 1, evaluated together with its group"


def test_no_plan_no_strip() -> None:
    assert steps_of(None) == [] and strip_svg(None, "x") == "" and summary(None) == "no plan in the record"
