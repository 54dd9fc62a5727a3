"""Sweeps through submitit: every run has an outcome, and what cannot work is refused before it is submitted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from lcp_bench import launchers, launchers_queue
from lcp_bench.accel.schedule import Plan
from lcp_bench.errors import ConfigError
from lcp_bench.launch import JobOutcome
from lcp_bench.launchers import Task, require_usable, run_until_end, torchrun_command
from lcp_bench.launchers_queue import LaunchError, LocalQueue, Queue, SlurmQueue, collect
from lcp_bench.preflight import check_command, hydra_app

GOOD = ("model=hallo", "accel=lcp")


class _Job:
    """Stands in for submitit's job: it has a result, an error, or neither."""

    def __init__(self, number: int, folder: Path, said: JobOutcome | Exception | None) -> None:
        self.job_id, self._said = f"7_{number}", said
        path = folder / f"{number}.pkl"
        if said is not None:
            path.touch()
        self.paths = SimpleNamespace(folder=folder, result_pickle=path, stderr=folder / f"{number}.err")

    def results(self) -> list[JobOutcome]:
        if isinstance(self._said, Exception):
            raise self._said
        assert self._said is not None
        return [self._said]

    def get_info(self, mode: str) -> dict[str, str]:
        return {"State": "CANCELLED by 0"}


class _Queue(Queue):
    """Holds fewer jobs than there are, and loses those without a result."""

    poll_s = 0.0

    def __init__(self, jobs: Sequence[_Job], answers: list[set[str] | None] | None = None) -> None:
        self._jobs, self.answers, self.most = list(jobs), answers or [], 0

    def room(self, running: int) -> int:
        return 2 - running

    def submit(self, tasks: Sequence[Any]) -> list[Any]:
        now, self._jobs = self._jobs[: len(tasks)], self._jobs[len(tasks) :]
        self.most = max(self.most, len(now))
        return now

    def queued(self, jobs: Sequence[Any]) -> set[str] | None:
        return self.answers.pop(0) if self.answers else set()

    def end_with(self, jobs: Collection[Any]) -> str:
        return f"scancel {len(jobs)}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers_queue, "POLL_S", 0.0)
    monkeypatch.setattr(launchers_queue, "GRACE_S", 0.02)


def _tasks(count: int) -> list[Task]:
    return [Task(None, (f"++sampler.seed={number}",), number) for number in range(count)]


def test_every_run_has_an_outcome(tmp_path: Path) -> None:
    """One well, one failed by its own word, one that raised, one that was killed, in the order of the sweep."""
    said = [JobOutcome(0, ("a",)), JobOutcome(1, ("b",), "no"), RuntimeError("Traceback\nZeroDivisionError: x"), None]
    queue = _Queue([_Job(number, tmp_path, each) for number, each in enumerate(said)])
    outcomes = collect(queue, _tasks(4))
    assert outcomes[:2] == said[:2]
    assert [outcome.exit_code for outcome in outcomes] == [0, 1, 1, 1]
    assert "ZeroDivisionError: x; see" in outcomes[2].message
    killed = outcomes[3]
    assert killed.overrides == ("sampler.seed=3",)
    assert (
        "CANCELLED by 0" in killed.message and "3.err" in killed.message and "give the command again" in killed.message
    )
    assert queue.most == 2


def test_a_queue_that_does_not_answer_loses_no_job(tmp_path: Path) -> None:
    """Nothing is concluded from silence, nor from a job that is seen again after it was missed."""
    job = _Job(0, tmp_path, None)
    queue = _Queue([job], answers=[None, set(), {"7_0"}, None, None])

    class Late(_Queue):
        def queued(self, jobs: Sequence[Any]) -> set[str] | None:
            if len(queue.answers) == 1:
                job._said = JobOutcome(0, ("late",))
                job.paths.result_pickle.touch()
            return queue.queued(jobs)

    assert collect(Late([job]), _tasks(1)) == [JobOutcome(0, ("late",))]


def test_interrupting_says_how_to_end_the_jobs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Interrupted(_Queue):
        def queued(self, jobs: Sequence[Any]) -> set[str] | None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(Interrupted([_Job(0, tmp_path, None)]), _tasks(1))
    assert "1 jobs go on without this process; to end them: scancel 1" in caplog.text


@pytest.mark.parametrize(
    ("code", "out", "err", "expected"),
    [
        (0, "7_0 RUNNING\n7_1 CANCELLED\n7_2 PENDING\n7_3 COMPLETED\n", "", {"7_0", "7_2"}),
        (1, "", "slurm_load_jobs error: Invalid job id specified", set()),
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller", None),
    ],
)
def test_the_queue_is_read(
    monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str, expected: set[str] | None
) -> None:
    done = subprocess.CompletedProcess([], code, out, err)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    assert SlurmQueue({}).queued([SimpleNamespace(job_id="7_0"), SimpleNamespace(job_id="7_1")]) == expected


def test_without_slurm_nothing_is_submitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    options = {"submitit_folder": str(tmp_path / "%j"), "max_num_timeout": 1, "tasks_per_node": 1, "timeout_min": 1}
    with pytest.raises(LaunchError, match="Slurm refused the jobs: .*srun"):
        SlurmQueue(options).submit(_tasks(1))


