"""`python -m lcp_bench.report tables`: the paper's tables from records, with the trail of every cell.

The files are a function of the records and of `results/published.yaml` alone: no time, path or random draw enters, so
that deleting them and giving the command again restores them byte for byte.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lcp_bench.atomic import replacing
from lcp_bench.errors import StoreError
from lcp_bench.report.published import Published, load_published
from lcp_bench.report.table import unfinished
from lcp_bench.report.tables_latex import latex
from lcp_bench.report.tables_layout import LAYOUTS, Layout, Section, build, layouts_of
from lcp_bench.report.tables_text import markdown, to_csv, trail
from lcp_bench.store import StoredRun, list_records

DEFAULT_RUNS = "runs"
DEFAULT_OUT = "results/tables"


def tables(arguments: Sequence[str]) -> tuple[str, int]:
    """Write the tables; returns the text to show and the exit code: 1 when there is no run to show.

    Raises:
        LcpBenchError: the command is wrong, or a folder cannot be read or written.
    """
    options = parser().parse_args(arguments)
    runs_folder, out = Path(options.runs).expanduser(), Path(options.out).expanduser()
    runs = list_records(runs_folder)
    if not runs:
        return f"No runs in {runs_folder}; make some, or name another folder: --runs DIR\n", 1
    published = load_published()
    lines, shown = [], 0
    for layout in layouts_of(options.layout):
        sections = build(layout, [run.record for run in runs if run.record is not None], published)
        if not sections:
            lines.append(f"{layout.name}: no run with {', '.join(layout.accels)}; nothing is written")
            continue
        shown += 1
        for path, text in texts(layout, sections, published, runs).items():
            write_text(out / path, text)
            lines.append(str(out / path))
    return "\n".join(lines) + "\n", 0 if shown else 1


def texts(
    layout: Layout, sections: Sequence[Section], published: Published | None, runs: Sequence[StoredRun]
) -> dict[str, str]:
    """File name to content of one layout: Markdown, CSV, LaTeX and the trail."""
    open_runs = [f"{name}: {problem}" for name, problem in unfinished(runs)]
    return {
        f"{layout.name}.md": markdown(layout, sections, published, open_runs),
        f"{layout.name}.csv": to_csv(sections),
        f"{layout.name}.tex": latex(layout, sections),
        f"{layout.name}.cells.json": trail(layout, sections),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m lcp_bench.report tables",
        description="Write the paper's tables (Markdown, CSV, LaTeX) and the trail of every cell from records.",
    )
    made.add_argument("--runs", metavar="DIR", default=DEFAULT_RUNS, help=f"folder of runs (default: {DEFAULT_RUNS})")
    made.add_argument("--out", metavar="DIR", default=DEFAULT_OUT, help=f"where to write (default: {DEFAULT_OUT})")
    made.add_argument("--layout", choices=(*LAYOUTS, "all"), default="all", help="which table (default: all)")
    return made


def write_text(path: Path, text: str) -> None:
    """Put a file in place atomically.

    Raises:
        StoreError: the folder cannot be written; what was there is unchanged.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{path} must be writable, got: {error.strerror or error}; choose another --out DIR"
        ) from error
