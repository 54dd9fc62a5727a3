"""Sweeps without a launcher, experiments, and what ends them early."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from recorder import Recorder, Result

from lcp_bench.config import RunConfig
from lcp_bench.errors import StoreError
from lcp_bench.preflight import CONF, check_command, hydra_app

RunCli = Callable[..., Result]
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
REAL = {"hdtf", "mead"}


def test_an_experiment_is_a_sweep(run_cli: RunCli, recorder: Recorder) -> None:
    result = run_cli("+experiment=main_mini", "dataset=synth_mead", "model.weights=seeded")
    assert (result.code, result.err.splitlines()[-1]) == (0, "0 of 4 jobs failed")
    made = [(config.model.name, config.dataset.name, config.accel_name) for config, _ in recorder.runs]
    assert made == [("mini", "synth_mead", name) for name in ("none", "deepcache", "faster_diffusion", "lcp_dfa_rm")]
    config = recorder.runs[0][0]
    assert (config.metric.name, config.measure.pair, config.model.weights) == ("mini", "none", "seeded")


def test_the_same_run_at_two_budgets_is_made_once(run_cli: RunCli, recorder: Recorder) -> None:
    words = ("+experiment=pareto_mini", "accel=none,lcp", "model.presets.budget=0.5,1.0")
    assert run_cli(*words).err.splitlines()[-1] == "0 of 4 jobs failed"
    made = [(config.accel_name, config.model.presets.key_steps) for config, _ in recorder.runs]
    assert made == [("none", 3), ("lcp", 3), ("lcp", 6)]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_valid(name: str) -> None:
    with hydra_app() as hydra:
        command = check_command(hydra, [f"+experiment={name}"])
    assert command.sweep
    datasets = {job.config.dataset.name for job in command.jobs}
    models = {job.config.model.name for job in command.jobs}
    if name.endswith("_mini"):
        assert models == {"mini"} and not datasets & REAL
        assert {job.config.metric.name for job in command.jobs} == {"mini"}
    else:
        assert "mini" not in models and datasets <= REAL
        assert {job.config.metric.name for job in command.jobs} == {"paper"}
    assert {job.config.measure.pair for job in command.jobs} == {"none"}
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"+experiment={name}" in text, "the head of the file shows its command"


def full_disk(config: RunConfig) -> None:
    """Every run meets it in its own folder."""
    raise StoreError(
        f"{config.paths.runs}/{config.accel_name}/rows.jsonl must be writable, got: No space left on device"
    )


def test_equal_errors_end_a_sweep(run_cli: RunCli, recorder: Recorder) -> None:
    recorder.fail = full_disk
    words = ("-m", "+model=hallo", "+accel=none,lcp,deepcache,taylorseer")
    result = run_cli(*words, "run.fail_fast=2")
    assert (result.code, len(recorder.runs)) == (1, 2)
    *_, untried, summary = result.err.splitlines()
    assert summary == "4 of 4 jobs failed, 2 of them were not tried"
    assert "accel=taylorseer" in untried and "2 runs in a row" in untried and "No space left" in untried


@pytest.mark.slow
def test_equal_errors_do_not_end_a_sweep_that_wants_all(run_cli: RunCli, recorder: Recorder) -> None:
    recorder.fail = full_disk
    run_cli("-m", "+model=hallo", "+accel=none,lcp,deepcache", "run.fail_fast=null")
    assert len(recorder.runs) == 3


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["single", "sweep"])
def test_sigterm_ends_in_good_order(flags: tuple[str, ...], run_cli: RunCli, recorder: Recorder) -> None:
    cleaned: list[str] = []

    def fail(config: RunConfig) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 5)
        finally:
            cleaned.append(config.accel_name)

    recorder.fail = fail
    result = run_cli(*flags, "+model=hallo", "+accel=lcp")
    assert (result.code, cleaned) == (143, ["lcp"])
    assert "give the same command again" in result.err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
def test_a_sweep_says_what_it_consists_of(run_cli: RunCli, tmp_path: Path) -> None:
    run_cli("-m", "+model=hallo", "+accel=none,lcp")
    content = json.loads((tmp_path / "runs" / ".sweep" / "sweep.json").read_text())
    assert content["jobs"] == [["model=hallo", "accel=none"], ["model=hallo", "accel=lcp"]]
