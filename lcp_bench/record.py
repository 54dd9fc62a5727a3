"""The record of one run: its fields (schema version 1) and the checks it passes before it is written or shown.

A record is plain JSON. Units are in the field names (`_s` seconds, `_bytes`). A field that is `null` outside the
configuration echoes (`identity`, `config`, `model`, `accel`) carries its cause in `<field>_reason` beside it, so that
a missing number can never be mistaken for zero or be dropped in silence.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from lcp_bench.errors import StoreError
from lcp_bench.quality_check import check_quality
from lcp_bench.record_check import expect as _expect
from lcp_bench.record_check import is_int as _is_int
from lcp_bench.record_check import is_number as _is_number

RECORD_SCHEMA = 1
Status = Literal["complete", "partial", "failed"]


class Labels(TypedDict):
    """What made the numbers; rows with different labels are never compared.

    weights: `public` (released checkpoint), `mini` (the repository's trained model) or `seeded` (random weights).
    metric_backbones: labels of all scores (`public`, `mini`, joined by `; `), or null with a reason.
    dataset: name and short manifest hash, e.g. `folder:1f0c2ab9`; equal text means the same clips.
    """

    weights: Literal["public", "mini", "seeded"]
    metric_backbones: str | None
    metric_backbones_reason: NotRequired[str]
    dataset: str


class FailedClip(TypedDict):
    """One clip without a result: its id, the stage that failed, and the message."""

    clip: str
    stage: str
    reason: str


class Clips(TypedDict):
    """Counts over the data set: `n_ok + n_failed <= n_expected`; equality is what makes a record `complete`.

    identities: clip to the person in it, where the data set knows; intervals of scores are over people then.
    """

    n_expected: int
    n_ok: int
    n_failed: int
    failed: list[FailedClip]
    identities: NotRequired[dict[str, str]]


class Estimate(TypedDict):
    """A number with its interval and sample count; `low`/`high` are null with a reason when n < 2."""

    value: float
    low: float | None
    high: float | None
    n: int
    level: float
    low_reason: NotRequired[str]
    high_reason: NotRequired[str]


class Pair(TypedDict):
    """A speed-up measured interleaved with its baseline in one process.

    ratio: total baseline seconds / total accelerated seconds; above 1 the strategy is faster. samples: paired seconds
    `baseline_s` and `accelerated_s`, equally long; n is that length.
    """

    baseline: str
    ratio: float
    low: float | None
    high: float | None
    n: int
    level: float
    samples: dict[str, list[float]]
    low_reason: NotRequired[str]
    high_reason: NotRequired[str]


class WeightFile(TypedDict):
    """One weight file: name relative to the weights folder, sha256 in hex, size in bytes."""

    file: str
    sha256: str
    bytes: int


class Record(TypedDict):
    """One run, schema version 1. Every key is required; optional are `<key>_reason`, and `notes` for free remarks.

    identity: everything that can change a number; `run_id` is its hash. config: the resolved configuration.
    model: at least `name`, `size`, `dtype`. accel: at least `name`. plan: at least `steps` and `key_steps`.
    timings: stage -> every sample in seconds. speed: `seconds_per_clip`, `frames_per_second`, ... as `Estimate`s.
    flops: `tflops_per_clip` {`as_published`, `executed`} (1 multiply-add = 2 FLOP, 1e12) and `speedup_bound`.
    memory: see `lcp_bench.measure.memory`. device: see `lcp_bench.measure.device`. quality: see `quality_check`.
    """

    schema_version: int
    run_id: str
    status: Status
    status_reason: NotRequired[str]
    identity: dict[str, Any]
    config: dict[str, Any]
    command_line: str
    model: dict[str, Any]
    accel: dict[str, Any]
    plan: dict[str, Any] | None
    engagement: dict[str, Any] | None
    labels: Labels
    clips: Clips
    timings: dict[str, list[float]] | None
    speed: dict[str, Estimate] | None
    pair: Pair | None
    pair_reason: NotRequired[str]
    quality: dict[str, Any] | None
    quality_reason: NotRequired[str]
    flops: dict[str, Any] | None
    memory: dict[str, Any] | None
    cache_bytes: int | None
    device: dict[str, Any] | None
    versions: dict[str, Any]
    git: dict[str, Any]
    weights: list[WeightFile]
    created_utc: str
    wall_seconds: float
    notes: NotRequired[dict[str, Any]]


# Not `__required_keys__`: with deferred annotations Python 3.11 does not see NotRequired there.
_REQUIRED = tuple(sorted(k for k in Record.__annotations__ if k != "notes" and not k.endswith("_reason")))
_NULLABLE = frozenset(
    ("plan", "engagement", "timings", "speed", "pair", "quality", "flops", "memory", "cache_bytes", "device")
)
_MAY_HOLD_NULLS = frozenset({"identity", "config", "model", "accel"})
_TYPES: dict[str, type | tuple[type, ...]] = {
    "identity": dict, "config": dict, "command_line": str, "model": dict, "accel": dict, "plan": dict,
    "engagement": dict, "labels": dict, "clips": dict, "timings": dict, "speed": dict, "pair": dict, "quality": dict,
    "flops": dict, "memory": dict, "cache_bytes": int, "device": dict, "versions": dict, "git": dict, "weights": list,
    "created_utc": str, "wall_seconds": (int, float),
}  # fmt: skip
_INNER: dict[str, tuple[str, ...]] = {
    "model": ("name", "size", "dtype"),
    "accel": ("name",),
    "plan": ("steps", "key_steps"),
    "speed": ("seconds_per_clip", "frames_per_second"),
    "flops": ("tflops_per_clip", "speedup_bound"),
    "device": ("type", "label"),
    "git": ("commit", "dirty"),
    "labels": ("weights", "metric_backbones", "dataset"),
    "clips": ("n_expected", "n_ok", "n_failed", "failed"),
    "pair": ("baseline", "ratio", "low", "high", "n", "samples"),
}


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: keys sorted, no spaces, ASCII; equal content gives equal text.

    Tuples count as lists. `1` and `1.0` are different values, as they are in JSON.

    Raises:
        StoreError: a value that JSON cannot hold exactly (NaN, infinity, a non-string key, any other Python type).
    """
    check_json(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_id(identity: Mapping[str, Any]) -> str:
    """The name of a run: the first 12 hex digits of the sha256 of its identity's canonical JSON.

    >>> run_id({"model": "hallo", "steps": 40}) == run_id({"steps": 40, "model": "hallo"})
    True
    """
    return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()[:12]


def check_json(value: Any, where: str) -> None:
    """Raise StoreError at the first place in `value` that JSON cannot hold exactly; `where` names the root."""
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StoreError(f"{where} must be a finite number, got {value}; write null and {where}_reason instead")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise StoreError(f"{where} must have text keys only, got {key!r}; convert the key to text first")
            check_json(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            check_json(inner, f"{where}[{index}]")
    else:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise StoreError(f"{where} must be plain JSON, got {kind}; convert it to int, float, str, list or dict first")


def validate(record: Mapping[str, Any]) -> Record:
    """Check a record against schema version 1 and return it unchanged.

    Raises:
        StoreError: names the first field that breaks the schema, what was expected there and what came.
    """
    version = record.get("schema_version")
    if version != RECORD_SCHEMA or isinstance(version, bool):
        raise StoreError(
            f"record.schema_version must be {RECORD_SCHEMA}, got {version!r}; "
            "read it with the release that wrote it, or run its command again"
        )
    check_json(record, "record")
    _check_keys(record)
    for name, kind in _TYPES.items():
        if record[name] is not None or name not in _NULLABLE:
            _expect(isinstance(record[name], kind), f"record.{name}", f"a {_kind_name(kind)}", record[name])
    for name, keys in _INNER.items():
        for key in keys if record[name] is not None else ():
            _expect(key in record[name], f"record.{name}", f"an object with the key {key!r}", sorted(record[name]))
    for name in sorted(set(record) - _MAY_HOLD_NULLS):
        _check_nulls(record, name, "record")
    _check_head(record)
    _check_clips(record)
    _check_numbers(record)
    _check_weights(record)
    return cast(Record, record)


def _check_keys(record: Mapping[str, Any]) -> None:
    missing = [key for key in _REQUIRED if key not in record]
    if missing:
        raise StoreError(f"record must have the key {missing[0]!r}, got {sorted(record)}; write null with a reason")
    known = {*_REQUIRED, "notes", *(f"{key}_reason" for key in (*_NULLABLE, "status"))}
    for key in sorted(set(record) - known):
        close = difflib.get_close_matches(key, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else "; put free remarks under 'notes'"
        raise StoreError(f"record.{key} is not a field of schema {RECORD_SCHEMA}{hint}")


def _check_nulls(parent: Mapping[str, Any], key: str, where: str) -> None:
    value, path = parent[key], f"{where}.{key}"
    if value is None:
        reason = parent.get(f"{key}_reason")
        good = isinstance(reason, str) and bool(reason.strip())
        _expect(good, f"{path}_reason", f"text, because {key} is null", reason)
    elif isinstance(value, Mapping):
        for inner in value:
            _check_nulls(value, inner, path)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _expect(item is not None, f"{path}[{index}]", "a value", item)
            if isinstance(item, Mapping):
                for inner in item:
                    _check_nulls(item, inner, f"{path}[{index}]")


def _check_head(record: Mapping[str, Any]) -> None:
    status = record["status"]
    _expect(status in ("complete", "partial", "failed"), "record.status", "complete, partial or failed", status)
    if status != "complete":
        reason = record.get("status_reason")
        _expect(isinstance(reason, str) and bool(reason), "record.status_reason", f"text for a {status} run", reason)
    expected = run_id(record["identity"])
    _expect(record["run_id"] == expected, "record.run_id", f"the hash of record.identity, {expected}", record["run_id"])
    created = record["created_utc"]
    good = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", created) is not None
    _expect(good, "record.created_utc", "UTC as 2025-01-31T12:00:00Z", created)
    _expect(record["wall_seconds"] >= 0, "record.wall_seconds", "0 or more seconds", record["wall_seconds"])


def _check_clips(record: Mapping[str, Any]) -> None:
    clips = record["clips"]
    for key in ("n_expected", "n_ok", "n_failed"):
        count = clips[key]
        _expect(_is_int(count) and count >= 0, f"record.clips.{key}", "a count", count)
    failed = clips["failed"]
    _expect(isinstance(failed, (list, tuple)), "record.clips.failed", "a list", failed)
    _expect(len(failed) == clips["n_failed"], "record.clips.failed", f"{clips['n_failed']} entries", len(failed))
    for index, item in enumerate(failed):
        good = isinstance(item, Mapping) and all(item.get(key) for key in ("clip", "stage", "reason"))
        _expect(good, f"record.clips.failed[{index}]", "an object with clip, stage and reason", item)
    done = clips["n_ok"] + clips["n_failed"]
    _expect(done <= clips["n_expected"], "record.clips", f"at most {clips['n_expected']} clips with a row", done)
    if record["status"] == "complete":
        _expect(done == clips["n_expected"], "record.clips", "a row for every clip of a complete run", dict(clips))
        _expect(clips["n_ok"] > 0, "record.clips.n_ok", "1 or more (else the run has failed)", clips["n_ok"])


def _check_numbers(record: Mapping[str, Any]) -> None:
    for stage, samples in (record["timings"] or {}).items():
        good = isinstance(samples, (list, tuple)) and all(_is_number(s) and s >= 0 for s in samples)
        _expect(good, f"record.timings.{stage}", "a list of seconds", samples)
    for name, estimate in (record["speed"] or {}).items():
        if estimate is not None:
            _check_estimate(estimate, "value", f"record.speed.{name}")
    pair = record["pair"]
    if pair is not None:
        _check_estimate(pair, "ratio", "record.pair")
        for side in ("baseline_s", "accelerated_s"):
            got = pair["samples"].get(side)
            good = isinstance(got, (list, tuple)) and len(got) == pair["n"]
            _expect(good, f"record.pair.samples.{side}", f"{pair['n']} paired samples", got)


def _check_estimate(block: Any, name: str, where: str) -> None:
    good = isinstance(block, Mapping) and _is_number(block.get(name)) and _is_int(block.get("n")) and block["n"] >= 1
    _expect(good, where, f"an object with numbers {name!r} and n >= 1", block)
    low, high = block.get("low"), block.get("high")
    _expect((low is None) == (high is None), where, "both ends of the interval or none", block)
    if low is not None:
        _expect(low <= block[name] <= high, where, f"low <= {name} <= high", [low, block[name], high])


def _check_weights(record: Mapping[str, Any]) -> None:
    labels, quality = record["labels"], record["quality"]
    kinds = ("public", "mini", "seeded")
    _expect(labels["weights"] in kinds, "record.labels.weights", "public, mini or seeded", labels["weights"])
    backbones = labels["metric_backbones"]
    good = backbones is None or (isinstance(backbones, str) and bool(backbones))
    _expect(good, "record.labels.metric_backbones", "text or null", backbones)
    if labels["weights"] == "seeded":
        _expect(quality is None, "record.quality", "null: seeded (random) weights can never carry a score", quality)
    check_quality(quality or {})
    for index, item in enumerate(record["weights"]):
        good = isinstance(item, Mapping) and isinstance(item.get("file"), str) and _is_int(item.get("bytes"))
        good = good and re.fullmatch(r"[0-9a-f]{64}", str(item.get("sha256"))) is not None
        _expect(good, f"record.weights[{index}]", "an object with file, sha256 (64 hex digits) and bytes", item)
    if labels["weights"] != "seeded" and record["status"] == "complete":
        _expect(bool(record["weights"]), "record.weights", f"the files of the {labels['weights']} weights", [])


def _kind_name(kind: type | tuple[type, ...]) -> str:
    names: dict[type, str] = {dict: "object", str: "text", int: "whole number", list: "list", float: "number"}
    return names[kind] if isinstance(kind, type) else names[kind[-1]]


def pair_block(
    baseline: str, interval: Mapping[str, Any], baseline_s: Sequence[float], accelerated_s: Sequence[float]
) -> Pair:
    """The record's `pair` from the result of `statistics.ratio_interval(...).as_dict()` and its paired samples.

    Args:
        baseline: name of the strategy in the numerator, usually `none`.
        interval: `value`, `low`, `high`, `n`, `level` of baseline seconds / accelerated seconds.
        baseline_s: seconds of the baseline, one per pair.
        accelerated_s: seconds of the accelerated run, one per pair, same order.
    """
    samples = {"baseline_s": [float(s) for s in baseline_s], "accelerated_s": [float(s) for s in accelerated_s]}
    rest = {key: value for key, value in interval.items() if key != "value"}
    return cast(Pair, {"baseline": baseline, "ratio": interval["value"], **rest, "samples": samples})
