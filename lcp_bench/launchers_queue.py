"""Submitting the runs of a sweep and waiting for every one of them; see `lcp_bench.launchers`."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from lcp_bench.errors import LcpBenchError
from lcp_bench.launch import JobOutcome
from lcp_bench.measure.clock import monotonic_s, pause

log = logging.getLogger(__name__)

POLL_S = 1.0
QUEUE_POLL_S = 10.0
GRACE_S = 10.0
"""How long a result may take to appear after its job left the queue: network file systems are late."""

_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT",
}  # fmt: skip


class LaunchError(LcpBenchError):
    """The jobs could not be submitted; none of them runs."""


class Job(Protocol):
    """One run, as it travels to the process that makes it."""

    @property
    def shown(self) -> tuple[str, ...]:
        """The overrides as the user would give them."""

    def __call__(self) -> JobOutcome:
        """Make the run."""


class Queue(ABC):
    """Where jobs wait and run.

    Attributes:
        poll_s: How often it is asked which jobs it still holds.
    """

    poll_s = QUEUE_POLL_S

    @abstractmethod
    def room(self, running: int) -> int:
        """How many more may be submitted."""

    @abstractmethod
    def submit(self, tasks: Sequence[Job]) -> list[Any]:
        """Submitit's job objects, one for each task."""

    @abstractmethod
    def queued(self, jobs: Sequence[Any]) -> set[str] | None:
        """Which of the jobs wait or run; None when the queue cannot be asked."""

    @abstractmethod
    def end_with(self, jobs: Collection[Any]) -> str:
        """The command that ends jobs."""


def collect(queue: Queue, tasks: Sequence[Job]) -> list[JobOutcome]:
    """Submit all tasks and wait until each has an outcome.

    Raises:
        LaunchError: Nothing could be submitted.
        KeyboardInterrupt: As usual; submitted jobs stay, and a message says how to end them.
    """
    outcomes: dict[int, JobOutcome] = {}
    jobs: dict[int, Any] = {}
    lost_since: dict[int, float] = {}
    waiting = list(range(len(tasks)))
    asked = monotonic_s()
    try:
        while waiting or jobs:
            room = queue.room(len(jobs))
            now, waiting = waiting[:room], waiting[room:]
            if now:
                jobs.update(zip(now, queue.submit([tasks[index] for index in now]), strict=True))
            for index in [index for index, job in jobs.items() if _has_result(job)]:
                outcomes[index] = _outcome(jobs.pop(index), tasks[index])
            if monotonic_s() - asked >= queue.poll_s:
                asked = monotonic_s()
                lost_since = _lost(queue, jobs, lost_since)
                for index in [index for index, since in lost_since.items() if asked - since >= GRACE_S]:
                    outcomes[index] = _without_result(jobs.pop(index), tasks[index])
                    del lost_since[index]
            if jobs:
                pause(POLL_S)
    except KeyboardInterrupt:
        if jobs:
            log.warning("%d jobs go on without this process; to end them: %s", len(jobs), queue.end_with(jobs.values()))
        raise
    return [outcomes[index] for index in range(len(tasks))]


