"""What lies below `paths.runs`: `python -m lcp_bench.status [--runs DIR] [--state STATE ...] [--json]`.

One line per run: complete, partial, failed, killed, running or unreadable, with the reason, the size and the command
that goes on. Nothing is changed, and no weight, data set or configuration is read.

Exit codes: 0 the folder was read, 1 it cannot be, 2 the command is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lcp_bench.errors import LcpBenchError
from lcp_bench.failure import read_requests
from lcp_bench.lock import STALE_S, is_flocked, read_holder
from lcp_bench.measure.clock import utc_seconds
from lcp_bench.status_table import Cell, print_table, size
from lcp_bench.store import StoredRun, list_records, read_rows

STATES = ("complete", "partial", "failed", "killed", "running", "unreadable")
"""partial: some clips have no row, or the run ended with an error. killed: the process died without a word. failed: no
clip has a video, or the run could not begin."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run on disk.

    Attributes:
        run_id: Its folder's name; for a run that could not begin, the key of its request.
        state: One of `STATES`.
        model: Name; empty if nothing says it.
        accel: Likewise.
        dataset: Likewise, with the manifest's short hash.
        ok: Clips with a video.
        failed: Clips with a reason instead.
        expected: All clips; None if nothing says it.
        size_bytes: Everything in its folder.
        lock: `free`, `live` (somebody makes it now) or `dead` (its owner ended without freeing it; it is taken over).
        reason: Why it is not complete, or who makes it.
        command_line: The command that goes on.
        created_utc: When its record was written; empty without one.
    """

    run_id: str
    state: str
    model: str = ""
    accel: str = ""
    dataset: str = ""
    ok: int = 0
    failed: int = 0
    expected: int | None = None
    size_bytes: int = 0
    lock: str = "free"
    reason: str = ""
    command_line: str = ""
    created_utc: str = ""


def statuses(root: Path | str) -> list[RunStatus]:
    """Every run below `root`, sorted by model, data set, strategy and id, then those that could not begin.

    Raises:
        StoreError: `root` exists and cannot be read.
    """
    found = [_status(stored) for stored in list_records(root)]
    found.sort(key=lambda run: (run.model, run.dataset, run.accel, run.run_id))
    return found + [_request_status(note) for note in read_requests(root)]


def _status(stored: StoredRun) -> RunStatus:
    lock, owner = lock_state(stored.path / "lock")
    facts: dict[str, Any] = {"lock": lock, "size_bytes": folder_bytes(stored.path)}
    if stored.record is not None:
        facts |= _of_record(stored.record)
    else:
        facts |= _without_record(stored, lock)
    if lock == "live":
        facts |= {"state": "running", "reason": f"made by {owner}"}
    elif lock == "dead" and facts["state"] != "unreadable":
        facts["reason"] = f"{owner} died; its command goes on" if facts["state"] == "killed" else facts["reason"]
    return RunStatus(run_id=stored.run_id, **facts)


def _of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    clips = record["clips"]
    reason = record.get("status_reason", "")
    if not reason and clips["n_failed"]:
        first = clips["failed"][0]
        reason = f"{clips['n_failed']} clips failed, the first ({first['clip']}) at {first['stage']}: {first['reason']}"
    return {
        "state": record["status"],
        "model": record["model"]["name"],
        "accel": record["accel"]["name"],
        "dataset": record["labels"]["dataset"],
        "ok": clips["n_ok"],
        "failed": clips["n_failed"],
        "expected": clips["n_expected"],
        "reason": reason,
        "command_line": record["command_line"],
        "created_utc": record["created_utc"],
    }


def _without_record(stored: StoredRun, lock: str) -> dict[str, Any]:
    """A run that has no record yet, or one that cannot be read: its request says what it is."""
    is_broken = (stored.path / "record.json").exists()
    facts: dict[str, Any] = {"state": "unreadable" if is_broken else "killed", "reason": stored.problem or ""}
    try:
        rows = [row.get("status") for row in read_rows(stored.path / "rows.jsonl").rows]
        facts |= {"ok": rows.count("ok"), "failed": rows.count("failed")}
        request: Any = json.loads((stored.path / "request.json").read_text(encoding="utf-8"))
        names = {"model": "model", "accel": "accel", "dataset": "dataset", "command_line": "command_line"}
        facts |= {name: str(request[key]) for name, key in names.items()} | {"expected": int(request["clips"])}
    except LcpBenchError as error:
        facts |= {"state": "unreadable", "reason": str(error)}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # made by an older version, or killed before it was written
    return facts


def _request_status(note: Mapping[str, Any]) -> RunStatus:
    return RunStatus(
        run_id=str(note["key"]),
        state="failed",
        model=str(note.get("model", "")),
        accel=str(note.get("accel", "")),
        dataset=str(note.get("dataset", "")),
        reason=f"could not begin: {note.get('message', '')}",
        command_line=str(note.get("command_line", "")),
        created_utc=str(note.get("at_utc", "")),
    )


def lock_state(path: Path) -> tuple[str, str]:
    """`free`, `live` or `dead`, and who the lock names.

    Another host's owner that this host's kernel does not see counts as living while it touches the file.
    """
    if is_flocked(path):
        return "live", str(read_holder(path) or "another process")
    holder = read_holder(path)
    if holder is None:
        return "free", ""
    if holder.host != socket.gethostname():
        try:
            quiet_s = utc_seconds() - path.stat().st_mtime
        except OSError:
            return "free", ""
        if quiet_s < STALE_S:
            return "live", f"{holder} (last seen {max(0.0, quiet_s):.0f} s ago)"
    return "dead", str(holder)


def folder_bytes(path: Path) -> int:
    """Size of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += folder_bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return total
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.status", description="What lies below the runs' folder.")
    parser.add_argument("--runs", default="runs", help="folder of the runs (paths.runs), default: runs")
    parser.add_argument("--state", action="append", choices=STATES, help="show these runs only; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    try:
        found = statuses(options.runs)
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    shown = [run for run in found if not options.state or run.state in options.state]
    counts = Counter(run.state for run in found)
    total = sum(run.size_bytes for run in found)
    if options.json:
        runs = [asdict(run) for run in shown]
        sys.stdout.write(json.dumps({"runs": runs, "counts": counts, "size_bytes": total}) + "\n")
        return 0
    if shown:
        print_table(
            ("run", "model", "accel", "dataset", "state", "clips", "lock", "size", "reason"), [_row(r) for r in shown]
        )
    said = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none"
    sys.stdout.write(f"{len(found)} runs in {options.runs}: {said}; {size(total)}\n")
    return 0


def _row(run: RunStatus) -> tuple[Cell, ...]:
    expected = "?" if run.expected is None else str(run.expected)
    clips = f"{run.ok} of {expected}" + (f", {run.failed} failed" if run.failed else "")
    names = (run.run_id, run.model or "?", run.accel or "?", run.dataset or "?")
    return (*names, run.state, clips, run.lock, size(run.size_bytes), " ".join(run.reason.split()))


if __name__ == "__main__":
    sys.exit(main())
