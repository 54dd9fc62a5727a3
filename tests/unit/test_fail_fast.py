"""Equal errors in a row, in a run and in a sweep; failures that leave a note."""

from __future__ import annotations

import types
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lcp_bench.config import RunConfig
from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.fail_fast import InARow, kind_of
from lcp_bench.failure import read_requests, request_key, request_recorded
from lcp_bench.launch import JobOutcome
from lcp_bench.preflight import load_run_config
from lcp_bench.turns import in_turn


def test_what_differs_from_clip_to_clip_makes_no_other_error() -> None:
    assert kind_of("out of memory: 2.5 GiB at 0x7f3a") == kind_of("out of memory: 12 GiB at 0xdead")
    assert kind_of("cannot write /tmp/a/b.mp4: full") == kind_of("cannot write runs/x.mp4: full")
    assert kind_of("out of memory") != kind_of("disk full")


def test_only_equal_ones_in_a_row_count() -> None:
    failures = InARow(3)
    assert [failures.failed(text) for text in ("full 1", "full 2", "other", "full 3", "full 4")] == [False] * 5
    assert failures.failed("full 5") and failures.enough
    failures.worked()
    assert not failures.failed("full 6")
    never = InARow(None)
    assert not any(never.failed("full") for _ in range(100))


@cache
def composed(*words: str) -> RunConfig:
    """The configuration of hallo with some words."""
    return load_run_config(["model=hallo", *words])


def sweep(tmp_path: Path, *accels: str, fail_fast: int | None = 2) -> Any:
    """A checked sweep of several strategies."""
    jobs = []
    for name in accels:
        config = composed(f"accel={name}")
        paths, run = replace(config.paths, runs=str(tmp_path)), replace(config.run, fail_fast=fail_fast)
        jobs.append(types.SimpleNamespace(config=replace(config, paths=paths, run=run), overrides=(f"accel={name}",)))
    return types.SimpleNamespace(jobs=jobs)


def broken(job: Any) -> JobOutcome:
    """Every run finds the disk full, at another place."""
    return JobOutcome(1, job.overrides, f"{job.config.paths.runs}/{job.config.accel_name} is full", costly=True)


def test_a_sweep_ends_after_equal_failures_and_says_what_it_did_not_try(tmp_path: Path) -> None:
    outcomes = in_turn(sweep(tmp_path, "none", "lcp", "deepcache", "taylorseer"), broken)
    assert [outcome.exit_code for outcome in outcomes] == [1, 1, 1, 1]
    untried = [outcome.message.startswith("not tried: 2 runs in a row") for outcome in outcomes]
    assert untried == [False, False, True, True]
    assert "run.fail_fast=null" in outcomes[-1].message
    everything = in_turn(sweep(tmp_path, "none", "lcp", "deepcache", fail_fast=None), broken)
    assert not any("not tried" in outcome.message for outcome in everything)


def test_failures_before_any_work_do_not_count(tmp_path: Path) -> None:
    """Weights of one model that are missing say nothing about the next one."""
    tried: list[str] = []

    def missing(job: Any) -> JobOutcome:
        tried.append(job.config.accel_name)
        return JobOutcome(1, job.overrides, "net.pth is missing")

    in_turn(sweep(tmp_path, "none", "lcp", "deepcache", "taylorseer"), missing)
    assert tried == ["none", "lcp", "deepcache", "taylorseer"]


def test_the_same_run_by_other_words_is_made_once(tmp_path: Path) -> None:
    command = sweep(tmp_path, "none", "lcp", "none")
    made: list[str] = []

    def work(job: Any) -> JobOutcome:
        made.append(job.config.accel_name)
        return JobOutcome(0, job.overrides)

    assert len(in_turn(command, work)) == 3
    assert made == ["none", "lcp"]
    assert (tmp_path / ".sweep" / "sweep.json").is_file()


def test_a_request_is_known_by_what_changes_its_run() -> None:
    key = request_key(composed("accel=none"))
    assert key == request_key(composed("accel=none", "model.presets.budget=2", "run.debug=true", "paths.runs=x"))
    assert key != request_key(composed("accel=none", "sampler.seed=1"))
    assert key != request_key(composed("accel=none", "run.limit=1"))


def test_a_run_that_cannot_begin_leaves_a_note_until_it_can(tmp_path: Path) -> None:
    (job,) = sweep(tmp_path, "lcp").jobs
    config = job.config
    with pytest.raises(WeightsError), request_recorded(config, ["accel=lcp", "api_key=abc"]):
        raise WeightsError("net.pth is missing")
    (note,) = read_requests(tmp_path)
    assert (note["model"], note["accel"], note["kind"]) == ("hallo", "lcp", "WeightsError")
    assert note["message"] == "net.pth is missing"
    assert "abc" not in str(note["overrides"])
    with request_recorded(config, []):
        pass
    assert read_requests(tmp_path) == []


def test_a_wrong_command_leaves_nothing(tmp_path: Path) -> None:
    (job,) = sweep(tmp_path, "lcp").jobs
    config = job.config
    with pytest.raises(ConfigError), request_recorded(config, []):
        raise ConfigError("wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_cannot_be_written_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    (job,) = sweep(tmp_path / "runs", "lcp").jobs
    config = job.config
    with pytest.raises(WeightsError, match="missing"), request_recorded(config, []):
        raise WeightsError("net.pth is missing")
    assert "cannot be noted" in caplog.text
    (tmp_path / "bad" / ".failed").mkdir(parents=True)
    (tmp_path / "bad" / ".failed" / "x.json").write_text("{")
    assert read_requests(tmp_path / "bad") == []
