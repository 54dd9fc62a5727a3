"""`python -m lcp_bench.report`: list the records of a folder as tables.

`tables` writes the tables of the paper with the trail of every cell, `check` says what forbids publishing a cell,
`html` writes a folder to look at.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.report.render import FORMATS
from lcp_bench.report.table import SORT_KEYS, make_tables, unfinished
from lcp_bench.store import list_records

DEFAULT_RUNS = "runs"
SUBCOMMANDS = {
    "tables": "lcp_bench.report.tables:tables",
    "check": "lcp_bench.report.check:check",
    "html": "lcp_bench.report.page:html",
}
"""Word to the function that gets what follows it; each returns the text to show and the exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 when there is nothing to show or to read, 2 for a wrong command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        text, code = report(arguments)
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        sys.stderr.close()
    return code


def report(arguments: Sequence[str] | None = None) -> tuple[str, int]:
    """The text to show and the exit code.

    Raises:
        LcpBenchError: the command is wrong, or the folder cannot be read.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in SUBCOMMANDS:
        module, _, name = SUBCOMMANDS[words[0]].partition(":")
        command: Callable[[Sequence[str]], tuple[str, int]] = getattr(importlib.import_module(module), name)
        return command(words[1:])
    options = _parser().parse_args(words)
    folder = Path(_runs_folder(options.overrides, options.runs)).expanduser()
    runs = list_records(folder)
    if not runs:
        hint = "make some with: python -m lcp_bench +model=hallo +accel=none; or name another folder: --runs DIR"
        return f"No runs in {folder}; {hint}\n", 1
    tables = make_tables(runs, sort=options.sort, descending=options.descending)
    if options.table is not None:
        if not 1 <= options.table <= len(tables):
            raise ConfigError(f"--table must be in 1..{len(tables)}, got {options.table}; leave it out to see all")
        tables = [tables[options.table - 1]]
    return FORMATS[options.format](tables, unfinished(runs)), 0 if tables else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lcp_bench.report",
        description="List records as tables. Runs with different weights, size, dtype, device or data never share one.",
        epilog=f"Other commands: {', '.join(SUBCOMMANDS)}; `python -m lcp_bench.report tables --help` says more.",
    )
    parser.add_argument("overrides", nargs="*", metavar="paths.runs=DIR", help="folder of runs, as in the main command")
    parser.add_argument("--runs", metavar="DIR", help=f"the same as paths.runs=DIR (default: {DEFAULT_RUNS})")
    parser.add_argument("--format", choices=tuple(FORMATS), default="markdown")
    parser.add_argument("--sort", choices=tuple(SORT_KEYS), default="model", help="order of the rows (default: model)")
    parser.add_argument("--descending", action="store_true", help="largest first")
    parser.add_argument("--table", type=int, metavar="N", help="only the N-th table, counted from 1")
    return parser


def _runs_folder(overrides: Sequence[str], runs: str | None) -> str:
    for override in overrides:
        name, separator, value = override.partition("=")
        if name != "paths.runs" or not separator or not value:
            close = difflib.get_close_matches(name, ["paths.runs"], 1)
            hint = "did you mean paths.runs=DIR?" if close else "only paths.runs=DIR is known here"
            raise ConfigError(f"expected paths.runs=DIR, got {override!r}; {hint}")
        if runs is not None and runs != value:
            raise ConfigError(f"expected one folder of runs, got {runs!r} and {value!r}; give one of them")
        runs = value
    return runs or DEFAULT_RUNS


if __name__ == "__main__":
    sys.exit(main())