class SlurmQueue(Queue):
    """A job array; all jobs are submitted at once, and Slurm starts as many at a time as it may."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    def room(self, running: int) -> int:
        """See `Queue`."""
        return sys.maxsize

    def submit(self, tasks: Sequence[Job]) -> list[Any]:
        """See `Queue`."""
        import submitit

        options = {key: value for key, value in self._options.items() if value is not None and key != "_target_"}
        folder, countdown = options.pop("submitit_folder"), options.pop("max_num_timeout")
        if options.get("cpus_per_task"):
            options["cpus_per_task"] *= options["tasks_per_node"]
        options["tasks_per_node"] = 1  # torchrun starts the others
        general = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
                   "stderr_to_stdout"}  # fmt: skip
        named = {key if key in general else f"slurm_{key}": value for key, value in options.items()}
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=countdown)
            executor.update_parameters(**named)
            with executor.batch():
                jobs: list[Any] = [executor.submit(task) for task in tasks]
        except (
            RuntimeError,
            ValueError,
            OSError,
            subprocess.SubprocessError,
            submitit.core.utils.FailedJobError,
        ) as error:
            raise LaunchError(f"Slurm refused the jobs: {_last_line(error)}; see hydra.launcher.* and sinfo") from error
        log.info("submitted %d jobs: %s; logs in %s", len(jobs), _array(jobs), Path(folder).parent)
        return jobs

    def queued(self, jobs: Sequence[Any]) -> set[str] | None:
        """See `Queue`."""
        arrays = ",".join(sorted({str(job.job_id).split("_")[0] for job in jobs}))
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={arrays}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("squeue does not answer (%s); waiting on", error)
            return None
        if done.returncode and "Invalid job id" not in done.stderr:
            log.warning("squeue does not answer (%s); waiting on", done.stderr.strip())
            return None
        return {number for number, state in (line.split() for line in done.stdout.splitlines()) if state not in _OVER}

    def end_with(self, jobs: Collection[Any]) -> str:
        """See `Queue`."""
        return f"scancel {' '.join(sorted({str(job.job_id).split('_')[0] for job in jobs}))}"


class LocalQueue(Queue):
    """Processes of this host, a few at a time, each with GPUs of its own."""

    poll_s = POLL_S

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._slots: dict[int, Any] = dict.fromkeys(range(options.get("array_parallelism") or 1))

    def room(self, running: int) -> int:
        """See `Queue`."""
        return len(self._slots) - running

    def submit(self, tasks: Sequence[Job]) -> list[Any]:
        """See `Queue`."""
        from submitit import LocalExecutor

        free = [slot for slot, job in self._slots.items() if job is None or _has_result(job) or _ended(job)]
        gpus = self._options.get("gpus_per_node") or 0
        visible = _gpus_of_host(gpus * len(self._slots))
        jobs = []
        for slot, task in zip(free, tasks, strict=False):
            executor = LocalExecutor(
                self._options["submitit_folder"], max_num_timeout=self._options.get("max_num_timeout", 0)
            )
            executor.update_parameters(
                timeout_min=self._options["timeout_min"],
                signal_delay_s=self._options.get("signal_delay_s", 60),
                gpus_per_node=gpus,
                visible_gpus=visible[slot * gpus : (slot + 1) * gpus],
                tasks_per_node=1,
                stderr_to_stdout=self._options.get("stderr_to_stdout", False),
            )
            self._slots[slot] = executor.submit(task)
            jobs.append(self._slots[slot])
        return jobs

    def queued(self, jobs: Sequence[Any]) -> set[str] | None:
        """See `Queue`."""
        return {str(job.job_id) for job in jobs if not _ended(job)}

    def end_with(self, jobs: Collection[Any]) -> str:
        """See `Queue`."""
        return f"kill {' '.join(str(job.job_id) for job in jobs)}"


def _lost(queue: Queue, jobs: Mapping[int, Any], before: Mapping[int, float]) -> dict[int, float]:
    """Jobs that neither wait nor run and have no result, with the time when that was first seen."""
    queued = queue.queued(list(jobs.values())) if jobs else set()
    if queued is None:
        return dict(before)
    gone = [index for index, job in jobs.items() if str(job.job_id) not in queued]
    return {index: before.get(index, monotonic_s()) for index in gone}


def _has_result(job: Any) -> bool:
    with suppress(OSError):
        os.listdir(job.paths.folder)  # makes a network file system look again
    return bool(job.paths.result_pickle.exists())


def _ended(job: Any) -> bool:
    return job.get_info()["jobState"] in ("FINISHED", "INTERRUPTED", "NO PROCESS AND NO RESULT")


def _outcome(job: Any, task: Job) -> JobOutcome:
    """What the job says of itself."""
    try:
        outcome: JobOutcome = job.results()[0]
        return outcome
    except Exception as error:
        return JobOutcome(1, task.shown, f"job {job.job_id}: {_last_line(error)}; see {job.paths.stderr}")


def _without_result(job: Any, task: Job) -> JobOutcome:
    """What can be said of a job that was killed, cancelled or lost."""
    state = ""
    with suppress(Exception):  # accounting is asked for a courtesy, and need not be there
        state = job.get_info(mode="force").get("State", "") if hasattr(job, "get_info") else ""
    said = f" ({state})" if state else ""
    return JobOutcome(
        1,
        task.shown,
        f"job {job.job_id} ended without a result{said}, killed or cancelled; its log is {job.paths.stderr}; "
        "finished clips are kept: give the command again to go on",
    )


def _gpus_of_host(count: int) -> tuple[int, ...]:
    """The first `count` GPUs that this process may use."""
    named = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip().isdigit()]
    usable = [int(part) for part in named] or list(range(count))
    if len(usable) < count:
        raise LaunchError(
            f"hydra.launcher wants {count} GPUs (gpus_per_node x array_parallelism), CUDA_VISIBLE_DEVICES names "
            f"{len(usable)}; lower one of them"
        )
    return tuple(usable[:count])


def _array(jobs: Sequence[Any]) -> str:
    return ", ".join(sorted({str(job.job_id).split("_")[0] for job in jobs}))


def _last_line(error: BaseException) -> str:
    lines = [line for line in re.split(r"[\r\n]+", str(error)) if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
