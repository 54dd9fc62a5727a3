"""From rows to a record: the only place where a run's numbers are aggregated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lcp_bench.clip_runner import GENERATION_STAGES
from lcp_bench.measure.clock import STAGES, utc_now
from lcp_bench.measure.device import across, device_state
from lcp_bench.measure.memory import worst
from lcp_bench.measure.statistics import mean_interval
from lcp_bench.open_plans import after_the_fact
from lcp_bench.plan_report import CostReport, as_document, cost_report
from lcp_bench.provenance import command_line, git_state, tidy_paths, versions
from lcp_bench.quality_block import short
from lcp_bench.record import RECORD_SCHEMA

if TYPE_CHECKING:
    from lcp_bench.config import RunConfig
    from lcp_bench.runner import RunPlan

NO_CLIP = "no clip could be generated"
NOT_SCORED = "no metric has been run on these videos"
MIN_CLIPS = 3
SEEDED = "random weights make no face: quality means nothing"


def build_record(
    planned: RunPlan,
    costs: CostReport,
    rows: Sequence[Mapping[str, Any]],
    pair: dict[str, Any] | None,
    pair_reason: str,
    wall_seconds: float,
) -> dict[str, Any]:
    """The record of a run.

    Args:
        planned: What named the run.
        costs: Its plan with costs.
        rows: One row per clip.
        pair: The paired measurement, or None.
        pair_reason: Why there is none.
        wall_seconds: Time of this process on the run; a resumed run counts its last process.
    """
    config = planned.config
    wanted = {clip.id for clip in planned.clips}
    rows = [row for row in rows if row["clip"] in wanted]
    good = [row for row in rows if row["status"] == "ok"]
    costs = after_the_fact(costs, good)
    document, true_work = as_document(config, costs), _at_true_foreground(config, costs, good)
    failed = [{key: row[key] for key in ("clip", "stage", "reason")} for row in rows if row["status"] == "failed"]
    seeded = planned.weights.label == "seeded"
    record: dict[str, Any] = {
        "schema_version": RECORD_SCHEMA,
        "run_id": planned.store.run_id,
        **_status(len(wanted), len(good), failed),
        "identity": planned.identity,
        "config": _echo(asdict(config)),
        "command_line": command_line(),
        "model": {key: getattr(config.model, key) for key in ("name", "size", "weights", "dtype", "image_size")},
        "accel": dict(config.accel),
        "plan": _plan(document),
        "labels": {
            "weights": planned.weights.label,
            "metric_backbones": None,
            "metric_backbones_reason": NOT_SCORED,
            "dataset": _dataset_label(planned),
        },
        "clips": {
            **{"n_expected": len(wanted), "n_ok": len(good), "n_failed": len(failed), "failed": failed},
            **_identities(planned),
        },
        "pair": pair,
        "quality": None,
        "quality_reason": SEEDED if seeded else NOT_SCORED,
        "flops": _flops(document, _bound_across(costs, document, planned.processes), true_work),
        "device": across(device_state(planned.device), planned.processes),
        "versions": versions(),
        "git": git_state(),
        "weights": list(planned.weights.files),
        "created_utc": utc_now(),
        "wall_seconds": wall_seconds,
        "notes": {"inputs": _input_notes(good), **_repeats_equal(good), **_foreground(good)},
        **_measured(good, config.measure.bootstrap, costs.loop_tflops),
    }
    if pair is None:
        record["pair_reason"] = pair_reason
    return record


def headline(record: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers for the last line of a run."""
    speed, pair = record["speed"], record["pair"]
    return {
        "run_id": record["run_id"],
        "status": record["status"],
        "model": record["model"]["name"],
        "accel": record["accel"]["name"],
        "weights": record["labels"]["weights"],
        "clips_ok": record["clips"]["n_ok"],
        "clips_failed": record["clips"]["n_failed"],
        "clips_expected": record["clips"]["n_expected"],
        "seconds_per_clip": speed["seconds_per_clip"]["value"] if speed else None,
        "denoise_seconds_per_segment": speed["denoise_seconds_per_segment"]["value"] if speed else None,
        "frames_per_second": speed["frames_per_second"]["value"] if speed else None,
        "speedup": pair["ratio"] if pair else None,
        "speedup_interval": [pair["low"], pair["high"]] if pair else None,
        "speedup_bound": record["flops"]["speedup_bound"] if record["flops"] else None,
        "quality": short(record["quality"], ("videos",)),
        "quality_reason": record.get("quality_reason"),
    }


