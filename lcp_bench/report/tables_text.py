"""A filled layout as Markdown for reading, CSV for programs (a line per cell), and the trail of every cell as JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from lcp_bench.report.paired import ALPHA, Difference
from lcp_bench.report.published import Published
from lcp_bench.report.render import EMPTY, REAL, number
from lcp_bench.report.tables_cells import NOT_RUN, Cell, Column
from lcp_bench.report.tables_layout import Layout, Row, Section

WORSE = "†"
ARROWS = {"lower": "↓", "higher": "↑", "none": ""}
TITLES = {
    "fvd": "FVD", "fvd_motion": "FVD-motion", "fvd_frames": "FVD-frames", "fid": "FID", "efid": "E-FID",
    "lse_c": "Sync-C", "sync_c": "Sync-C", "tflop": "TFLOP", "executed_tflop": "TFLOP executed",
    "denoise_s": "denoise (s)", "seconds_per_clip": "clip (s)", "speedup": "speed-up (x)",
}  # fmt: skip
TRAIL_SCHEMA = 1


def shown_columns(layout: Layout, section: Section) -> list[Column]:
    """Columns for people: all scores, and the layout's work and time on the first data set that has any."""
    scores = [column for column in section.columns if column.is_quality]
    timed = next((c.dataset for c in section.columns if not c.is_quality and _has_value(section, c)), None)
    speed = [c for c in section.columns if c.metric in layout.speed and c.dataset == timed]
    return scores + speed


def _has_value(section: Section, column: Column) -> bool:
    return any(row.cells[column].value is not None for row in section.rows)


def has_published(section: Section, column: Column) -> bool:
    """Whether a paper has a number for any row of the column."""
    return any(row.cells[column].published is not None for row in section.rows)


def title(column: Column) -> str:
    """`FVD ↓`, with the digits of the protocol for scores."""
    arrow = ARROWS[column.direction]
    return f"{TITLES[column.metric]}{' ' if arrow else ''}{arrow}"


def cell_text(cell: Cell) -> str:
    """`8.52 [7.90, 9.14] n=6`; `PARTIAL` and the number expected where clips are missing."""
    if cell.value is None:
        return NOT_RUN if not cell.runs else EMPTY
    interval = "" if cell.low is None else f" [{number(cell.low)}, {number(cell.high)}]"
    count = "" if cell.n is None else f" n={cell.n}"
    missing = f"/{cell.n_expected} PARTIAL" if cell.partial else ""
    return f"{number(cell.value)}{interval}{count}{missing}"


def published_text(cell: Cell) -> str:
    """A paper's number as it is printed there."""
    return "" if cell.published is None else f"{cell.published.value:g}{'*' if cell.published.note else ''}"


def baseline_text(row: Row, column: Column, cell: Cell) -> str:
    """The cell, or the word for a ratio whose other side is the row itself."""
    if column.metric == "speedup" and row.accel == "none" and cell.value is None and cell.runs:
        return "baseline"
    return cell_text(cell)


def run_ids(row: Row, columns: Iterable[Column]) -> list[str]:
    """The runs behind these cells of a row, in the order of the columns."""
    return list(dict.fromkeys(run for column in columns for run in row.cells[column].runs[:1]))


# Markdown


def markdown(
    layout: Layout, sections: Sequence[Section], published: Published | None, unfinished: Sequence[str]
) -> str:
    """One part per section: the table, the comparisons with the unaccelerated run, and what a reader must know."""
    parts = [f"# {layout.title}", "", *_legend(layout, published)]
    for section in sections:
        shown = shown_columns(layout, section)
        parts += ["", f"## {_escape(section.labels.heading)}", "", *_main_table(section, shown)]
        parts += _differences(section, shown)
        parts += ["", *(f"- {_escape(note)}" for note in notes(section, shown))]
    if unfinished:
        parts += ["", "## Runs without a record", "", *(f"- {_escape(each)}" for each in unfinished)]
    return "\n".join(parts) + "\n"


