"""What `status` says of folders in every state, and what it and dry runs cost."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcp_bench import status
from lcp_bench.dry import NO_PAST, PastCosts, survey
from lcp_bench.record import run_id
from lcp_bench.status import statuses
from lcp_bench.store import RunStore

RecordMaker = Callable[..., dict[str, Any]]
FAILED = [{"clip": "b", "stage": "face", "reason": "no face"}]
ELSEWHERE = {"pid": 7, "host": "a-node-that-is-not-this-one", "since_utc": "2025-01-31T12:00:00Z"}


def put(root: Path, record: dict[str, Any]) -> Path:
    """A run with this record."""
    with RunStore(root, record["run_id"]) as store:
        store.write_record(record)
    return store.path


@pytest.fixture
def runs(tmp_path: Path, make_record: RecordMaker) -> Path:
    """One run in every state."""
    put(tmp_path, make_record("none"))
    put(tmp_path, make_record("lcp", clips={"n_expected": 4, "n_ok": 3, "n_failed": 1, "failed": FAILED}))
    put(tmp_path, make_record("deepcache", status="partial", status_reason="the run ended with an error: disk full",
                              clips={"n_expected": 4, "n_ok": 2, "n_failed": 0, "failed": []}))  # fmt: skip
    (put(tmp_path, make_record("taylorseer")) / "record.json").write_text("{")
    with RunStore(tmp_path, "killed") as store:
        store.write_request({"model": "memo", "accel": "lcp", "dataset": "hdtf:1", "clips": 9, "command_line": "again"})
        store.append_row({"clip": "a", "status": "ok"})
    (tmp_path / "killed" / "lock").write_text(json.dumps(ELSEWHERE))
    os.utime(tmp_path / "killed" / "lock", (1_000_000, 1_000_000))
    (tmp_path / ".failed").mkdir()
    note = {"model": "hallo", "accel": "lcp", "dataset": "hdtf", "message": "net.pth is missing", "command_line": "x"}
    (tmp_path / ".failed" / "0123.json").write_text(json.dumps(note))
    (tmp_path / "not-ours").mkdir()
    return tmp_path


def test_every_state_has_its_reason(runs: Path) -> None:
    found = {(run.model, run.accel): run for run in statuses(runs)}
    states = {key: (run.state, run.ok, run.failed, run.expected, run.lock) for key, run in found.items()}
    assert states == {
        ("hallo", "none"): ("complete", 4, 0, 4, "free"),
        ("hallo", "deepcache"): ("partial", 2, 0, 4, "free"),
        ("", ""): ("unreadable", 0, 0, None, "free"),
        ("memo", "lcp"): ("killed", 1, 0, 9, "dead"),
        ("hallo", "lcp"): ("failed", 0, 0, None, "free"),
    }
    assert "process 7 on a-node" in found["memo", "lcp"].reason
    assert found["memo", "lcp"].command_line == "again"
    assert found["hallo", "deepcache"].reason.endswith("disk full")
    assert found["hallo", "lcp"].reason == "could not begin: net.pth is missing"
    (with_failures,) = [run for run in statuses(runs) if run.failed]
    assert (with_failures.state, with_failures.accel) == ("complete", "lcp")
    assert with_failures.reason == "1 clips failed, the first (b) at face: no face"
    assert found["hallo", "none"].size_bytes > 1000


def test_a_run_that_is_made_now(tmp_path: Path, make_record: RecordMaker) -> None:
    path = put(tmp_path, make_record("none", status="partial", status_reason="1 of 4 clips have a row"))
    with RunStore(tmp_path, path.name):
        (run,) = statuses(tmp_path)
        assert (run.state, run.lock) == ("running", "live")
        assert f"process {os.getpid()}" in run.reason
    (path / "lock").write_text(json.dumps(ELSEWHERE))
    (run,) = statuses(tmp_path)
    assert (run.state, run.lock) == ("running", "live"), "another host's owner that was seen a moment ago"


def test_the_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--runs", str(runs)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"6 runs in {runs}: 2 complete, 1 partial, 1 failed, 1 killed, 1 unreadable; ")
    assert status.main(["--runs", str(runs), "--state", "killed", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [run["run_id"] for run in content["runs"]] == ["killed"]
    assert content["counts"]["complete"] == 2
    assert status.main(["--runs", str(runs / "killed" / "lock")]) == 1
    assert "readable folder" in capsys.readouterr().err
    assert status.main(["--runs", str(runs / "nowhere")]) == 0
    assert list(runs.glob("nowhere")) == []


# ------------------------------------------------------------------ what the rest will cost


def identity(accel: str, *, seed: int = 1, dataset: str = "a", threads: int = 2) -> dict[str, Any]:
    """As `lcp_bench.identity` makes it, shortened."""
    return {
        "model": {"name": "hallo", "size": "tiny", "dtype": "float32", "image_size": 64, "frames_per_segment": 16},
        "accel": {"name": accel},
        "sampler": {"steps": 40, "guidance_scale": 3.5, "seed": seed},
        "dataset": {"name": "demo", "manifest_sha256": dataset, "limit": seed},
        "device": {"label": "Some CPU", "threads": threads},
    }


def planned(root: Path, content: dict[str, Any], clips: int = 4, pair: str | None = None) -> Any:
    """As `runner.plan_run` makes it, as far as a survey reads it."""
    measure = types.SimpleNamespace(repeats=2, warmup_clips=1, pair=pair, pair_clips=1, pair_repeats=3)
    config = types.SimpleNamespace(
        measure=measure, model=types.SimpleNamespace(fps=25.0), paths=types.SimpleNamespace(runs=str(root))
    )
    listed = tuple(types.SimpleNamespace(id=str(number), duration_s=2.0) for number in range(clips))
    return types.SimpleNamespace(config=config, identity=content, clips=listed, store=RunStore(root, run_id(content)))


@pytest.fixture
def past(tmp_path: Path, make_record: RecordMaker) -> Path:
    """One finished run of lcp: 12.5 s per clip, 2 frames per second."""
    content = identity("lcp")
    put(tmp_path, make_record("lcp", identity=content, run_id=run_id(content)))
    return tmp_path


def test_the_cost_of_the_same_clips_is_that_of_a_clip(past: Path) -> None:
    wanted = planned(past, identity("lcp", seed=9))
    assert survey(wanted).expected_s == pytest.approx(12.5 * (4 * 2 + 1))
    with wanted.store as store:
        store.append_row({"clip": "0", "status": "ok"})
        store.append_row({"clip": "gone from the data set", "status": "ok"})
    found = survey(wanted)
    assert (found.state, found.done, found.clips) == ("partial", 1, 4)
    assert found.expected_s == pytest.approx(12.5 * (3 * 2 + 1))


def test_the_cost_of_other_clips_follows_their_length(past: Path) -> None:
    wanted = planned(past, identity("lcp", dataset="b"))
    assert survey(wanted).expected_s == pytest.approx(2.0 * 25 / 2.0 * (4 * 2 + 1))


def test_a_paired_measurement_costs_both_sides(past: Path) -> None:
    wanted = planned(past, identity("lcp", seed=9), pair="none")
    assert survey(wanted).expected_s == pytest.approx(12.5 * 9 + 3 * 2 * 12.5)


@pytest.mark.parametrize("other", [identity("none"), identity("lcp", threads=1)], ids=["strategy", "device"])
def test_what_was_never_run_has_no_cost(past: Path, other: dict[str, Any]) -> None:
    found = survey(planned(past, other))
    assert (found.state, found.expected_s, found.reason) == ("missing", None, NO_PAST)


def test_a_complete_run_costs_nothing_and_a_held_one_is_another_s(past: Path) -> None:
    assert survey(planned(past, identity("lcp"))).state == "complete"
    wanted = planned(past, identity("lcp", seed=9))
    with wanted.store:
        found = survey(wanted)
    assert found.state == "running"
    assert f"process {os.getpid()}" in found.reason


def test_records_that_cannot_be_read_tell_no_cost(past: Path) -> None:
    for name, content in (("x", "{"), ("y", "{}"), ("z", "[]")):
        (past / name).mkdir()
        (past / name / "record.json").write_text(content)
    assert len(PastCosts.below(past).known) == 1
