"""Tables as text: Markdown for reading, CSV for programs, LaTeX (booktabs) for papers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcp_bench.report.quality import QualityCell, QualityColumn, quality_columns, real_videos
from lcp_bench.report.table import Measured, Row, Table, reasons

EMPTY = "n/a"
REAL = "(real videos)"


@dataclass(frozen=True)
class Column:
    """A column for people: its title with the unit, and the cell's text."""

    title: str
    cell: Callable[[Row], str]
    is_number: bool = True


def columns(table: Table) -> list[Column]:
    """The columns of a Markdown or LaTeX table; the labels common to all rows stand in its heading too."""
    memory_of = sorted({row.peak_memory_of for row in table.rows})
    return [
        Column("model", lambda row: row.model, False),
        Column("size", lambda row: row.labels.size, False),
        Column("weights", lambda row: row.labels.weights, False),
        Column("accel", lambda row: row.accel, False),
        Column("steps", lambda row: EMPTY if row.steps is None else str(row.steps)),
        Column("clips ok/expected", lambda row: f"{row.clips_ok}/{row.clips_expected}"),
        Column("time per clip (s) [95% interval]", lambda row: with_interval(row.seconds_per_clip)),
        Column("speed (frames/s)", lambda row: number(row.frames_per_second.value)),
        Column("speed-up (x) [95% interval]", _speedup),
        Column("FLOP bound (x)", lambda row: number(row.speedup_bound.value)),
        Column("executed (TFLOP/clip)", lambda row: number(row.executed_tflop.value)),
        Column("reached (TFLOP/s)", lambda row: number(row.reached_tflop_per_s.value)),
        Column("cache (MB)", lambda row: number(row.cache_mb.value)),
        Column(f"peak {'/'.join(memory_of)} memory (MB)", lambda row: number(row.peak_memory_mb.value)),
        Column("status", lambda row: row.status if row.status == "complete" else row.status.upper(), False),
        Column("run", lambda row: row.run_id, False),
    ]


def _speedup(row: Row) -> str:
    text = with_interval(row.speedup)
    return text if text == EMPTY else f"{text} vs {row.speedup_baseline}"


def number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits, never in exponents below 10^9.

    >>> number(1234567.0), number(0.012345), number(2.0), number(None)
    ('1234567', '0.01235', '2.000', 'n/a')
    """
    if value is None:
        return EMPTY
    if value == 0 or abs(value) >= 1e9:
        return f"{value:.{digits}g}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if whole:
        return f"{value:.{max(digits - whole, 0)}f}"
    return f"{value:.{digits}g}"


def with_interval(cell: Measured) -> str:
    """`1.98 [1.91, 2.06] n=3`; without an interval `1.98 n=1`.

    >>> with_interval(Measured(1.98, 1.91, 2.06, 3)), with_interval(Measured(1.98, n=1))
    ('1.980 [1.910, 2.060] n=3', '1.980 n=1')
    """
    if cell.value is None:
        return EMPTY
    interval = "" if cell.low is None else f" [{number(cell.low)}, {number(cell.high)}]"
    return f"{number(cell.value)}{interval} n={cell.n}"


def quality_grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the quality table below a table: one line per run, then the real videos; empty without any.

    A column holds one score under one protocol, with one label and one n. Real videos stand only where these agree.
    """
    rows = [row.quality for row in table.rows]
    shown = quality_columns(rows)
    if not shown:
        return [], []
    lines = [
        [row.model, row.accel, *(_quality(row.quality.cells, column) for column in shown), row.run_id]
        for row in table.rows
    ]
    real = real_videos(rows, shown)
    if real:
        lines.append([REAL, "", *(_quality(real, column) for column in shown), ""])
    return ["model", "accel", *(column.title for column in shown), "run"], lines


def _quality(cells: Mapping[QualityColumn, QualityCell], column: QualityColumn) -> str:
    cell = cells.get(column)
    if cell is None:
        return EMPTY
    text = with_interval(Measured(cell.value, cell.low, cell.high, cell.n))
    return text if cell.n == cell.n_expected else f"{text} of {cell.n_expected} PARTIAL"


def markdown(tables: Sequence[Table], unfinished: Sequence[tuple[str, str]] = ()) -> str:
    """One section per table, then why cells are empty, then the runs that have no record."""
    parts = []
    for table in tables:
        shown = columns(table)
        lines = [
            f"## {_markdown(table.labels.heading())}",
            "",
            _line(column.title for column in shown),
            _line("---:" if column.is_number else "---" for column in shown),
            *(_line(_markdown(column.cell(row)) for column in shown) for row in table.rows),
        ]
        titles, cells = quality_grid(table)
        if titles:
            lines += ["", "### Quality", "", _line(map(_markdown, titles)), _line(["---"] * len(titles))]
            lines += [_line(map(_markdown, row)) for row in cells]
        notes = [f"- {_markdown(note)}" for note in reasons(table.rows)]
        parts.append("\n".join([*lines, *(["", *notes] if notes else [])]))
    if unfinished:
        listed = [f"- {_markdown(run)}: {_markdown(problem)}" for run, problem in unfinished]
        parts.append("\n".join(["## Runs without a record", "", *listed]))
    return "\n\n".join(parts) + "\n"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return re.sub(r"([|\\`*<>])", r"\\\1", " ".join(text.split()))


