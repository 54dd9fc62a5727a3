"""`python -m lcp_bench.report check`: per cell, what forbids publishing it and the command that mends it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lcp_bench.record import Record
from lcp_bench.report.check_rules import MIN_SCORED, Place, Refusal, is_needed, own_record, refusals, shown_records
from lcp_bench.report.table import unfinished
from lcp_bench.report.tables import DEFAULT_RUNS
from lcp_bench.report.tables_layout import LAYOUTS, Layout, Section, build, layouts_of
from lcp_bench.report.tables_text import shown_columns
from lcp_bench.store import StoredRun, list_records

Found = dict[tuple[str, str, str, str], list[str]]
"""(layout, row, reason, command) to the cells that it concerns."""


def check(arguments: Sequence[str]) -> tuple[str, int]:
    """Check the cells of the tables; returns the text to show and the exit code: 1 when anything is refused.

    Raises:
        LcpBenchError: the command is wrong, or the folder cannot be read.
    """
    options = parser().parse_args(arguments)
    folder = Path(options.runs).expanduser()
    runs = list_records(folder)
    if not runs:
        return f"No runs in {folder}; make some, or name another folder: --runs DIR\n", 1
    records = [run.record for run in runs if run.record is not None]
    lines, refused, cells = [], 0, 0
    for layout in layouts_of(options.layout):
        found: Found = {}
        for section in build(layout, records, None):
            total, bad = _check_section(layout, section, found)
            cells, refused = cells + total, refused + bad
        lines += list(_text(found))
    lines += _without_record(runs)
    open_runs = sum(run.record is None for run in runs)
    lines.append(f"{refused} of {cells} cells must not be published; {open_runs} runs have no record")
    return "\n".join(lines) + "\n", 1 if refused or open_runs or not cells else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m lcp_bench.report check",
        description="Say what forbids publishing a cell of the tables, and the command that mends it. "
        "Exit code 1 when anything is refused.",
    )
    made.add_argument("--runs", metavar="DIR", default=DEFAULT_RUNS, help=f"folder of runs (default: {DEFAULT_RUNS})")
    made.add_argument("--layout", choices=(*LAYOUTS, "all"), default="all", help="which table (default: all)")
    return made


def _check_section(layout: Layout, section: Section, found: Found) -> tuple[int, int]:
    """Collect the refusals of a section's shown cells; returns how many cells there are and how many are refused."""
    total = bad = 0
    shown = shown_columns(layout, section)
    siblings = shown_records(section)
    for row in section.rows:
        for column in shown:
            cell = row.cells[column]
            if not is_needed(row, column, cell):
                continue
            total += 1
            place = Place(section, row, column, cell, own_record(row, column, cell))
            every = refusals(place)
            bad += bool(every)
            for refusal in every:
                where = f"{row.model} {row.name} on {column.dataset_name} ({section.labels.heading})"
                key = (layout.name, where, _reason(refusal), mend(refusal, place, siblings))
                found.setdefault(key, []).append(column.metric)
    return total, bad


def _reason(refusal: Refusal) -> str:
    return f"{refusal.reason} (run {refusal.run})" if refusal.run else refusal.reason


def _text(found: Mapping[tuple[str, str, str, str], Sequence[str]]) -> Iterator[str]:
    """One heading per row of a table, below it one line per reason with its cells, and the command."""
    heading = None
    for (layout, where, reason, command), metrics in sorted(found.items()):
        if (layout, where) != heading:
            heading = (layout, where)
            yield f"{layout}: {where}"
        yield f"  {', '.join(dict.fromkeys(metrics))}: {reason}"
        yield f"    mend: {command}"


def _without_record(runs: Iterable[StoredRun]) -> list[str]:
    lines = []
    for run, problem in unfinished(runs):
        lines += [f"run {run}: {problem}", "    mend: give the run's command again; it goes on where it stopped"]
    return lines


# Commands


def mend(refusal: Refusal, place: Place, siblings: Sequence[Record]) -> str:
    """The command that mends a refusal.

    Args:
        refusal: What is wrong.
        place: Where.
        siblings: Runs of the same section: a run that nobody made is spelt after one of them.
    """
    if place.own is None:
        return _make(place, siblings)
    again = place.own["command_line"]
    if refusal.mend == "score" and not any(word.lstrip("+").startswith("metric=") for word in shlex.split(again)):
        again = f"{again} +metric={'mini' if place.own['labels']['weights'] == 'mini' else 'paper'}"
    for key, added in _CHANGED.get(refusal.mend, {}).items():
        again = f"{_without(again, key)} {key}={added}"
    for key in _DROPPED.get(refusal.mend, ()):
        again = _without(again, key)
    if refusal.mend == "longer" and place.own["config"].get("dataset", {}).get("synthetic"):
        takes = int(place.own["config"]["dataset"]["synthetic"].get("takes", 1))
        again = f"{_without(again, 'dataset.synthetic.people')} dataset.synthetic.people={-(-MIN_SCORED // takes)}"
    if refusal.mend in ("clean", "code"):  # the run counts as finished until its folder is gone
        again = f"rm -r {shlex.quote(place.own['config'].get('paths', {}).get('runs', 'runs'))}/{refusal.run}; {again}"
    note = _NOTES.get(refusal.mend)
    return f"{again}  # {note}" if note else str(again)


_CHANGED = {
    "retry": {"run.retry_failed": "true"},
    "bench": {"measure": "bench"},
    "weights": {"model.weights": "checkpoint"},
}
_DROPPED = {  # what the command itself says of pairs and clips is what was too little
    "bench": ("measure.pair", "measure.pair_clips", "measure.pair_repeats"),
    "longer": ("run.limit",),
}
_NOTES = {
    "clean": "first: git status, and commit or stash what it shows",
    "same": "on the machine, and from the commit, of the other runs",
    "code": "first: look at engagement and plan of its record",
    "longer": f"a data set of at least {MIN_SCORED} clips, best in a new folder of runs",
}


def _without(command: str, key: str) -> str:
    return shlex.join(word for word in shlex.split(command) if not word.lstrip("+").startswith(f"{key}="))


def _make(place: Place, siblings: Sequence[Record]) -> str:
    """The command of a run of the row, the model or the data set (or of any), with this row's strategy and data set."""
    own = [record for records in place.row.records.values() for record in records]
    model, dataset = place.row.model, place.column.dataset
    likeness = [
        (record["model"]["name"] == model, record["labels"]["dataset"] == dataset, record["run_id"], record)
        for record in own or siblings
    ]
    near = max(likeness, key=lambda item: item[:3])[3] if likeness else None
    words = [] if near is None else shlex.split(near["command_line"])[3:]
    taken = ("model=", "accel=", "accel.", "dataset=", "-m", "--multirun")
    kept = [word for word in words if not word.lstrip("+").startswith(taken)]
    chosen = [f"+model={model}", f"+accel={place.row.accel}", f"+dataset={place.column.dataset_name}"]
    return shlex.join(["python", "-m", "lcp_bench", *chosen, *kept])
