"""Runs that end before their end, and the same command that goes on: full disks, equal failures, another writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcp_bench import runner
from lcp_bench.clip_runner import ClipRunner, PreparedClip
from lcp_bench.errors import ClipError, RepeatedError, StoreError, WeightsError
from lcp_bench.failure import read_requests
from lcp_bench.record import validate
from lcp_bench.status import statuses
from runs import Bench, refuse_to_write


def break_clip(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception | None) -> list[str]:
    """Generating one clip raises; returns the clips that were asked for."""
    asked: list[str] = []
    generate = ClipRunner.generate

    def guarded(self: ClipRunner, prepared: PreparedClip, *rest: Any) -> Any:
        asked.append(prepared.inputs.clip.id)
        if error is not None and prepared.inputs.clip.id == name:
            raise error
        return generate(self, prepared, *rest)

    monkeypatch.setattr(ClipRunner, "generate", guarded)
    return asked


def test_a_full_disk_is_recorded_and_the_same_command_goes_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bench.usual(runs=tmp_path / "whole")
    with monkeypatch.context() as patch:
        refuse_to_write(patch, "demo_ben", OSError(28, "No space left on device"))
        with pytest.raises(StoreError, match="No space left"):
            bench.run()
    store = bench.store()
    record = store.read_record()
    assert record is not None
    validate(record)
    assert (record["status"], record["clips"]["n_ok"], record["clips"]["n_expected"]) == ("partial", 1, 2)
    assert "No space left" in record["status_reason"]
    assert record["notes"]["failure"]["kind"] == "StoreError"
    (found,) = statuses(bench.runs)
    assert (found.state, found.ok, found.expected, found.lock) == ("partial", 1, 2, "free")
    again = bench.run()
    assert (again.folder.name, again.hashes, again.summary.exit_code) == (whole.folder.name, whole.hashes, 0)
    assert "failure" not in again.record["notes"]
    assert [run.state for run in statuses(bench.runs)] == ["complete"]


def test_a_failure_that_cannot_be_recorded_is_still_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes nothing at all."""
    break_clip(monkeypatch, "demo_ada", StoreError("full"))
    monkeypatch.setattr(runner.RunStore, "write_record", lambda *_: (_ for _ in ()).throw(StoreError("full too")))
    with pytest.raises(StoreError, match="^full$"):
        bench.run()
    (found,) = statuses(bench.runs)
    assert (found.state, found.model, found.accel, found.expected) == ("killed", "hallo", "lcp", 2)


def test_equal_failures_end_a_run_and_the_next_command_tries_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        asked = break_clip(patch, "demo_ada", RuntimeError("CUDA out of memory: 2 GiB"))
        with pytest.raises(RepeatedError, match=r"1 clips in a row failed alike at denoise.*1 more"):
            bench.run("run.fail_fast=1")
        assert asked == ["demo_ada"]
    record = json.loads((bench.store().path / "record.json").read_text())
    assert record["status"] == "failed"
    assert "out of memory" in record["status_reason"]
    asked = break_clip(monkeypatch, "", None)
    assert bench.run("run.fail_fast=1").printed["clips_ok"] == 1
    assert asked == ["demo_ben"]


def test_what_is_wrong_with_a_portrait_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    break_clip(monkeypatch, "demo_ada", ClipError("no face", clip="demo_ada", stage="face"))
    assert bench.run("run.fail_fast=1").printed["clips_ok"] == 1


def test_who_waited_for_a_run_finds_it_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.usual()
    seen = iter([False, True])
    monkeypatch.setattr(runner, "_is_done", lambda planned: next(seen))
    asked = break_clip(monkeypatch, "", None)
    again = bench.run("run.wait_s=5")
    assert (asked, again.printed["already_complete"], again.record) == ([], True, first.record)


def test_missing_weights_are_a_failed_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise WeightsError("net.pth is missing")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "describe_weights", missing)
        with pytest.raises(WeightsError):
            bench.run()
    (found,) = statuses(bench.runs)
    assert (found.state, found.model, found.reason) == ("failed", "hallo", "could not begin: net.pth is missing")
    bench.run()
    assert read_requests(bench.runs) == []


def test_the_cost_of_a_dry_run_is_that_of_past_runs(bench: Bench) -> None:
    past = bench.usual()
    dry = bench.run("sampler.seed=5", "run.dry=true").printed
    assert dry["expected_seconds"] == pytest.approx(2 * past.record["speed"]["seconds_per_clip"]["value"], abs=0.01)
    assert bench.run("+accel=none", "run.dry=true").printed["expected_seconds"] is None
