"""What the report page says about one comparison: texts of tables, plots, strips; everything still without HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lcp_bench.record import Record
from lcp_bench.report.page_clips import Viewer, make_viewer
from lcp_bench.report.plots import Point, pareto_svg, stages_svg
from lcp_bench.report.quality import QualityColumn, quality_columns
from lcp_bench.report.render import EMPTY, REAL, columns, number, quality_grid
from lcp_bench.report.strips import strip_svg, summary
from lcp_bench.report.table import Measured, Row, Table, make_tables, reasons
from lcp_bench.store import StoredRun

IN_HEADING = ("size", "weights", "run")
"""Columns that the page leaves out: equal in all rows and part of the heading, or behind every cell's link."""
DIFFERENCE = "_minus_baseline"
WARNINGS = {
    "seeded": "Random weights: work, memory and speed mean something, pictures and quality do not.",
    "mini": "Weights of the repository's own small model on drawn faces: an order of methods, not their numbers.",
}


@dataclass(frozen=True)
class Heading:
    """A column of a table: its name, and what else a reader must know."""

    name: str
    detail: str
    is_number: bool = True


@dataclass(frozen=True)
class Line:
    """A row of a table: texts, and the run that they come from (None for real videos)."""

    label: str
    cells: tuple[str, ...]
    run_id: str | None


@dataclass(frozen=True)
class Plot:
    """A picture as SVG text, with what it shows for those who cannot see it."""

    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Strip:
    """The schedule of one run."""

    run_id: str
    label: str
    svg: str
    summary: str


@dataclass(frozen=True)
class Section:
    """One comparison: runs with equal weights, size, number format, device and data."""

    heading: str
    warnings: tuple[str, ...]
    columns: tuple[Heading, ...]
    lines: tuple[Line, ...]
    score_columns: tuple[Heading, ...]
    score_lines: tuple[Line, ...]
    notes: tuple[str, ...]
    plots: tuple[Plot, ...]
    no_plots: str
    stages: Plot | None
    strips: tuple[Strip, ...]
    viewer: Viewer | None
    speeds: Mapping[str, str] = field(default_factory=dict)


def make_sections(runs: Sequence[StoredRun]) -> list[Section]:
    """One section per table of `make_tables`, in its order.

    Raises:
        ConfigError: Matplotlib is missing.
    """
    by_id = {run.run_id: run for run in runs if run.record is not None}
    return [_section(table, [by_id[row.run_id] for row in table.rows]) for table in make_tables(runs)]


def _section(table: Table, runs: Sequence[StoredRun]) -> Section:
    # The unaccelerated run first: everything else is looked at against it.
    order = sorted(range(len(runs)), key=lambda place: (table.rows[place].model, table.rows[place].accel != "none"))
    table, runs = Table(table.labels, tuple(table.rows[place] for place in order)), [runs[place] for place in order]
    records = {run.run_id: run.record for run in runs if run.record is not None}
    labels = unique_labels(table.rows)
    headings, lines = _speed(table, labels)
    score_headings, score_lines = _scores(table, labels)
    plots = tuple(_pareto(table, labels))
    weights = table.labels.weights
    return Section(
        heading=table.labels.heading(),
        warnings=(WARNINGS[weights],) if weights in WARNINGS else (),
        columns=headings,
        lines=lines,
        score_columns=score_headings,
        score_lines=score_lines,
        notes=tuple(reasons(table.rows)),
        plots=plots,
        no_plots="" if plots else _why_no_plots(table),
        stages=_stages(records, labels),
        strips=tuple(
            Strip(run, labels[run], strip_svg(record["plan"], labels[run]), summary(record["plan"]))
            for run, record in records.items()
        ),
        viewer=make_viewer(runs, labels),
        speeds={row.run_id: _speed_text(row) for row in table.rows},
    )


def unique_labels(rows: Sequence[Row]) -> dict[str, str]:
    """Run id to the shortest name that no other run of the table has.

    The strategy's name, with the model where there are several; else with its steps; else with the run's id.
    """
    known: dict[str, str] = {}
    several = len({row.model for row in rows}) > 1
    names = {row.run_id: f"{row.model} {row.accel}" if several else row.accel for row in rows}
    forms: tuple[Callable[[Row], str], ...] = (
        lambda row: names[row.run_id],
        lambda row: f"{names[row.run_id]}, {row.steps} steps",
        lambda row: f"{names[row.run_id]} {row.run_id[:6]}",
    )
    for form in forms:
        texts = [form(row) for row in rows]
        for row, text in zip(rows, texts, strict=True):
            if texts.count(text) == 1 and text not in known.values():
                known.setdefault(row.run_id, text)
    return {row.run_id: known.get(row.run_id, row.run_id) for row in rows}


