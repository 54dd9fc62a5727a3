"""What forbids publishing a cell: one rule per way in which a number can be less than it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lcp_bench.record import Record
from lcp_bench.report.tables_cells import Cell, Column
from lcp_bench.report.tables_layout import Row, Section

MIN_PAIRS = 5
"""Pairs behind a speed-up: what `measure=bench` takes."""
MIN_TIMED = 3
"""Clips behind a time; with fewer its interval would reach below zero (`lcp_bench.summary`)."""
MIN_SCORED = 20
"""Clips behind a score: with fewer, Fréchet distances order strategies badly (docs/quality.md, the `mini` metrics)."""


@dataclass(frozen=True, order=True, slots=True)
class Refusal:
    """Why cells must not be published.

    Attributes:
        reason: What is wrong.
        mend: What mends it: `again`, `retry`, `score`, `bench`, `longer`, `weights`, `clean`, `same`, `make` or `code`.
        run: The run that it is about; empty where there is none.
    """

    reason: str
    mend: str
    run: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A cell with what is around it.

    Attributes:
        section: Of the table.
        row: Of the section.
        column: Of the row.
        cell: The cell.
        own: The run that its number comes from, or the run that should have given it; None where nobody ran it.
    """

    section: Section
    row: Row
    column: Column
    cell: Cell
    own: Record | None


Rule = Callable[[Place], Iterator[Refusal]]


def own_record(row: Row, column: Column, cell: Cell) -> Record | None:
    """The run behind a cell."""
    records = row.records.get(column.dataset, ())
    return next((record for record in records if cell.runs and record["run_id"] == cell.runs[0]), None)


def is_needed(row: Row, column: Column, cell: Cell) -> bool:
    """Whether the table wants a number here; the unaccelerated run has no speed-up over itself."""
    return not (column.metric == "speedup" and row.accel == "none" and cell.value is None and bool(cell.runs))


def _not_run(place: Place) -> Iterator[Refusal]:
    if place.own is None:
        yield Refusal("nobody ran it", "make")


def _interrupted(place: Place) -> Iterator[Refusal]:
    if place.own is not None and place.own["status"] != "complete":
        why = place.own.get("status_reason", "no reason recorded")
        yield Refusal(f"the run is {place.own['status']}: {why}", "again", place.own["run_id"])


def _failed_clips(place: Place) -> Iterator[Refusal]:
    if place.own is not None and place.own["clips"]["n_failed"]:
        clips = place.own["clips"]
        first = clips["failed"][0]
        yield Refusal(
            f"{clips['n_failed']} of {clips['n_expected']} clips failed, the first one ({first['clip']}) at "
            f"{first['stage']}: {first['reason']}",
            "retry",
            place.own["run_id"],
        )


def _missing_clips(place: Place) -> Iterator[Refusal]:
    clean = place.own is not None and place.own["status"] == "complete" and not place.own["clips"]["n_failed"]
    if clean and place.own is not None and place.cell.partial:
        yield Refusal(f"{place.cell.n} of {place.cell.n_expected} clips count", "score", place.own["run_id"])


def _seeded(place: Place) -> Iterator[Refusal]:
    if place.own is not None and place.own["labels"]["weights"] == "seeded":
        yield Refusal("random weights: the videos mean nothing", "weights", place.own["run_id"])


def _dirty(place: Place) -> Iterator[Refusal]:
    if place.own is None:
        return
    git = place.own["git"]
    if git.get("commit") is None:
        why = git.get("commit_reason", "no reason recorded")
        yield Refusal(f"the commit is unknown: {why}", "clean", place.own["run_id"])
    elif git.get("dirty"):
        yield Refusal("the working tree had uncommitted changes", "clean", place.own["run_id"])


def _zero_engagement(place: Place) -> Iterator[Refusal]:
    record = place.own
    if record is None or record["engagement"] is None or record["accel"]["name"] == "none":
        return
    if not record["engagement"].get("equals_plan", False):
        yield Refusal("what was computed is not known to equal the plan", "code", record["run_id"])
    reused = sum(record["engagement"].get("reused", {}).values())
    flops = record["flops"] or {}
    own = (flops.get("tflops_per_clip") or {}).get("executed")
    plain = (flops.get("tflops_per_clip_unaccelerated") or {}).get("executed")
    spared = own is not None and plain is not None and own < plain
    if not reused and not spared:
        yield Refusal("zero engagement: nothing was reused and nothing spared", "code", record["run_id"])


