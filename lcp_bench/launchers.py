"""Sweeps through submitit: Slurm, or a process per run on this machine.

Hydra's plugin submits and then returns the first error that it meets, so that one killed job costs the count of all
others. Here the plugin keeps what it is good at (composing a job's configuration where the job runs); submitting and
collecting are done so that

* every run has an outcome: what it said, or that it was killed, cancelled or lost, and where its log is;
* a job that left the queue without a result is noticed from the queue itself, also on clusters without accounting;
* running out of time is the job's end, not an error of the clip that was being made: that clip has no row, and the next
  attempt makes it;
* several processes per run are started by torchrun, and end with the job.

Submitting twice is harmless: runs are named by content, a complete one ends at once, and one that is being made is
locked.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from lcp_bench.accel.schedule import Plan
from lcp_bench.errors import ConfigError
from lcp_bench.launch import JobOutcome, require_parallel_followers
from lcp_bench.launchers_queue import LocalQueue, Queue, SlurmQueue, collect

log = logging.getLogger(__name__)

END_S = 30.0
"""How long torchrun has to end its processes."""

_SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher."


class OutOfTimeError(BaseException):
    """The job's time is over, for the last time. No `Exception`: it is not the fault of the clip that it interrupts."""


def require_usable(settings: DictConfig, runs: Sequence[tuple[str, Plan]], *, sweep: bool) -> None:
    """Refuse, before anything is submitted, what a launcher could not do.

    Args:
        settings: Hydra's part of the configuration.
        runs: The strategy's name and its plan, for every run that computes something.
        sweep: Whether the command is a sweep.

    Raises:
        ConfigError: A launcher without a sweep, several nodes for one run, or several processes without work for them.
    """
    options = settings.launcher
    if not _is_submitit(options):
        return
    name = settings.runtime.choices["hydra/launcher"]
    if not sweep:
        raise ConfigError(f"hydra/launcher={name} is for sweeps, got a single run; add -m, also for one run")
    if (options.get("nodes") or 1) != 1:
        raise ConfigError(f"hydra.launcher.nodes must be 1: one host makes one run, got {options.nodes}")
    processes = _processes(options)
    if processes < 1 or options.get("array_parallelism", 1) < 1:
        raise ConfigError("hydra.launcher.tasks_per_node and array_parallelism must be at least 1")
    require_parallel_followers(processes, runs)


def sweep(
    hydra: Hydra, config_name: str, task: Callable[[DictConfig], JobOutcome], words: Sequence[str]
) -> list[JobOutcome]:
    """Run a checked sweep through the sweeper and the launcher that it names.

    Args:
        hydra: From `preflight.hydra_app`.
        config_name: Name of the primary config.
        task: What a job does; it must be importable, because other processes run it.
        words: The overrides, as in `preflight.Command`.

    Returns:
        How every run ended, in the order of the sweep; empty for optimisers, which fail loudly by themselves.

    Raises:
        LaunchError: Nothing could be submitted.
    """
    config = hydra.compose_config(config_name, [*words, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN, True)
    callbacks = Callbacks(config)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=callbacks)
    callbacks.on_multirun_start(config=config, config_name=config_name)
    sweeper: Any = Plugins.instance().instantiate_sweeper(config=config, hydra_context=context, task_function=task)
    if _is_submitit(config.hydra.launcher):
        # An optimiser keeps the sweeper that holds the launcher one level down.
        holder = getattr(sweeper, "sweeper", sweeper)
        holder.launcher = SweepLauncher(holder.launcher)
    batches = sweeper.sweep(arguments=list(config.hydra.overrides.task))
    callbacks.on_multirun_end(config=config, config_name=config_name)
    return [returned.return_value for batch in batches or () for returned in batch]


