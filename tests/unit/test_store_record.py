"""The schema of a record: what it accepts, and every lie it refuses."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from quality_records import block, score

from lcp_bench.errors import StoreError
from lcp_bench.record import canonical_json, pair_block, run_id, validate


def test_a_valid_record_is_returned_unchanged_and_survives_json(make_record: Callable[..., dict[str, Any]]) -> None:
    record = make_record()
    before = copy.deepcopy(record)
    assert validate(record) is record
    assert record == before
    assert validate(json.loads(json.dumps(record))) == record


def test_run_id_depends_on_content_only() -> None:
    assert run_id({"a": 1, "b": (1, 2)}) == run_id({"b": [1, 2], "a": 1})
    assert run_id({"a": 1}) != run_id({"a": 2})
    assert run_id({"a": 0.1}) != run_id({"a": 0.10000000000000002})
    assert len(run_id({})) == 12
    # A published run keeps its name for ever: a change of the hash is a change of the schema.
    assert run_id({"model": "hallo", "steps": 40, "scale": 3.5}) == "fd09c69f4490"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1: "a"}, {"a": {2, 3}}, b"x", object()])
def test_what_json_cannot_hold_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(StoreError, match="value"):
        canonical_json({"inner": [value]})


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = record
        for name in parents:
            target = target[int(name)] if isinstance(target, list) else target[name]
        if value is KeyError:
            del target[last]
        else:
            target[last] = value

    return change


ESTIMATE = {"value": 1.0, "low": 0.5, "high": 2.0, "n": 3, "level": 0.95}

REFUSED = [
    ("schema_version", 2, "schema_version must be 1, got 2"),
    ("schema_version", True, "schema_version"),
    ("schema_version", KeyError, "schema_version"),
    ("pair", KeyError, "must have the key 'pair'"),
    ("pair_reason", KeyError, "pair_reason"),
    ("pair_reason", "  ", "pair_reason"),
    ("qualty", {}, "did you mean 'quality'"),
    ("status", "done", "complete, partial or failed"),
    ("status", "failed", "status_reason"),
    ("run_id", "0" * 12, "the hash of record.identity"),
    ("identity.seed", 43, "the hash of record.identity"),
    ("quality", {"fid": ESTIMATE}, "seeded .* never carry a score"),
    ("speed.seconds_per_clip.value", math.nan, "finite"),
    ("timings.denoise", [1.0, math.inf], "finite"),
    ("timings.denoise", [-1.0], "seconds"),
    ("speed.seconds_per_clip.n", 0, "n >= 1"),
    ("speed.seconds_per_clip.low", 99.0, "low <= value <= high"),
    ("speed.seconds_per_clip.low", None, "low_reason"),
    ("speed.seconds_per_clip", KeyError, "seconds_per_clip"),
    ("flops.speedup_bound", None, "speedup_bound_reason"),
    ("flops.tflops_per_clip.executed", None, "executed_reason"),
    ("device.label", KeyError, "label"),
    ("git.commit", None, "commit_reason"),
    ("labels.weights", "random", "public, mini or seeded"),
    ("labels.dataset", KeyError, "dataset"),
    ("clips.n_ok", 3, "a row for every clip"),
    ("clips.n_ok", 5, "at most 4"),
    ("clips.n_ok", True, "a count"),
    ("clips.n_failed", 1, "1 entries"),
    ("weights.0.sha256", "abc", "64 hex"),
    ("created_utc", "31.1.2025", "UTC"),
    ("wall_seconds", -1.0, "seconds"),
    ("cache_bytes", 1.5, "whole number"),
    ("config", None, "record.config must be a object"),
    ("engagement", {"per_layer": [None]}, "a value"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=[f"{p}={v!r}"[:40] for p, v, _ in REFUSED])
def test_a_wrong_field_is_refused_by_name(
    make_record: Callable[..., dict[str, Any]], path: str, value: Any, message: str
) -> None:
    record = make_record()
    _set(path, value)(record)
    with pytest.raises(StoreError, match=message):
        validate(record)


def test_public_weights_may_carry_quality_but_need_their_files(make_record: Callable[..., dict[str, Any]]) -> None:
    labels = {"weights": "public", "metric_backbones": "public", "dataset": "folder:0a1b2c3d"}
    quality = {"paper:0123abcd": block(score("fid", label="public"), name="paper")}
    record = make_record(labels=labels, quality=quality)
    validate(record)
    with pytest.raises(StoreError, match="the files of the public weights"):
        validate(record | {"weights": []})


def test_a_run_without_results_is_a_record_too(make_record: Callable[..., dict[str, Any]]) -> None:
    empty = {name: None for name in ("timings", "speed", "memory", "engagement", "plan", "flops", "device")}
    reasons = {f"{name}_reason": "the weights do not fit" for name in empty}
    failed = [{"clip": "a", "stage": "face", "reason": "no face"}]
    clips = {"n_expected": 4, "n_ok": 0, "n_failed": 1, "failed": failed}
    validate(make_record(status="failed", status_reason="the weights do not fit", clips=clips, **empty, **reasons))
    with pytest.raises(StoreError, match="n_ok"):
        validate(make_record(clips=clips | {"n_expected": 1}))


def test_pair_block_is_accepted_and_counts_its_samples(make_record: Callable[..., dict[str, Any]]) -> None:
    interval = {"value": 2.0, "low": 1.8, "high": 2.2, "n": 2, "level": 0.95}
    pair: Any = pair_block("none", interval, [4.0, 4.0], [2.0, 2.0])
    assert pair["ratio"] == 2.0
    record = make_record(pair=pair)
    validate(record)
    pair["samples"]["accelerated_s"].append(2.0)
    with pytest.raises(StoreError, match="2 paired samples"):
        validate(record)