def _legend(layout: Layout, published: Published | None) -> list[str]:
    lines = [
        "value [95 % interval] n = clips (of a speed-up: pairs of measurements). **Bold**: better than `none` by the "
        f"paired comparison (p < {ALPHA:g} after Holm's correction for the rows of the column) and outside the "
        f"interval of `none`; {WORSE}: worse by the paired comparison. PARTIAL: clips are missing, so it is neither. "
        f"Runs, protocols and comparisons of every cell: `{layout.name}.cells.json`.",
    ]
    if published is not None:
        paper = f"arXiv {published.paper['arxiv']}, {published.paper['venue']}"
        lines += ["", f"published: {paper}; measured by its authors, "
                  "on other clips, machines and metric code: beside ours, never compared with them. "
                  "*: see results/published.yaml."]  # fmt: skip
    return lines


def _main_table(section: Section, shown: Sequence[Column]) -> list[str]:
    titles, align = ["model", "strategy"], ["---", "---"]
    for column in shown:
        titles.append(f"{title(column)} {column.dataset_name}")
        align.append("---:")
        if has_published(section, column):
            titles.append("published")
            align.append("---:")
    lines = [_line([*titles, "runs"]), _line([*align, "---"])]
    for row in section.rows:
        texts = [row.model, row.name]
        for column in shown:
            cell = row.cells[column]
            texts.append(_marked(row, column, cell))
            texts += [published_text(cell)] if has_published(section, column) else []
        lines.append(_line([*texts[:2], *texts[2:], ", ".join(run_ids(row, shown))]))
    if section.real:
        lines.append(_line(_real_line(section, shown)))
    return lines


def _marked(row: Row, column: Column, cell: Cell) -> str:
    text, verdict = _escape(baseline_text(row, column, cell)), cell.verdict(column)
    return f"**{text}**" if verdict == "better" else f"{text} {WORSE}" if verdict == "worse" else text


def _real_line(section: Section, shown: Sequence[Column]) -> list[str]:
    texts = [REAL, ""]
    for column in shown:
        cell = section.real.get(column)
        floor = " (floor)" if cell is not None and cell.reason else ""
        texts.append("" if cell is None else f"{cell_text(cell)}{floor}")
        texts += [""] if has_published(section, column) else []
    return [*texts, ""]


def _differences(section: Section, shown: Sequence[Column]) -> list[str]:
    columns = [column for column in shown if any(row.cells[column].difference for row in section.rows)]
    if not columns:
        return []
    lines = ["", "Against `none`, paired (speed-up: the ratio itself):", "",
             _line(["model", "strategy", *(f"{title(column)} {column.dataset_name}" for column in columns)]),
             _line(["---"] * (2 + len(columns)))]  # fmt: skip
    for row in section.rows:
        found = [row.cells[column].difference for column in columns]
        if any(found):
            texts = map(difference_text, columns, found)
            lines.append(_line([row.model, row.name, *texts]))
    return lines


def difference_text(column: Column, difference: Difference | None) -> str:
    """`+0.85 [0.22, 1.49] 30 people, p=0.031, corrected 0.062`; of a speed-up the ratio, without a sign."""
    if difference is None:
        return EMPTY
    ends = f"[{number(difference.low)}, {number(difference.high)}]"
    sign = "+" if difference.value > 0 and column.metric != "speedup" else ""
    over = f"{difference.people} people" if difference.people is not None else f"n={difference.n}"
    corrected = difference.p if difference.p_holm is None else difference.p_holm
    p = f"p={probability(difference.p)}, corrected {probability(corrected)}"
    return f"{sign}{number(difference.value)} {ends} {over}, {p}"