def test_each_local_run_gets_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    class Executor:
        def __init__(self, folder: str, max_num_timeout: int) -> None:
            pass

        def update_parameters(self, **parameters: Any) -> None:
            seen.append(tuple(parameters["visible_gpus"]))

        def submit(self, task: Task) -> _Job:
            return _Job(task.index, tmp_path, JobOutcome(0, ()))

    monkeypatch.setattr("submitit.LocalExecutor", Executor)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    options = {"submitit_folder": "x", "timeout_min": 1, "gpus_per_node": 2, "array_parallelism": 2}
    assert all(outcome.exit_code == 0 for outcome in collect(LocalQueue(options), _tasks(3)))
    assert seen == [(4, 5), (6, 7), (4, 5)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    with pytest.raises(LaunchError, match="wants 4 GPUs"):
        LocalQueue(options).submit(_tasks(1))


def test_running_out_of_time_is_nobodys_error() -> None:
    """Submitit's handler raises an error wherever the job is: code that makes a clip's error a row must not see it."""

    def handler(signum: int, frame: FrameType | None) -> None:
        raise RuntimeError("Job not requeued because: timed-out too many times.")

    def plugin(*args: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
        except Exception as error:
            return SimpleNamespace(return_value=JobOutcome(1, (), f"a failed clip: {error}"))

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        outcome = Task(plugin, ("++a=1",), 0)()
        assert signal.getsignal(signal.SIGUSR2) is handler
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert outcome.exit_code == 1 and outcome.overrides == ("a=1",)
    assert "timed-out too many times" in outcome.message and "give the command again" in outcome.message


def test_what_a_job_starts_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last signal of a job ends the command that it waits for."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return started[0]

    def handler(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(SystemExit):
            run_until_end(["sleep", "60"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert started[0].poll() == -signal.SIGTERM


def test_the_exit_code_of_what_a_job_starts() -> None:
    assert run_until_end(["sh", "-c", "exit 3"]) == 3


def _plan(*, parallel: bool) -> Plan:
    group = SimpleNamespace(parallel=parallel, followers=(1, 2))
    return SimpleNamespace(groups=(group,))  # type: ignore[return-value]


def _settings(name: str, **options: Any) -> Any:
    target = f"hydra_plugins.hydra_submitit_launcher.submitit_launcher.{name.title()}Launcher"
    launcher = {"_target_": target, "tasks_per_node": 1, "array_parallelism": 1} | options
    return OmegaConf.create({"launcher": launcher, "runtime": {"choices": {"hydra/launcher": name}}})


@pytest.mark.parametrize(
    ("settings", "sweep", "parallel", "said"),
    [
        (_settings("slurm"), False, True, "hydra/launcher=slurm is for sweeps, got a single run; add -m"),
        (_settings("slurm", nodes=2), True, True, "nodes must be 1"),
        (_settings("slurm", tasks_per_node=2), True, False, "accel=x has no parallel group"),
        (_settings("slurm", tasks_per_node=2), True, True, ""),
        (_settings("local", array_parallelism=0), True, True, "at least 1"),
        (_settings("slurm"), True, False, ""),
        (OmegaConf.create({"launcher": {"_target_": "hydra.BasicLauncher"}}), False, False, ""),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_submitted(
    settings: Any, sweep: bool, parallel: bool, said: str
) -> None:
    runs = [("x", _plan(parallel=parallel))]
    if not said:
        require_usable(settings, runs, sweep=sweep)
        return
    with pytest.raises(ConfigError, match=said):
        require_usable(settings, runs, sweep=sweep)


def test_the_launchers_name_resources_only() -> None:
    """What they set cannot reach a run's configuration: a run has the same name on every launcher."""
    found = {}
    for name in ("basic", "slurm", "local"):
        with hydra_app() as hydra:
            command = check_command(hydra, [*GOOD, f"hydra/launcher={name}"], sweep=True)
        found[name] = (command.jobs[0].config, command.jobs[0].overrides)
        require_usable(command.hydra_settings, [("lcp", command.jobs[0].plan)], sweep=True)
    assert found["slurm"] == found["local"] == found["basic"]


def test_torchrun_gets_the_run_and_where_it_was_found(tmp_path: Path) -> None:
    sources = [
        {"provider": "hydra", "path": "pkg"},
        {"provider": "main", "path": "/conf"},
        {"provider": "command-line", "path": str(tmp_path)},
    ]
    config = OmegaConf.create(
        {
            "hydra": {
                "job": {"config_name": "config"},
                "runtime": {"config_sources": sources},
                "overrides": {"hydra": ["hydra.mode=MULTIRUN", "hydra.searchpath=[file:///x]", "hydra/launcher=slurm"]},
            }
        }
    )
    command = torchrun_command(2, ["model=hallo", "++run.limit=1"], config)
    assert command[:5] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert command[5:] == [
        "-m", "lcp_bench", "--config-name=config", "--config-path=/conf", f"--config-dir={tmp_path}",
        "hydra.searchpath=[file:///x]", "model=hallo", "++run.limit=1",
    ]  # fmt: skip


def test_what_travels_is_importable() -> None:
    """Jobs run in other processes, which find the task by its name."""
    assert launchers.Task.__module__ == "lcp_bench.launchers"
    assert Task(None, ("++a=1", "model=x"), 0).shown == ("a=1", "model=x")
