"""From rows to a record, on rows made by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lcp_bench import summary
from lcp_bench.accel.schedule import Group, Plan
from lcp_bench.accel.scope import full_scope
from lcp_bench.assemble import WeightsLabel
from lcp_bench.models.topology import unet_topology
from lcp_bench.plan_report import CostReport, ScopeCost
from lcp_bench.preflight import load_run_config
from lcp_bench.record import run_id, validate
from lcp_bench.summary import build_record, headline

IDENTITY = {"model": "hallo", "accel": "none"}
TOPOLOGY = unet_topology(4, 2)
COSTS = CostReport(
    Plan(2, (Group(0), Group(1))),
    {"full": ScopeCost(full_scope(TOPOLOGY), (), 10**12, 8 * 10**11)},
    {0: "full", 1: "full"},
    10**11,
    {"reference": 0, "encode": 0, "decode": 0},
    0,
)
HOST = {
    "host_peak_rss_bytes": 1000, "host_scope": "block", "device_peak_allocated_bytes": None,
    "device_peak_allocated_bytes_reason": "no device memory is tracked on cpu",
}  # fmt: skip


def planned(clips: str = "ab", weights: str = "seeded") -> Any:
    """What named the run."""
    config = load_run_config(["+model=hallo", "+accel=none", "model.size=tiny", "model.weights=seeded",
                              "sampler.steps=2", "measure.bootstrap=100"])  # fmt: skip
    return SimpleNamespace(
        config=config,
        device=torch.device("cpu"),
        manifest=SimpleNamespace(dataset="demo", sha256="0123456789abcdef"),
        clips=tuple(SimpleNamespace(id=name, identity=f"person {name}") for name in clips),
        weights=WeightsLabel(weights, "identity", ({"file": "net.pth", "sha256": "0" * 64, "bytes": 1},)),
        identity=IDENTITY,
        store=SimpleNamespace(run_id=run_id(IDENTITY)),
        processes=1,
    )


def good(name: str, *denoise: float, segments: int = 2, frames: int = 8, cache: int = 5) -> dict[str, Any]:
    """A finished clip: a second of everything else per repeat."""
    stages = {"preprocess": [9.0], "write": [9.0], "encode": [0.5] * len(denoise), "reference": [0.25] * len(denoise)}
    stages |= {"decode": [0.25] * len(denoise), "denoise": list(denoise)}
    counts = {"computed": {"mid": segments * 2}, "reused": {}}
    return {"clip": name, "status": "ok", "frames": frames, "segments": segments, "stages_s": stages,
            "cache_bytes": cache, "engagement": counts, "memory": HOST, "wall_s": 9.0, "repeats_equal": True,
            "inputs": {"face_source": "given", "landmarks_source": "given", "embedding": "absent"}}  # fmt: skip


def bad(name: str) -> dict[str, Any]:
    """A failed clip."""
    return {"clip": name, "status": "failed", "stage": "face", "reason": "no face"}


def build(rows: list[dict[str, Any]], plan: Any = None, pair: Any = None) -> dict[str, Any]:
    """A validated record."""
    record = build_record(plan or planned(), COSTS, rows, pair, "measure.pair is not set", 60.0)
    validate(record)
    return record


def test_means_over_clips_of_means_over_repeats() -> None:
    """Clip a takes 3 s (2 and 4 s, of which 1 is around), clip b 7 s."""
    record = build([good("a", 1.0, 3.0), good("b", 6.0, segments=3, frames=14, cache=9)])
    speed = record["speed"]
    assert speed["seconds_per_clip"]["value"] == pytest.approx((3 + 7) / 2)
    assert speed["denoise_seconds_per_segment"]["value"] == pytest.approx((1.0 + 2.0) / 2)
    assert speed["frames_per_second"]["value"] == pytest.approx((8 / 3 + 2.0) / 2)
    assert speed["seconds_per_clip"]["n"] == 2
    assert record["timings"]["denoise"] == [1.0, 3.0, 6.0]
    assert record["timings"]["preprocess"] == [9.0, 9.0]
    assert record["engagement"] == {"computed": {"mid": 10}, "reused": {}, "segments": 5, "equals_plan": True}
    assert record["cache_bytes"] == 9
    assert record["status"] == "complete"


def test_failed_clips_are_counted_and_named() -> None:
    record = build([bad("a"), good("b", 6.0)])
    assert record["status"] == "complete"
    assert record["clips"] == {
        "n_expected": 2, "n_ok": 1, "n_failed": 1, "failed": [{"clip": "a", "stage": "face", "reason": "no face"}],
        "identities": {"a": "person a", "b": "person b"},
    }  # fmt: skip
    assert record["speed"]["seconds_per_clip"]["n"] == 1


def test_missing_rows_make_it_partial() -> None:
    record = build([good("b", 6.0)])
    assert record["status"] == "partial"
    assert "1 of 2" in record["status_reason"]


def test_nothing_worked() -> None:
    record = build([bad("a"), bad("b")])
    assert record["status"] == "failed"
    assert "no face" in record["status_reason"]
    assert record["speed"] is None
    assert headline(record)["seconds_per_clip"] is None


def test_rows_of_other_clips_are_left_out() -> None:
    record = build([good("a", 1.0), good("stranger", 100.0), good("b", 1.0)])
    assert record["clips"]["n_ok"] == 2
    assert record["timings"]["denoise"] == [1.0, 1.0]


def test_quality_is_null_with_its_reason() -> None:
    rows = [good("a", 1.0), good("b", 1.0)]
    assert "random weights" in build(rows)["quality_reason"]
    assert "no metric" in build(rows, planned(weights="public"))["quality_reason"]


def test_work_of_the_plan() -> None:
    """Two full steps: as published 2 x 1e12, executed 2 x 0.8e12 and the constants once, two FLOP each."""
    flops = build([good("a", 1.0), good("b", 1.0)])["flops"]
    assert flops["tflops_per_clip"]["as_published"] == pytest.approx(4.0)
    assert flops["tflops_per_clip"]["executed"] == pytest.approx(3.4)
    assert flops["speedup_bound"] == 1.0


def test_work_at_the_true_foreground_stands_beside_the_assumed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios 0.2 and 0.4 in the finest map: the plan is counted again at their mean."""
    rows = [good("a", 1.0), good("b", 1.0)]
    for row, ratio in zip(rows, (0.2, 0.4), strict=True):
        row["inputs"] |= {"foreground_ratio": [ratio, 0.9], "foreground_source": "given"}
    asked = []

    def counted(_: Any, ratio: float) -> CostReport:
        asked.append(ratio)
        return replace(COSTS, foreground_ratio=ratio, prepare_macs=2 * 10**11)

    monkeypatch.setattr(summary, "cost_report", counted)
    assert "at_true_foreground" not in build(rows)["flops"], "no attention is restricted"
    monkeypatch.setattr(sys.modules[__name__], "COSTS", replace(COSTS, foreground_ratio=0.5))
    record = build(rows)
    assert asked == [pytest.approx(0.3)]
    assert record["flops"]["foreground_ratio_assumed"] == 0.5
    assert record["flops"]["tflops_per_clip"]["executed"] == pytest.approx(3.4)
    true = record["flops"]["at_true_foreground"]
    assert (true["foreground_ratio"], true["n"]) == (pytest.approx(0.3), 2)
    assert true["tflops_per_clip"]["executed"] == pytest.approx(3.6)
    assert record["notes"]["foreground_ratio"] == {"mean": pytest.approx(0.3), "low": 0.2, "high": 0.4, "n": 2}
    assert record["notes"]["foreground_source"] == {"given": 2}


