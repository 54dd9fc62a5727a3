"""Finished runs without a model: records, rows and scores for the tests of tables, checks, pages and notebooks.

`write_records(folder)` makes 2 models x 4 strategies x 2 data sets x 6 clips (3 people, 2 takes each), with scores,
stage times and paired speed-ups, and beside them what a real sweep has too: a run that was interrupted, one with
random weights, and a clip that failed. The form is the real one: `tests/data/records/templates.json` holds records of
one clip as `lcp_bench.summary` built them (`python tests/unit/report_records.py` makes it anew, in minutes), and times
and scores are made up here and go through the code that aggregates them in a run. Everything is a function of names, so
that equal calls give equal bytes.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lcp_bench.measure.statistics import ratio_interval
from lcp_bench.quality_block import block_key, videos_digest, with_quality
from lcp_bench.record import canonical_json, run_id, validate
from lcp_bench.store import RunStore
from lcp_bench.summary import NOT_SCORED, SEEDED, _measured, _status
from metrics.cache import Gap
from metrics.intervals import clip_interval
from metrics.score import Score

TEMPLATES = Path(__file__).resolve().parent.parent / "data" / "records" / "templates.json"
MODELS = {"mini": ("synth_hdtf", "synth_mead"), "hallo": ("hdtf", "mead")}
STRATEGIES = ("none", "deepcache", "lcp", "lcp_dfa_rm")
ALL_STRATEGIES = (
    *("none", "fewer_steps", "deepcache", "faster_diffusion"),
    *("lcp", "lcp_dfa", "lcp_dfa_rm", "lcp_no_estimation"),
)
"""Every strategy that has a template; `STRATEGIES` is what `write_records` writes unless told otherwise."""
PEOPLE, TAKES = 3, 2
DAMAGE = {
    "none": 0.0, "fewer_steps": 0.30, "deepcache": 0.12, "faster_diffusion": 0.25, "lcp": 0.08, "lcp_dfa": 0.10,
    "lcp_dfa_rm": 0.11, "lcp_no_estimation": 0.20,
}  # fmt: skip
BASE_S = {"mini": 1.6, "hallo": 24.0}
# Name, value of the unaccelerated run, unit, direction; per set of metrics.
SCORES: dict[str, tuple[tuple[str, float, str, str], ...]] = {
    "mini": (
        ("fvd_motion", 8.0, "squared feature units", "lower"), ("fvd_frames", 3.0, "squared feature units", "lower"),
        ("fid", 12.0, "squared feature units", "lower"), ("efid", 0.2, "squared feature units", "lower"),
        ("sync_c", 0.8, "distance of unit vectors, 0..2", "higher"),
    ),
    "paper": (
        ("fvd", 135.0, "squared feature units", "lower"), ("fid", 5.0, "squared feature units", "lower"),
        ("efid", 0.16, "squared feature units", "lower"), ("lse_c", 7.4, "embedding units", "higher"),
    ),
}  # fmt: skip
FIDELITY = (("psnr_vs_unaccelerated", 34.0, "dB", "higher"), ("ssim_vs_unaccelerated", 0.95, "1", "higher"))
LABELS = {"mini": "mini", "paper": "public"}
SETS = {"mini": "mini", "hallo": "paper"}
VERSIONS = {"torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.7"}


def write_records(
    folder: Path | str,
    *,
    models: Iterable[str] = tuple(MODELS),
    strategies: Sequence[str] = STRATEGIES,
    people: int = PEOPLE,
    extras: bool = True,
) -> list[Path]:
    """Write runs into `folder`; returns the path of every record, in the order written.

    Args:
        folder: Of all runs, as `paths.runs`.
        models: Of `MODELS`; `mini` has mini weights and scores, `hallo` public ones (both made up).
        strategies: Of `ALL_STRATEGIES`.
        people: Of each data set; each speaks `TAKES` times.
        extras: Also write, with model `mini`: a run that was interrupted after 3 clips (`lcp`, a sampler seed of 7),
            one with random weights (`lcp`), and let one clip of `deepcache` on the first data set fail.
    """
    written = []
    for model in models:
        for dataset in MODELS[model]:
            for accel in strategies:
                fails = extras and (model, dataset, accel) == ("mini", MODELS["mini"][0], "deepcache")
                written.append(write_run(folder, model, accel, dataset, people=people, failing=1 if fails else 0))
    if extras:
        first = MODELS["mini"][0]
        written.append(write_run(folder, "mini", "lcp", first, people=people, seed=7, done=3))
        written.append(write_run(folder, "mini", "lcp", first, people=people, weights="seeded"))
    return written


def write_run(
    folder: Path | str,
    model: str,
    accel: str,
    dataset: str,
    *,
    people: int = PEOPLE,
    seed: int = 42,
    weights: str | None = None,
    failing: int = 0,
    done: int | None = None,
    scored: bool = True,
    paired: bool = True,
    **changes: Any,
) -> Path:
    """Write one run: its rows and its record.

    Args:
        folder: Of all runs.
        model: Of `MODELS`.
        accel: Of `ALL_STRATEGIES`.
        dataset: Any name.
        people: Of the data set.
        seed: Of the sampler.
        weights: Label; None takes the model's own. `seeded` carries no scores.
        failing: How many clips failed (the last ones).
        done: Clips that have a row; None for all of them, fewer make the run partial.
        scored: Whether it has quality.
        paired: Whether it has a speed-up.
        **changes: Top-level fields of the record to replace, `identity` excluded.
    """
    ids = clip_ids(dataset, people)
    label = weights or {"mini": "mini", "hallo": "public"}[model]
    record = _head(model, accel, dataset, seed, label, len(ids))
    rows = _rows(record, model, ids[: len(ids) if done is None else done], failing)
    good = [row for row in rows if row["status"] == "ok"]
    failed = [{key: row[key] for key in ("clip", "stage", "reason")} for row in rows if row["status"] == "failed"]
    record.pop("status_reason", None)
    record |= {
        **_status(len(ids), len(good), failed),
        **_measured(good, 100, record["flops"]["tflops_per_clip"]["executed"]),
    }
    record["clips"] = _clips(ids, good, failed)
    if paired and accel != "none":
        record.pop("pair_reason", None)
        record["pair"] = _pair(record, model)
    record |= _unscored(label)
    if scored and label != "seeded" and done is None:
        record = with_quality(record, _quality(record, rows, ids, SETS[model]))
    record |= changes
    validate(record)
    with RunStore(folder, record["run_id"]) as store:
        for row in rows:
            store.append_row(row)
        return store.write_record(record)


def _unscored(label: str) -> dict[str, Any]:
    return {"quality": None, "quality_reason": SEEDED if label == "seeded" else NOT_SCORED}


def _clips(ids: Sequence[str], good: Sequence[Any], failed: Sequence[Any]) -> dict[str, Any]:
    counts = {"n_expected": len(ids), "n_ok": len(good), "n_failed": len(failed), "failed": list(failed)}
    return {**counts, "identities": {name: name.rpartition("_")[0] for name in ids}}


def clip_ids(dataset: str, people: int = PEOPLE) -> list[str]:
    """`<data set>-person<k>_<take>`: the person is what stands in front of the last underscore."""
    return [f"{dataset}-person{person}_{take}" for person in range(people) for take in range(TAKES)]


@cache
def _templates() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TEMPLATES.read_text(encoding="utf-8"))
    return found


def _generator(*names: object) -> np.random.Generator:
    digest = hashlib.sha256("|".join(map(str, names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _head(model: str, accel: str, dataset: str, seed: int, label: str, clips: int) -> dict[str, Any]:
    """Everything that is known before the first clip."""
    record: dict[str, Any] = copy.deepcopy(_templates()[f"{model}/{accel}"])
    manifest = _sha(f"{dataset}:{clips}")
    record["config"]["sampler"]["seed"] = record["identity"]["sampler"]["seed"] = seed
    record["config"]["dataset"] |= {"name": dataset, "root": f"data/{dataset}"}
    record["identity"]["dataset"] |= {"name": dataset, "manifest_sha256": manifest}
    if not dataset.startswith("synth"):
        record["config"]["dataset"]["synthetic"] = None
        record["identity"]["dataset"].pop("synthetic", None)
    choice = "seeded" if label == "seeded" else "checkpoint"
    for each in (record["config"]["model"], record["identity"]["model"], record["model"]):
        each["weights"] = choice
    record["identity"]["weights"] = f"{label}:{_sha(model)[:16]}"
    record["labels"] |= {"weights": label, "dataset": f"{dataset}:{manifest[:8]}"}
    record["weights"] = (
        [] if label == "seeded" else [{"file": f"{model}.safetensors", "sha256": _sha(model), "bytes": 1000}]
    )
    seeded = " model.weights=seeded" if label == "seeded" else ""
    chosen = f"+dataset={dataset}" + ("" if seed == 42 else f" sampler.seed={seed}")
    record["command_line"] = f"python -m lcp_bench +model={model} +accel={accel}{seeded} {chosen} +metric={SETS[model]}"
    record["run_id"] = run_id(record["identity"])
    return record


def _rows(record: dict[str, Any], model: str, ids: Sequence[str], failing: int) -> list[dict[str, Any]]:
    accel, broken = record["accel"]["name"], set(ids[len(ids) - failing :])
    segment = record["engagement"]
    rows: list[dict[str, Any]] = []
    for name in ids:
        if name in broken:
            rows.append(
                {"clip": name, "status": "failed", "stage": "face", "reason": "no face found in the first frame"}
            )
            continue
        noise = _generator(model, accel, name).normal(1.0, 0.02, 6)
        denoise = BASE_S[model] / record["flops"]["speedup_bound"] ** 0.95
        parts = {"preprocess": 0.06, "encode": 0.03, "reference": 0.04, "decode": 0.12, "write": 0.02}
        seconds = {stage: share * BASE_S[model] for stage, share in parts.items()} | {"denoise": denoise}
        rows.append({
            "clip": name, "status": "ok", "frames": 16, "segments": 1, "video": f"clips/{name}.mp4",
            "frames_sha256": _sha(f"{record['run_id']}/{name}"), "repeats_equal": True,
            "stages_s": {stage: [float(seconds[stage] * factor)] for stage, factor in zip(seconds, noise, strict=True)},
            "cache_bytes": record["cache_bytes"], "memory": record["memory"],
            "engagement": {kind: segment[kind] for kind in ("computed", "reused")},
            "inputs": {"face_source": "given", "landmarks_source": "given", "embedding": "given"}, "wall_s": 2.0,
        })  # fmt: skip
    return rows


def _pair(record: dict[str, Any], model: str) -> dict[str, Any]:
    draws = _generator("pair", model, record["run_id"]).normal(1.0, 0.02, (2, 5))
    base = (BASE_S[model] * draws[0]).tolist()
    own = (BASE_S[model] / record["flops"]["speedup_bound"] ** 0.95 * draws[1]).tolist()

    def ratio(around: float) -> dict[str, Any]:
        samples = {"baseline_s": [each + around for each in base], "accelerated_s": [each + around for each in own]}
        found = ratio_interval(samples["baseline_s"], samples["accelerated_s"], resamples=100).as_dict()
        return {"baseline": "none", "ratio": found.pop("value"), **found, "samples": samples}

    return {**ratio(0.0), "stage": "denoise", "generation": ratio(0.19 * BASE_S[model])}


# Scores


def _quality(record: dict[str, Any], rows: list[dict[str, Any]], ids: list[str], name: str) -> dict[str, Any]:
    """One block, as `lcp_bench.quality` writes it."""
    accel, good = record["accel"]["name"], [row["clip"] for row in rows if row["status"] == "ok"]
    asked = {"set": name, "metrics": ["fvd", "fid", "efid", "sync", "fidelity"], "bootstrap": 200, "min_clips": 2,
             "weights": {"net": _sha(name)}}  # fmt: skip
    sides: dict[str, dict[str, Any]] = {"videos": {}, "reference": {}}
    names = [*SCORES[name], *(FIDELITY if accel != "none" else ())]
    for each, base, unit, direction in names:
        values = {clip: _value(each, base, direction, accel, clip) for clip in good}
        sides["videos"][each] = _score(each, values, ids, unit, direction, name)
        if accel == "none" or each.endswith("_vs_unaccelerated"):
            continue
        plain = {clip: _value(each, base, direction, "none", clip) for clip in ids}
        sides.setdefault("baseline", {})[each] = _score(each, plain, ids, unit, direction, name)
        minus = {clip: values[clip] - plain[clip] for clip in good}
        sides.setdefault("difference", {})[f"{each}_minus_baseline"] = _score(
            f"{each}_minus_baseline", minus, ids, unit, direction, name
        )
    for each, base, unit, direction in SCORES[name]:
        real = {
            clip: _value(each, base * (1.1 if direction == "higher" else 0.3), direction, "none", clip) for clip in ids
        }
        if direction == "higher":
            sides["reference"][each] = _score(each, real, ids, unit, direction, name)
        else:
            half = dict(list(real.items())[: len(real) // 2])
            sides["reference"][f"{each}_floor"] = _score(f"{each}_floor", half, list(half), unit, direction, name)
    if accel == "none":
        why = "this run is the unaccelerated one: it is what the others are compared with"
        for each, *_ in FIDELITY:
            sides["videos"] |= {each: None, f"{each}_reason": why}
        twin: dict[str, Any] = {"baseline": None, "baseline_reason": why}
    else:
        twin = {"baseline": {"run_id": _twin(record), "videos": _sha(_twin(record))[:16]}}
    every = {
        score["protocol"]: score["name"]
        for side in sides.values()
        for score in side.values()
        if isinstance(score, dict)
    }
    block = {
        "set": name, "asked": asked, "inputs": {"videos": videos_digest(rows, ids), **twin}, "scores": sides,
        "protocols": {key: {"metric": metric.split("_minus")[0].split("_floor")[0], "bootstrap": 200}
                      for key, metric in every.items()},
        "created_utc": "2025-01-31T13:00:00Z", "command_line": record["command_line"], "versions": dict(VERSIONS),
        "git": dict(record["git"]),
    }  # fmt: skip
    return {block_key(asked): block}


def _twin(record: dict[str, Any]) -> str:
    """Id of the unaccelerated run with the same model, data set and seed."""
    plain = copy.deepcopy(_templates()[f"{record['model']['name']}/none"]["identity"])
    kept = {key: record["identity"][key] for key in record["identity"] if key != "accel"}
    return run_id({**kept, "accel": plain["accel"]})


def _value(name: str, base: float, direction: str, accel: str, clip: str) -> float:
    """Depends on the person most, on the clip less, on the strategy least."""
    person = _generator(name, clip.rpartition("_")[0]).normal(0.0, 0.10)
    own = _generator(name, clip).normal(0.0, 0.03)
    change = 0.0 if accel == "none" else DAMAGE[accel] * (1 + _generator(name, accel, clip).normal(0.0, 0.3))
    return float(base * (1 + person + own) * (1 - 0.3 * change if direction == "higher" else 1 + change))


def _score(
    name: str, values: dict[str, float], ids: Sequence[str], unit: str, direction: str, metrics: str
) -> dict[str, Any]:
    """A mean over clips with its interval over people."""
    numbers = np.array(list(values.values()))
    people = [clip.rpartition("_")[0] for clip in values]
    interval = clip_interval(
        lambda drawn: float(numbers[drawn].mean()), float(numbers.mean()), numbers.size, 50, 0, identities=people
    )
    protocol = _sha(f"{metrics}/{name.split('_minus')[0].split('_floor')[0]}")[:16]
    gaps = {clip: Gap("missing", "it was not generated: failed at face") for clip in ids if clip not in values}
    backbone = "no backbone" if name.startswith(("psnr", "ssim")) else LABELS[metrics]
    made: Any = Score(
        name, float(numbers.mean()), unit, direction, numbers.size, len(ids), 16 * numbers.size, interval,  # type: ignore[arg-type]
        protocol, backbone, gaps,
    )  # fmt: skip
    found: dict[str, Any] = made.as_dict()
    return found


# Templates


def make_templates() -> dict[str, Any]:
    """Records of one clip, as a run's last step builds them, for every model and strategy (minutes, no weights)."""
    found = {}
    for model in MODELS:
        for accel in ALL_STRATEGIES:
            found[f"{model}/{accel}"] = _template(model, accel)
    return found


