"""How this process was started: alone, or by torchrun as one of several that make one run together.

Nothing here imports torch, so that a wrong command is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcp_bench.errors import ConfigError

if TYPE_CHECKING:
    from lcp_bench.accel.schedule import Plan


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        rank: Its number; 0 leads: it alone writes files, logs and prints.
        processes: How many there are.
        local_rank: Its number among those on this host, which is also the number of its GPU.
        local_processes: How many there are on this host.
    """

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    local_processes: int = 1


@dataclass(frozen=True)
class JobOutcome:
    """How one job ended; what a launcher carries back from another process.

    Attributes:
        exit_code: 0 if the job succeeded.
        overrides: The words that made the job.
        message: The error, empty on success.
        costly: Whether it failed after work had begun, so that the next run may well fail alike.
    """

    exit_code: int
    overrides: tuple[str, ...]
    message: str = ""
    costly: bool = False


def launched() -> Launch:
    """Read the environment that torchrun sets.

    Its own `TORCHELASTIC_RUN_ID` must be there: clusters set `WORLD_SIZE` and `RANK` for purposes of their own.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Launch(*(int(os.environ[name]) for name in names))


def require_one_parallel_run(launch: Launch, plans: Sequence[tuple[str, Plan]], *, sweep: bool) -> None:
    """Refuse what several processes cannot do together.

    Args:
        launch: How the command was started.
        plans: The strategy's name and its plan, for every run that computes something.
        sweep: Whether the command is a sweep.

    Raises:
        ConfigError: A sweep, or a strategy that leaves all processes but one without work.
    """
    if launch.processes == 1:
        return
    if sweep:
        raise ConfigError(
            f"torchrun with {launch.processes} processes makes one run, got a sweep (-m); give one torchrun command "
            "per run"
        )
    require_parallel_followers(launch.processes, plans)


def require_parallel_followers(processes: int, plans: Sequence[tuple[str, Plan]]) -> None:
    """Refuse several processes for a strategy that has work for one.

    Args:
        processes: How many make one run together.
        plans: As for `require_one_parallel_run`.

    Raises:
        ConfigError: Names the strategy.
    """
    for name, plan in plans:
        if processes > 1 and not any(group.parallel and len(group.followers) > 1 for group in plan.groups):
            raise ConfigError(
                f"accel={name} has no parallel group of two or more followers, so {processes} processes would "
                "all compute the same; start it with one process, or use a strategy with parallel followers, such as "
                "+accel=lcp"
            )