def _no_quality(place: Place) -> Iterator[Refusal]:
    if place.own is None or not place.column.is_quality or place.own["labels"]["weights"] == "seeded":
        return
    if place.cell.value is None:
        yield Refusal(f"no score: {place.cell.reason}", "score", place.own["run_id"])
    elif place.row.accel != "none" and place.cell.difference is None:
        yield Refusal("no paired comparison with the unaccelerated run", "score", place.own["run_id"])


def _few(place: Place) -> Iterator[Refusal]:
    cell, record = place.cell, place.own
    if record is None or cell.value is None:
        return
    metric, n = place.column.metric, cell.n or 0
    if metric == "speedup" and n < MIN_PAIRS:
        yield Refusal(f"too few repeats: {n} interleaved pairs, at least {MIN_PAIRS}", "bench", record["run_id"])
    if metric in ("denoise_s", "seconds_per_clip") and n < MIN_TIMED:
        yield Refusal(f"too few repeats: {n} timed clips, at least {MIN_TIMED}", "longer", record["run_id"])
    if place.column.is_quality and n < MIN_SCORED:
        yield Refusal(f"too few clips for a score: {n}, at least {MIN_SCORED}", "longer", record["run_id"])
    if place.column.is_quality and cell.low is None:
        yield Refusal(f"no interval: {cell.reason or 'no reason recorded'}", "score", record["run_id"])


def _no_speedup(place: Place) -> Iterator[Refusal]:
    if place.column.metric == "speedup" and place.own is not None and place.cell.value is None:
        yield Refusal(f"no speed-up: {place.cell.reason}", "bench", place.own["run_id"])


def _clips_not_people(place: Place) -> Iterator[Refusal]:
    if place.own is None or not place.column.is_quality or place.cell.low is None or place.cell.people is not None:
        return
    people = place.own["clips"].get("identities", {})
    if len(set(people.values())) < len(people):
        yield Refusal("its interval counts clips of one person as different people", "score", place.own["run_id"])


def _mixed(place: Place) -> Iterator[Refusal]:
    """Whether the runs of a section agree in what may not differ between two rows; the fewer ones are to be remade."""
    if place.own is None:
        return
    shown = shown_records(place.section)
    for name, of in _ALIKE.items():
        counts = Counter(of(record) for record in shown)
        if len(counts) < 2:
            continue
        latest = max(str(record["created_utc"]) for record in shown)
        wanted = max(counts, key=lambda value: (counts[value], any(
            of(record) == value and str(record["created_utc"]) == latest for record in shown), value))  # fmt: skip
        got = of(place.own)
        if got != wanted:
            yield Refusal(
                f"mixed {name}: {got[:40]} here, {wanted[:40]} in {counts[wanted]} of {len(shown)} runs of the table",
                "same",
                place.own["run_id"],
            )


def _mixed_protocol(place: Place) -> Iterator[Refusal]:
    if place.own is None or not place.column.is_quality or place.cell.value is None:
        return
    others = [
        column
        for column in place.section.columns
        if (column.dataset, column.metric) == (place.column.dataset, place.column.metric) and column != place.column
        and any(row.cells[column].value is not None for row in place.section.rows)
    ]  # fmt: skip
    if others:
        listed = ", ".join(sorted(f"{column.label} {column.protocol}" for column in others))
        yield Refusal(
            f"mixed protocol: {place.column.label} {place.column.protocol} here, {listed} in other cells of the table",
            "score",
            place.own["run_id"],
        )


def shown_records(section: Section) -> list[Record]:
    """The runs behind the cells of a section, each once."""
    found: dict[str, Record] = {}
    for row in section.rows:
        for column, cell in row.cells.items():
            record = own_record(row, column, cell)
            if record is not None:
                found[record["run_id"]] = record
    return [found[run] for run in sorted(found)]


def _hardware(record: Record) -> str:
    device = record["device"] or {}
    return f"{device.get('name', 'unknown')}, {device.get('label', 'unknown')}"


def _versions(record: Record) -> str:
    found = record["identity"].get("versions") or record["versions"]
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def _source(record: Record) -> str:
    return str(record["identity"].get("source_sha256", "unknown"))


_ALIKE: dict[str, Callable[[Record], str]] = {
    "hardware": _hardware,
    "library versions": _versions,
    "source code": _source,
}

RULES: Sequence[Rule] = (
    _not_run, _interrupted, _failed_clips, _missing_clips, _seeded, _dirty, _zero_engagement, _no_quality,
    _no_speedup, _few, _clips_not_people, _mixed, _mixed_protocol,
)  # fmt: skip


def refusals(place: Place) -> list[Refusal]:
    """Everything that forbids publishing a cell."""
    return [refusal for rule in RULES for refusal in rule(place)]
