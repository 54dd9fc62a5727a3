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
    for name, plan in plans:
        if not any(group.parallel and len(group.followers) > 1 for group in plan.groups):
            raise ConfigError(
                f"accel={name} has no parallel group of two or more followers, so {launch.processes} processes would "
                "all compute the same; start it without torchrun, or use a strategy with parallel followers, such as "
                "+accel=lcp"
            )