def _template(model: str, accel: str) -> dict[str, Any]:
    import torch

    from lcp_bench.assemble import WeightsLabel
    from lcp_bench.identity import run_identity
    from lcp_bench.plan_report import cost_report
    from lcp_bench.preflight import load_run_config
    from lcp_bench.summary import build_record

    config = load_run_config([f"+model={model}", f"+accel={accel}", "model.weights=seeded", "+dataset=synth_hdtf"])
    manifest: Any = SimpleNamespace(dataset="synth_hdtf", sha256="0" * 64)
    weights = WeightsLabel("seeded", "seeded-v1:0")
    device = torch.device("cpu")
    identity = run_identity(config, manifest, weights, device)
    identity |= {"source_sha256": "0" * 64, "versions": dict(VERSIONS), "device": {"label": "Some GPU", "threads": 1}}
    costs = cost_report(config)
    row = {
        "clip": "a", "status": "ok", "frames": 16, "segments": 1, "repeats_equal": True,
        "stages_s": {name: [1.0] for name in ("encode", "reference", "denoise", "decode")},
        "cache_bytes": costs.cache_bytes, "engagement": _counts(costs), "memory": _MEMORY,
        "inputs": {"face_source": "given", "landmarks_source": "given", "embedding": "given"},
    }  # fmt: skip
    planned: Any = SimpleNamespace(
        config=config, device=device, manifest=manifest, clips=(SimpleNamespace(id="a", identity=None),),
        weights=weights, identity=identity, store=SimpleNamespace(run_id=run_id(identity)), processes=1,
    )  # fmt: skip
    made = build_record(planned, costs, [row], None, "measure.pair is null: only this strategy was timed", 60.0)
    made |= {
        "versions": dict(VERSIONS), "git": {"commit": "a" * 40, "dirty": False}, "created_utc": "2025-01-31T12:00:00Z",
        "command_line": "", "device": {"type": "cuda", "name": "Some GPU", "label": "Some GPU", "torch": "2.13.0"},
    }  # fmt: skip
    for emptied in ("timings", "speed"):
        made[emptied] = {}
    plain: dict[str, Any] = json.loads(canonical_json(made))
    return plain


_MEMORY = {
    "host_peak_rss_bytes": 1_500_000_000, "host_scope": "block", "device_peak_allocated_bytes": 9_000_000_000,
    "device_peak_reserved_bytes": 10_000_000_000,
}  # fmt: skip


def _counts(costs: Any) -> dict[str, dict[str, int]]:
    """What a segment computes and reuses, layer by layer."""
    computed: dict[str, int] = {}
    reused: dict[str, int] = {}
    for name in costs.scope_of.values():
        cost = costs.scopes[name]
        for layer in sorted(cost.scope.evaluated):
            computed[layer] = computed.get(layer, 0) + 1
        for read in cost.reads:
            reused[read] = reused.get(read, 0) + 1
    return {"computed": computed, "reused": reused}


if __name__ == "__main__":
    lines = [f" {json.dumps(key)}: {canonical_json(record)}" for key, record in make_templates().items()]
    TEMPLATES.parent.mkdir(parents=True, exist_ok=True)
    TEMPLATES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