class SweepLauncher:
    """Takes the place of the plugin's launcher in the sweep's process, with Hydra's interface for launchers."""

    def __init__(self, plugin: Any) -> None:
        """Args: plugin: the submitit plugin's launcher, set up."""
        self._plugin = plugin
        self._options = dict(plugin.params)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs, wait for all of them, and say how each ended."""
        singletons = Singleton.get_state()
        tasks = [
            Task(self._plugin, tuple(words), initial_job_idx + number, _processes(self._options), singletons)
            for number, words in enumerate(job_overrides)
        ]
        is_slurm = type(self._plugin).__name__.startswith("Slurm")
        queue: Queue = SlurmQueue(self._options) if is_slurm else LocalQueue(self._options)
        outcomes = collect(queue, tasks)
        return [_returned(outcome) for outcome in outcomes]


@dataclass
class Task:
    """One run of a sweep, as it travels to the process that makes it.

    Attributes:
        plugin: Composes the job's configuration and calls the task function.
        words: The job's overrides.
        index: Its number in the sweep.
        processes: How many make it together.
        singletons: Hydra's state.
    """

    plugin: Any
    words: tuple[str, ...]
    index: int
    processes: int = 1
    singletons: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[str, ...]:
        """The overrides as the user would give them."""
        return tuple(word.lstrip("+") for word in self.words)

    def __call__(self) -> JobOutcome:
        """Make the run; called by submitit."""
        try:
            with _out_of_time():
                if self.processes > 1:
                    return self._torchrun()
                returned = self.plugin(
                    list(self.words), "hydra.sweep.dir", self.index, f"job_id_for_{self.index}", self.singletons
                )
                outcome: JobOutcome = returned.return_value
                return outcome
        except OutOfTimeError as error:
            return JobOutcome(1, self.shown, f"{error} Finished clips are kept; give the command again to go on")

    def checkpoint(self) -> Any:
        """What the next attempt is: the same, because the run's folder holds all that is finished."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _torchrun(self) -> JobOutcome:
        from submitit import JobEnvironment

        code = run_until_end(torchrun_command(self.processes, self.words, self.plugin.config))
        if code == 0:
            return JobOutcome(0, self.shown)
        where = JobEnvironment().paths.stderr
        return JobOutcome(
            1, self.shown, f"torchrun with {self.processes} processes ended with code {code}; see {where}"
        )


def torchrun_command(processes: int, words: Sequence[str], config: DictConfig) -> list[str]:
    """The command that makes one run with several processes of this host.

    Args:
        processes: How many.
        words: The run's overrides.
        config: The sweep's configuration: where it was searched is handed on.
    """
    flags = ["--standalone", f"--nproc-per-node={processes}"]
    here = [f"--config-name={config.hydra.job.config_name}"]
    for source in config.hydra.runtime.config_sources:
        flag = {"main": "--config-path", "command-line": "--config-dir"}.get(source.provider)
        here += [f"{flag}={source.path}"] if flag else []
    search = [word for word in config.hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
    return [sys.executable, "-m", "torch.distributed.run", *flags, "-m", "lcp_bench", *here, *search, *words]


def run_until_end(command: Sequence[str]) -> int:
    """Run a command that ends when this process is told to end; returns its exit code.

    It gets a session of its own, so that signals for this process reach it only through the orderly end below.
    """
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun passes it on to the processes it started
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def _out_of_time() -> Iterator[None]:
    """Let submitit's handler say that the time is over in a way that nobody takes for an error of a clip."""
    number = signal.SIGUSR2
    handler = signal.getsignal(number)

    def handle(signum: int, frame: FrameType | None) -> None:
        assert callable(handler)
        try:
            handler(signum, frame)
        except Exception as error:
            raise OutOfTimeError(str(error)) from error

    if callable(handler):
        signal.signal(number, handle)
    try:
        yield
    finally:
        if callable(handler):
            signal.signal(number, handler)


def _returned(outcome: JobOutcome) -> JobReturn:
    returned = JobReturn(overrides=list(outcome.overrides), status=JobStatus.COMPLETED)
    returned.return_value = outcome
    return returned


def _is_submitit(options: Mapping[str, Any]) -> bool:
    return str(options.get("_target_", "")).startswith(_SUBMITIT)


def _processes(options: Mapping[str, Any]) -> int:
    given = options.get("tasks_per_node")
    return 1 if given is None else int(given)
