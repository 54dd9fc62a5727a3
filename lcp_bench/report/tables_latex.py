"""A filled layout as LaTeX (booktabs): data sets as groups of columns, published numbers in grey beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from lcp_bench.report.render import REAL, escape_latex, number
from lcp_bench.report.tables_cells import Cell, Column
from lcp_bench.report.tables_layout import Layout, Row, Section
from lcp_bench.report.tables_text import (
    TITLES,
    baseline_text,
    has_published,
    notes,
    published_text,
    run_ids,
    shown_columns,
)

PREAMBLE = "% needs \\usepackage{booktabs,graphicx,xcolor}; made by: python -m lcp_bench.report tables --layout "
_ARROWS = {"lower": r" $\downarrow$", "higher": r" $\uparrow$", "none": ""}


def latex(layout: Layout, sections: Sequence[Section]) -> str:
    """One `table*` per section; runs, protocols and reasons follow as comments."""
    parts = [PREAMBLE + layout.name]
    for section in sections:
        shown = shown_columns(layout, section)
        parts.append("\n".join([*_table(layout, section, shown), *_comments(section, shown)]))
    return "\n\n".join(parts) + "\n"


def _table(layout: Layout, section: Section, shown: Sequence[Column]) -> list[str]:
    widths = [2 if has_published(section, column) else 1 for column in shown]
    caption = f"{layout.title}. {section.labels.heading}."
    return [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(caption)} Bold: better than none, outside its 95\% interval, and paired $p < 0.05$ "
        r"after Holm's correction; $^{\dagger}$: worse by the paired comparison; grey: published.}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'r' * sum(widths)}}}",
        r"\toprule",
        *_heads(section, shown, widths),
        r"\midrule",
        *_rows(section, shown),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]


def _heads(section: Section, shown: Sequence[Column], widths: Sequence[int]) -> list[str]:
    groups, rules, at = ["", ""], [], 3
    for name, members in groupby(zip(shown, widths, strict=True), key=lambda item: _group(item[0])):
        span = sum(width for _, width in members)
        groups.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(name)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + span - 1}}}")
        at += span
    titles = ["model", "strategy"]
    for column in shown:
        titles.append(f"{escape_latex(TITLES[column.metric])}{_ARROWS[column.direction]}")
        titles += [r"\textcolor{gray}{publ.}"] if has_published(section, column) else []
    return [_line(groups), " ".join(rules), _line(titles)]


def _group(column: Column) -> str:
    return column.dataset_name if column.is_quality else f"work and time ({column.dataset_name})"


def _rows(section: Section, shown: Sequence[Column]) -> list[str]:
    lines = []
    for index, (model, rows) in enumerate(groupby(section.rows, key=lambda row: row.model)):
        lines += [r"\midrule"] if index else []
        for place, row in enumerate(rows):
            lines.append(
                _line([escape_latex(model) if not place else "", escape_latex(row.name), *_cells(section, row, shown)])
            )
    if section.real:
        real: list[str] = [escape_latex(REAL), ""]
        for column in shown:
            cell = section.real.get(column)
            floor = r" {\scriptsize floor}" if cell is not None and cell.reason else ""
            real.append("" if cell is None else _measured(cell) + floor)
            real += [""] if has_published(section, column) else []
        lines += [r"\midrule", _line(real)]
    return lines


def _cells(section: Section, row: Row, shown: Sequence[Column]) -> Iterable[str]:
    for column in shown:
        cell = row.cells[column]
        text = escape_latex(baseline_text(row, column, cell)) if cell.value is None else _measured(cell)
        verdict = cell.verdict(column)
        yield rf"\textbf{{{text}}}" if verdict == "better" else rf"{text}$^{{\dagger}}$" if verdict == "worse" else text
        if has_published(section, column):
            yield rf"\textcolor{{gray}}{{{escape_latex(published_text(cell))}}}"


def _measured(cell: Cell) -> str:
    """Value, then interval and n in small type."""
    ends = "" if cell.low is None else f"{{[}}{number(cell.low)}, {number(cell.high)}] "
    count = "" if cell.n is None else f"$n={cell.n}$"
    missing = f"/{cell.n_expected} PARTIAL" if cell.partial else ""
    small = f"{ends}{count}{missing}".strip()
    return number(cell.value) + (rf" {{\scriptsize {small}}}" if small else "")


def _comments(section: Section, shown: Sequence[Column]) -> list[str]:
    lines = [f"% {row.model} {row.name}: runs {', '.join(run_ids(row, shown)) or 'none'}" for row in section.rows]
    return lines + [f"% {' '.join(note.split())}" for note in notes(section, shown)]


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