def probability(p: float) -> str:
    """Three decimals, never 0.

    >>> probability(0.03219), probability(0.00001), probability(1.0)
    ('0.032', '<0.001', '1.000')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def notes(section: Section, shown: Sequence[Column]) -> list[str]:
    """What the columns are, and why cells are empty, with the rows that it concerns."""
    found = []
    for column in shown:
        if column.is_quality:
            people = sorted({cell.people for row in section.rows if (cell := row.cells[column]).people is not None})
            over = f"interval over {'/'.join(map(str, people))} people" if people else "interval over clips"
            found.append(
                f"{TITLES[column.metric]} {column.dataset}: {column.metric}, {column.unit}, networks "
                f"{column.label or EMPTY}, protocol {column.protocol or EMPTY}, {over}"
            )
        else:
            found.append(f"{TITLES[column.metric]}: {column.unit}, on {column.dataset}")
    why: dict[str, list[str]] = {}
    for row in section.rows:
        for column in shown:
            cell = row.cells[column]
            if cell.value is None and cell.reason and baseline_text(row, column, cell) != "baseline":
                text = cell.reason if cell.reason == NOT_RUN else f"no {TITLES[column.metric]}: {cell.reason}"
                why.setdefault(text, []).append(f"{row.model} {row.name} on {column.dataset_name}")
    return found + [f"{text} ({'; '.join(dict.fromkeys(rows))})" for text, rows in why.items()]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return re.sub(r"([|\\`*<>])", r"\\\1", " ".join(text.split()))


# CSV and the trail

CSV_COLUMNS = (
    *("weights", "size", "dtype", "device", "model", "accel", "settings", "dataset", "metric", "unit", "direction"),
    *("value", "low", "high", "n", "n_expected", "people", "partial", "verdict", "label", "protocol", "runs", "reason"),
    *("difference", "difference_low", "difference_high", "difference_n", "p", "p_holm", "rows_corrected_for"),
    *("baseline", "baseline_low", "baseline_high", "baseline_run", "published", "published_in"),
)


def to_csv(sections: Sequence[Section]) -> str:
    """One line per cell, full precision, empty where there is nothing; work and time of every data set too."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for row in section.rows:
            for column in section.columns:
                writer.writerow(asdict(section.labels) | _fields(row, column, row.cells[column]))
        for column, cell in section.real.items():
            empty = Row(REAL, "", "", {}, {})
            writer.writerow(asdict(section.labels) | _fields(empty, column, cell))
    return buffer.getvalue()


def _fields(row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {"model": row.model, "accel": row.accel, "settings": row.settings}
    found |= {name: getattr(column, name) for name in ("dataset", "metric", "unit", "direction", "label", "protocol")}
    found |= {name: getattr(cell, name) for name in ("value", "low", "high", "n", "n_expected", "people", "reason")}
    found |= {"partial": cell.partial, "verdict": cell.verdict(column), "runs": " ".join(cell.runs)}
    if (difference := cell.difference) is not None:
        found |= {"difference": difference.value, "difference_low": difference.low, "difference_high": difference.high,
                  "difference_n": difference.n, "p": difference.p, "p_holm": difference.p_holm,
                  "rows_corrected_for": difference.family}  # fmt: skip
    if (baseline := cell.baseline) is not None:
        found |= {"baseline": baseline.value, "baseline_low": baseline.low, "baseline_high": baseline.high,
                  "baseline_run": baseline.run}  # fmt: skip
    if cell.published is not None:
        found |= {"published": cell.published.value, "published_in": cell.published.table}
    return found


def trail(layout: Layout, sections: Sequence[Section]) -> str:
    """Every cell with its runs, n, interval, protocol and comparison, as JSON with sorted keys."""
    content = {
        "schema": TRAIL_SCHEMA,
        "layout": layout.name,
        "alpha": ALPHA,
        "correction": "Holm, over the rows of a column that are compared with the unaccelerated run",
        "sections": [
            {
                "labels": asdict(section.labels),
                "rows": [
                    {
                        "model": row.model,
                        "accel": row.accel,
                        "settings": row.settings,
                        "cells": [_trail_cell(column, row.cells[column]) for column in section.columns],
                    }
                    for row in section.rows
                ],
                "real": [_trail_cell(column, cell) for column, cell in section.real.items()],
            }
            for section in sections
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _trail_cell(column: Column, cell: Cell) -> dict[str, Any]:
    place = {name: getattr(column, name) for name in ("dataset", "metric", "label", "protocol", "unit", "direction")}
    return {**place, **asdict(cell), "runs": list(cell.runs), "partial": cell.partial, "verdict": cell.verdict(column)}