def _speed(table: Table, labels: Mapping[str, str]) -> tuple[tuple[Heading, ...], tuple[Line, ...]]:
    shown = [column for column in columns(table) if column.title not in IN_HEADING]
    # The strategy leads the row, so that it stays in sight when a wide table is moved.
    shown.sort(key=lambda column: column.title != "accel")
    headings = tuple(Heading(*_split(column.title), column.is_number) for column in shown)
    lines = tuple(
        Line(labels[row.run_id], tuple(column.cell(row) for column in shown), row.run_id) for row in table.rows
    )
    return headings, lines


def _split(title: str) -> tuple[str, str]:
    """A title and its unit: `speed (frames/s)` to `speed` and `frames/s`.

    >>> _split("speed-up (x) [95% interval]"), _split("model")
    (('speed-up', 'x, 95% interval'), ('model', ''))
    """
    name, _, rest = title.partition(" (")
    return name, ", ".join(part.strip("[]() ") for part in rest.split(") ")) if rest else ""


def _scores(table: Table, labels: Mapping[str, str]) -> tuple[tuple[Heading, ...], tuple[Line, ...]]:
    found = quality_columns(row.quality for row in table.rows)
    _, grid = quality_grid(table)
    order = sorted(range(len(found)), key=lambda place: found[place].name.endswith(DIFFERENCE))  # values come first
    headings = tuple(
        Heading(column.name, column.title.removeprefix(f"{column.name} ").replace("[95% interval] ", ""))
        for column in (found[place] for place in order)
    )
    lines = []
    for cells in grid:  # model, strategy, scores, run id; the real videos have no run
        run = cells[-1] or None
        label = REAL if run is None else labels[run]
        lines.append(Line(label, tuple(cells[2 + place] for place in order), run))
    return headings, tuple(lines)


def _pareto(table: Table, labels: Mapping[str, str]) -> Iterator[Plot]:
    """A plot per score that at least two runs have with their speed; differences to the baseline have none."""
    marks = {row.run_id: place for place, row in enumerate(table.rows)}
    for model in sorted({row.model for row in table.rows}):
        rows = [row for row in table.rows if row.model == model]
        title, speeds = _speeds(rows)
        for column in quality_columns(row.quality for row in rows):
            if column.name.endswith(DIFFERENCE):
                continue
            points = [
                Point(labels[row.run_id], speeds[row.run_id], _measured(row, column), marks[row.run_id])
                for row in rows
                if column in row.quality.cells and speeds[row.run_id].value is not None
            ]
            if len(points) > 1:
                yield _plot(model, title, column, points, rows, labels)


def _plot(
    model: str,
    title: str,
    column: QualityColumn,
    points: Sequence[Point],
    rows: Sequence[Row],
    labels: Mapping[str, str],
) -> Plot:
    drawn = {point.label for point in points}
    left = [labels[row.run_id] for row in rows if labels[row.run_id] not in drawn]
    caption = f"{model}: {column.name} ({column.label}, n={column.n}, protocol {column.protocol[:8]})"
    if left:
        caption += f"; not shown, because this score or the speed is missing: {', '.join(left)}"
    values = "; ".join(f"{p.label}: {number(p.speed.value)}, {number(p.quality.value)}" for p in points)
    svg = pareto_svg(points, speed=title, quality=f"{column.name} ({column.unit})", direction=column.direction)
    return Plot(svg, f"{title} against {column.name} of {model}. {values}", caption)


def _speeds(rows: Sequence[Row]) -> tuple[str, dict[str, Measured]]:
    """Speed-ups, timed in pairs, where any run has one; else frames per second, which hold for an idle machine only."""
    if any(row.speedup.value is not None for row in rows):
        own = Measured(1.0)  # the unaccelerated run against itself, by definition
        return "speed-up over none (x)", {
            row.run_id: own if row.accel == "none" and row.speedup.value is None else row.speedup for row in rows
        }
    return "frames per second, not paired", {row.run_id: row.frames_per_second for row in rows}


def _measured(row: Row, column: QualityColumn) -> Measured:
    cell = row.quality.cells[column]
    return Measured(cell.value, cell.low, cell.high, cell.n)


def _why_no_plots(table: Table) -> str:
    absent = list(dict.fromkeys(row.quality.absent for row in table.rows if row.quality.absent))
    if absent:
        return f"Nothing to plot: {'; '.join(absent)}."
    return "Nothing to plot: it takes two runs with the same score under the same protocol and n, and their speeds."


def _stages(records: Mapping[str, Record], labels: Mapping[str, str]) -> Plot | None:
    means: dict[str, dict[str, float]] = {}
    for run, record in records.items():
        timings: Any = record["timings"] or {}
        if any(timings.values()):
            means[labels[run]] = {name: sum(each) / len(each) for name, each in timings.items() if each}
    if not means:
        return None
    totals = "; ".join(f"{label}: {number(sum(times.values()))} s" for label, times in means.items())
    return Plot(stages_svg(means), f"Mean seconds per clip of every stage. {totals}")


def _speed_text(row: Row) -> str:
    if row.speedup.value is not None:
        return f"{number(row.speedup.value, 3)}x"
    if row.frames_per_second.value is not None:
        return f"{number(row.frames_per_second.value, 3)} frames/s"
    return EMPTY
