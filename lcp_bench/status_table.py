"""Plain tables for `status`, `doctor` and dry runs: columns that line up, nothing cut off."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str
COLOURS = {
    "complete": "green", "pass": "green", "running": "cyan", "partial": "yellow", "warn": "yellow",
    "missing": "", "failed": "red", "blocked": "red", "fail": "red", "unreadable": "red", "killed": "yellow",
}  # fmt: skip
WIDE = 10_000


def print_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows of text on stdout, states coloured on a terminal."""
    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    console = Console(file=sys.stdout, highlight=False, width=WIDE, soft_wrap=True)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def size(count: int) -> str:
    """Bytes for people.

    >>> size(1234), size(5_600_000_000)
    ('1.2 kB', '5.6 GB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds for people; `unknown` for None.

    >>> duration(42), duration(90), duration(8000), duration(None)
    ('42 s', '1.5 min', '2.2 h', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 or not seconds else "1 s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
