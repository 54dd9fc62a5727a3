"""A sweep without a launcher: its runs in this process, one after another.

Each run was composed and checked before the first one starts; Hydra's own launcher would compose it twice more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lcp_bench.errors import ConfigError, DatasetError, RunHeldError, WeightsError
from lcp_bench.fail_fast import InARow
from lcp_bench.failure import request_key
from lcp_bench.launch import JobOutcome
from lcp_bench.measure.clock import utc_now
from lcp_bench.provenance import command_line

if TYPE_CHECKING:
    from lcp_bench.preflight import Command, Job

log = logging.getLogger(__name__)

CHEAP = (ConfigError, DatasetError, RunHeldError, WeightsError)
"""Errors that come before anything is computed, and that the next run of a sweep need not meet."""
NOT_TRIED = "not tried: "

_LAUNCHER = "hydra._internal.core_plugins.basic_launcher."
_SWEEPER = "hydra._internal.core_plugins.basic_sweeper."


def is_in_turn(settings: DictConfig) -> bool:
    """Whether Hydra would run the sweep here, one run after another: its default launcher and sweeper."""
    launcher, sweeper = str(settings.launcher.get("_target_", "")), str(settings.sweeper.get("_target_", ""))
    return launcher.startswith(_LAUNCHER) and sweeper.startswith(_SWEEPER) and not settings.callbacks


def in_turn(command: Command, work: Callable[[Job], JobOutcome]) -> list[JobOutcome]:
    """Run all jobs of a sweep; a failed one does not stop the others, `run.fail_fast` equal ones in a row do.

    Args:
        command: The checked command.
        work: Does one job; it never raises.

    Returns:
        How each ended, in the order of the sweep.
    """
    _write_manifest(command)
    outcomes: list[JobOutcome] = []
    seen: dict[str, int] = {}
    failures = InARow(command.jobs[0].config.run.fail_fast)
    for index, job in enumerate(command.jobs):
        key = request_key(job.config) + job.config.run.action + repr(job.config.metric)
        if failures.enough:
            last = next(outcome for outcome in reversed(outcomes) if outcome.exit_code)
            why = f"{failures.count} runs in a row ended alike ({last.message}); run.fail_fast=null tries every run"
            outcomes.append(JobOutcome(1, job.overrides, NOT_TRIED + why))
        elif key in seen:  # the same run by other words, such as `none` with another number of key steps
            before = outcomes[seen[key]]
            outcomes.append(JobOutcome(before.exit_code, job.overrides, before.message))
        else:
            seen[key] = index
            log.info("run %d of %d: %s", index + 1, len(command.jobs), " ".join(job.overrides))
            outcomes.append(work(job))
            _count(failures, outcomes[-1])
    return outcomes


def _count(failures: InARow, outcome: JobOutcome) -> None:
    if outcome.exit_code == 0:
        failures.worked()
        return
    log.error("job %s: %s", " ".join(outcome.overrides), outcome.message)
    if outcome.costly:
        failures.failed(outcome.message)


def _write_manifest(command: Command) -> None:
    """What the newest sweep below `paths.runs` consists of; a courtesy, so a full disk is the runs' to complain of."""
    folder = Path(command.jobs[0].config.paths.runs) / ".sweep"
    jobs = [list(job.overrides) for job in command.jobs]
    content = {"command_line": command_line(), "started_utc": utc_now(), "jobs": jobs}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        log.warning("the sweep's list of runs cannot be written to %s: %s", folder, error)