def _status(expected: int, good: int, failed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = good + len(failed)
    if not good:
        first = failed[0]["reason"] if failed else "no clip was processed"
        return {"status": "failed", "status_reason": f"no clip could be generated; the first reason: {first}"}
    if done < expected:
        return {"status": "partial", "status_reason": f"{done} of {expected} clips have a row"}
    return {"status": "complete"}


def _identities(planned: RunPlan) -> dict[str, dict[str, str]]:
    """Who is in which clip; nothing where the data set does not know."""
    found = {clip.id: clip.identity for clip in planned.clips if clip.identity}
    return {"identities": found} if found else {}


def _echo(values: Any) -> Any:
    """A configuration as plain JSON, private paths shortened."""
    if isinstance(values, Mapping):
        return {str(key): _echo(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_echo(value) for value in values]
    return tidy_paths(values) if isinstance(values, str) else values


def _plan(document: Mapping[str, Any]) -> dict[str, Any]:
    groups = [{key: value for key, value in group.items() if value is not None} for group in document["groups"]]
    opened = ("decided_at_run_time", "decided")
    known = {name: document[name] for name in opened if name in document}
    return {"steps": document["steps"], "key_steps": document["key_steps"], "groups": groups, **known}


def _flops(document: Mapping[str, Any], *more: Mapping[str, Any]) -> dict[str, Any]:
    """The work that a record keeps of its plan's document, and what changes or completes it."""
    names = (
        "tflops_per_clip",
        "tflops_per_clip_unaccelerated",
        "tflops_around_per_clip",
        "speedup_bound",
        "speedup_bound_as_published",
        "speedup_bound_free_followers",
        "frames_per_clip",
    )
    found = {name: document[name] for name in (*names, "as_coded") if name in document}
    for each in more:
        found |= each
    return found


def _bound_across(costs: CostReport, document: Mapping[str, Any], processes: int) -> dict[str, float]:
    """Where several processes share followers: the bound by the work of the busiest one, beside that of one device."""
    if processes == 1:
        return {}
    own = document["tflops_per_clip"]["executed"]
    for group in costs.plan.groups:
        for name, alike in groupby(group.followers if group.parallel else (), key=costs.scope_of.__getitem__):
            count = len(list(alike))
            spared = count - math.ceil(count / processes)
            own -= spared * document["scopes"][name]["tflops_per_step"]["executed"]
    bound = document["tflops_per_clip_unaccelerated"]["executed"] / own
    return {"speedup_bound": bound, "speedup_bound_one_device": document["speedup_bound"]}


def _dataset_label(planned: RunPlan) -> str:
    """Equal text means the same clips, cut to the same length."""
    label = f"{planned.manifest.dataset}:{planned.manifest.sha256[:8]}"
    if planned.config.dataset.max_seconds is not None:
        label += f":{planned.config.dataset.max_seconds:g}s"
    return label if planned.config.run.limit is None else f"{label}:first {len(planned.clips)}"


def _input_notes(good: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many clips had their face box, landmarks and embedding, and where there is one their emotion, from where."""
    counts: dict[str, dict[str, int]] = {}
    for name in ("face_source", "landmarks_source", "embedding"):
        counts[name] = dict(Counter(str(row["inputs"][name]) for row in good))
    emotions = Counter(str(row["inputs"]["emotion_source"]) for row in good if "emotion_source" in row["inputs"])
    return {**counts, "emotion": dict(emotions)} if emotions else counts


def _repeats_equal(good: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether every clip's repeats gave the same frames; null where nothing was repeated."""
    if not any(len(row["stages_s"]["denoise"]) > 1 for row in good):
        return {"repeats_equal": None, "repeats_equal_reason": "no clip was generated twice; set measure.repeats"}
    return {"repeats_equal": all(row["repeats_equal"] for row in good)}


def _foreground(good: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """True share of the foreground in the finest map, and who said so, where the strategy restricts attention to it."""
    ratios = _true_ratios(good)
    if not ratios:
        return {}
    sources = Counter(str(row["inputs"]["foreground_source"]) for row in good if "foreground_ratio" in row["inputs"])
    return {
        "foreground_ratio": {"mean": _mean(ratios), "low": min(ratios), "high": max(ratios), "n": len(ratios)},
        "foreground_source": dict(sources),
    }


def _true_ratios(good: Sequence[Mapping[str, Any]]) -> list[float]:
    """Foreground's share of the finest map, one per clip whose row knows it."""
    return [row["inputs"]["foreground_ratio"][0] for row in good if "foreground_ratio" in row["inputs"]]


def _at_true_foreground(config: RunConfig, costs: CostReport, good: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Work at the foreground that the clips really had, beside the work at the one that the plan assumes.

    The ratio is the clips' mean in the finest map, taken for every map.
    """
    ratios = _true_ratios(good)
    if costs.foreground_ratio is None or not ratios:
        return {}
    ratio = _mean(ratios)
    document = as_document(config, after_the_fact(cost_report(config, ratio), good))
    names = ("tflops_per_clip", "speedup_bound", "speedup_bound_as_published")
    return {
        "foreground_ratio_assumed": costs.foreground_ratio,
        "at_true_foreground": {"foreground_ratio": ratio, "n": len(ratios), **{key: document[key] for key in names}},
    }


def _measured(good: Sequence[Mapping[str, Any]], bootstrap: int, loop_tflops: float) -> dict[str, Any]:
    """Everything that comes from timed clips, or null with a reason."""
    names = ("engagement", "timings", "speed", "memory", "cache_bytes")
    if not good:
        return {key: value for name in names for key, value in ((name, None), (f"{name}_reason", NO_CLIP))}
    return {
        "engagement": _engagement(good),
        "timings": {
            stage: [sample for row in good for sample in row["stages_s"].get(stage, ())]
            for stage in STAGES
            if any(stage in row["stages_s"] for row in good)
        },
        "speed": _speed(good, bootstrap, loop_tflops),
        "memory": worst(row["memory"] for row in good),
        "cache_bytes": max(row["cache_bytes"] for row in good),
    }


def _engagement(good: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Evaluations and reuses per layer, summed over clips, segments and steps; they were checked against the plan."""
    totals: dict[str, dict[str, int]] = {"computed": {}, "reused": {}}
    for row in good:
        for kind, counts in row["engagement"].items():
            for name, count in counts.items():
                per_name = totals.setdefault(kind, {})
                per_name[name] = per_name.get(name, 0) + count
    return {**totals, "segments": sum(row["segments"] for row in good), "equals_plan": True}


def _generation(row: Mapping[str, Any]) -> list[float]:
    """Seconds of the generation stages, one per repeat."""
    stages = [row["stages_s"][stage] for stage in GENERATION_STAGES if stage in row["stages_s"]]
    return [sum(parts) for parts in zip(*stages, strict=True)]


def _speed(good: Sequence[Mapping[str, Any]], bootstrap: int, loop_tflops: float) -> dict[str, Any]:
    """Means over clips (each clip's mean over its repeats), with intervals over clips."""
    seconds = [_mean(_generation(row)) for row in good]
    denoise = [_mean(row["stages_s"]["denoise"]) / row.get("passes", row["segments"]) for row in good]
    rates = [row["frames"] / time for row, time in zip(good, seconds, strict=True)]
    estimates = {
        "seconds_per_clip": seconds,
        "denoise_seconds_per_segment": denoise,
        "frames_per_second": rates,
        "denoise_tflops_per_second": [loop_tflops / time for time in denoise],
    }
    return {name: _estimate(samples, bootstrap) for name, samples in estimates.items()}


def _estimate(samples: Sequence[float], bootstrap: int) -> dict[str, Any]:
    """Mean over clips; with fewer than three the interval of a time would reach below zero, so none is given."""
    found = mean_interval(samples, resamples=bootstrap)
    if len(samples) < MIN_CLIPS and found.low is not None:
        found = replace(found, low=None, high=None, reason=f"{len(samples)} clips are too few for an interval")
    return found.as_dict()


def _mean(samples: Sequence[float]) -> float:
    return sum(samples) / len(samples)