_CSV: dict[str, Callable[[Row], Any]] = {
    "model": lambda row: row.model,
    "size": lambda row: row.labels.size,
    "weights": lambda row: row.labels.weights,
    "dtype": lambda row: row.labels.dtype,
    "dataset": lambda row: row.labels.dataset,
    "device": lambda row: row.labels.device,
    "accel": lambda row: row.accel,
    "steps": lambda row: row.steps,
    "clips_ok": lambda row: row.clips_ok,
    "clips_expected": lambda row: row.clips_expected,
    "seconds_per_clip": lambda row: row.seconds_per_clip.value,
    "seconds_per_clip_low": lambda row: row.seconds_per_clip.low,
    "seconds_per_clip_high": lambda row: row.seconds_per_clip.high,
    "seconds_per_clip_n": lambda row: row.seconds_per_clip.n,
    "frames_per_second": lambda row: row.frames_per_second.value,
    "speedup": lambda row: row.speedup.value,
    "speedup_low": lambda row: row.speedup.low,
    "speedup_high": lambda row: row.speedup.high,
    "speedup_n": lambda row: row.speedup.n,
    "speedup_baseline": lambda row: row.speedup_baseline,
    "speedup_bound": lambda row: row.speedup_bound.value,
    "executed_tflop_per_clip": lambda row: row.executed_tflop.value,
    "reached_tflop_per_s": lambda row: row.reached_tflop_per_s.value,
    "cache_mb": lambda row: row.cache_mb.value,
    "peak_memory_mb": lambda row: row.peak_memory_mb.value,
    "peak_memory_of": lambda row: row.peak_memory_of,
    "status": lambda row: row.status,
    "status_reason": lambda row: row.status_reason,
    "run_id": lambda row: row.run_id,
    "created_utc": lambda row: row.created_utc,
}


def to_csv(tables: Sequence[Table], unfinished: Sequence[tuple[str, str]] = ()) -> str:
    """Full precision, empty cells for what was not measured.

    Several tables follow each other, each under a `#` line with its labels and with its own header: concatenating
    them would compare what must not be compared. Runs without a record are `#` lines at the end.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for index, table in enumerate(tables):
        buffer.write(f"{chr(10) if index else ''}# {table.labels.heading()}\n")
        rows = [row.quality for row in table.rows]
        shown = quality_columns(rows)
        writer.writerow([*_CSV, *(f"{column.key}{part}" for column in shown for part in _CSV_PARTS)])
        for row in table.rows:
            writer.writerow([*(get(row) for get in _CSV.values()), *_csv_quality(row.quality.cells, shown)])
        real = real_videos(rows, shown)
        if real:
            writer.writerow([REAL, *[""] * (len(_CSV) - 1), *_csv_quality(real, shown)])
    for run, problem in unfinished:
        buffer.write(f"# run without a record: {run}: {' '.join(problem.split())}\n")
    return buffer.getvalue()


_CSV_PARTS: dict[str, Callable[[QualityCell], Any]] = {
    "": lambda cell: cell.value,
    "|low": lambda cell: cell.low,
    "|high": lambda cell: cell.high,
    "|n_expected": lambda cell: cell.n_expected,
}


def _csv_quality(cells: Mapping[QualityColumn, QualityCell], shown: Sequence[QualityColumn]) -> list[Any]:
    return [
        None if (cell := cells.get(column)) is None else get(cell) for column in shown for get in _CSV_PARTS.values()
    ]


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    r"""`text` with everything that LaTeX would interpret made literal.

    >>> escape_latex("lcp_dfa 100%")
    'lcp\\_dfa 100\\%'
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def latex(tables: Sequence[Table], unfinished: Sequence[tuple[str, str]] = ()) -> str:
    """One `table*` per table, one more for quality; notes and runs without a record follow as comments."""
    parts = []
    for table in tables:
        shown, heading = columns(table), table.labels.heading()
        align = "".join("r" if column.is_number else "l" for column in shown)
        titles = [column.title for column in shown]
        lines = _latex_table(heading, align, titles, [[column.cell(row) for column in shown] for row in table.rows])
        titles, cells = quality_grid(table)
        if titles:
            lines += _latex_table(f"Quality: {heading}", f"ll{'r' * (len(titles) - 3)}l", titles, cells)
        parts.append("\n".join([*lines, *(f"% {' '.join(note.split())}" for note in reasons(table.rows))]))
    parts += [f"% run without a record: {run}: {' '.join(problem.split())}" for run, problem in unfinished]
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n\n".join(parts) + "\n"


def _latex_table(caption: str, align: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(caption)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _latex_line(titles),
        r"\midrule",
        *map(_latex_line, rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]


def _latex_line(cells: Any) -> str:
    # A cell that starts with [ would be read as the optional argument of the \\ before it.
    return " & ".join(escape_latex(cell).replace("[", "{[}") for cell in cells) + r" \\"


FORMATS: dict[str, Callable[[Sequence[Table], Sequence[tuple[str, str]]], str]] = {
    "markdown": markdown,
    "csv": to_csv,
    "latex": latex,
}
