"""`python -m lcp_bench.mirror`: build the W&B mirror anew from the records on disk.

    python -m lcp_bench.mirror --runs runs                      # offline files below every run's folder
    python -m lcp_bench.mirror --runs runs --mode online        # straight to the server
    wandb sync runs/*/wandb/offline-run-*                       # later, where there is a network

Records are read, never written. Offline, the run's earlier `wandb` folder is replaced: all of it came from the record.
Exit codes: 0 every record has its mirror, 1 some have not, 2 a wrong command. Where the network fails, the rest goes
offline, which the last line says.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.store import RunStore, StoredRun, list_records, read_rows
from lcp_bench.tracker import ONLINE_TIMEOUT_S, WENT_OFFLINE, BoundedTracker, Tracker, WandbTracker

log = logging.getLogger(__name__)


def rebuild(root: Path | str, tracker: Tracker, names: Sequence[str] = ()) -> dict[str, Any]:
    """Mirror every record below `root`.

    Args:
        root: The folder of all runs.
        tracker: Takes the records.
        names: Ids of the runs that are wanted; none means all.

    Returns:
        `mirrored` (ids), `failed` (ids whose mirror was not taken) and `without_record` (ids).

    Raises:
        ConfigError: A wanted run is not there.
    """
    outcome: dict[str, Any] = {"mirrored": [], "failed": [], "without_record": []}
    for run in [_stored(root, name) for name in names] if names else list_records(root):
        if run.record is None:
            log.warning("run %s has nothing to mirror: %s", run.run_id, run.problem)
            outcome["without_record"].append(run.run_id)
            continue
        taken = tracker.mirror(run.record, run.path, sample_videos(run))
        outcome["mirrored" if taken else "failed"].append(run.run_id)
    return outcome


def _stored(root: Path | str, name: str) -> StoredRun:
    store = RunStore(root, name)
    if not store.path.is_dir():
        raise ConfigError(f"{root} must hold a run {name}, got no such folder; python -m lcp_bench.status lists them")
    record = store.read_record()
    return StoredRun(name, store.path, record, None if record else "no record yet")


def sample_videos(run: StoredRun) -> list[Path]:
    """The videos of a run's finished clips, in the order of its rows."""
    rows = read_rows(run.path / "rows.jsonl").rows
    return [run.path / row["video"] for row in rows if row["status"] == "ok" and row.get("video")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the last line of stdout is JSON."""
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.mirror", description="Mirror records to W&B.")
    parser.add_argument("names", nargs="*", metavar="RUN_ID", help="runs to mirror; default: every run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (paths.runs)")
    parser.add_argument("--mode", choices=["offline", "online"], default="offline", help="default: offline")
    parser.add_argument("--project", default=None, help="W&B project (tracker.project); default: lcp_bench")
    parser.add_argument("--keep", action="store_true", help="offline: leave the earlier files of a run where they are")
    limit = ONLINE_TIMEOUT_S
    parser.add_argument("--timeout-s", type=float, default=limit, help=f"online: for one run; default: {limit:.0f}")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        if not given.runs.is_dir():
            raise ConfigError(f"--runs must be the folder of all runs, got {given.runs}, which is not a folder")
        inner = WandbTracker(given.mode, given.project)
        tracker: Tracker = inner
        if not given.in_process:
            tracker = _Rebuilding(
                BoundedTracker(inner, given.timeout_s), replace=given.mode == "offline" and not given.keep
            )
        outcome = rebuild(given.runs, tracker, given.names)
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps({"runs": str(given.runs), "mode": inner.mode, **outcome}) + "\n")
    if given.in_process and not outcome["failed"] and inner.mode != given.mode:
        return WENT_OFFLINE
    return 1 if outcome["failed"] else 0


class _Rebuilding:
    """Removes a run's earlier offline files before they are made again."""

    def __init__(self, tracker: Tracker, *, replace: bool) -> None:
        self._tracker, self._replace = tracker, replace

    def mirror(self, record: Any, folder: Path, videos: Sequence[Path] = ()) -> bool:
        """See `tracker.Tracker`."""
        if self._replace:
            for old in (folder / "wandb").glob("offline-run-*"):
                shutil.rmtree(old, ignore_errors=True)
        return self._tracker.mirror(record, folder, videos)


if __name__ == "__main__":
    sys.exit(main())