def test_what_the_inputs_were_and_whether_repeats_agreed() -> None:
    other = good("b", 1.0, 1.0) | {"repeats_equal": False}
    other["inputs"] = {"face_source": "found", "landmarks_source": "given", "embedding": "absent"}
    notes = build([good("a", 1.0, 1.0), other])["notes"]
    assert notes["inputs"]["face_source"] == {"given": 1, "found": 1}
    assert notes["inputs"]["embedding"] == {"absent": 2}
    assert notes["repeats_equal"] is False
    once = build([good("a", 1.0)])["notes"]
    assert once["repeats_equal"] is None
    assert "measure.repeats" in once["repeats_equal_reason"]


@pytest.mark.parametrize(
    ("limit", "seconds", "label"),
    [(None, None, "demo:01234567"), (None, 0.5, "demo:01234567:0.5s"), (2, None, "demo:01234567:first 2")],
)
def test_label_of_the_data_set(limit: int | None, seconds: float | None, label: str) -> None:
    plan = planned()
    config = plan.config
    plan.config = replace(
        config, run=replace(config.run, limit=limit), dataset=replace(config.dataset, max_seconds=seconds)
    )
    assert build([good("a", 1.0), good("b", 1.0)], plan)["labels"]["dataset"] == label


def test_headline() -> None:
    rows = [good("a", 1.0), good("b", 1.0)]
    pair = {"baseline": "none", "ratio": 2.5, "low": 2.0, "high": 3.0, "n": 2, "level": 0.95,
            "samples": {"baseline_s": [5.0, 5.0], "accelerated_s": [2.0, 2.0]}}  # fmt: skip
    line = headline(build(rows, pair=pair))
    assert (line["speedup"], line["speedup_interval"], line["clips_ok"]) == (2.5, [2.0, 3.0], 2)
    assert line["quality"] is None and line["quality_reason"]
    plain = headline(build(rows))
    assert (plain["speedup"], plain["speedup_interval"]) == (None, None)


def test_home_folders_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    plan = planned()
    plan.config = replace(plan.config, paths=replace(plan.config.paths, weights="/home/someone/weights"))
    record = build([good("a", 1.0), good("b", 1.0)], plan)
    assert "/home/someone" not in str(record["config"])
