"""Records as pandas tables, for notebooks: one line per run, per stage sample, per score, per step.

Every function takes a folder of runs or what `store.list_records` gives, and needs pandas (`pip install -e
".[report]"`). Numbers are those of the records: nothing is computed here, nothing dropped. Runs without a record are
not in any table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcp_bench.errors import ConfigError
from lcp_bench.quality_check import block_scores
from lcp_bench.record import Record
from lcp_bench.report.strips import steps_of
from lcp_bench.report.table import Measured, Row, make_row
from lcp_bench.store import StoredRun, list_records

if TYPE_CHECKING:
    from pandas import DataFrame

Runs = Path | str | Iterable[StoredRun]

COMPONENTS = ("caches", "parallel", "estimates", "foreground", "drops_reference")
"""Columns of `load_frame` that say which parts a strategy uses."""


def load_frame(runs: Runs) -> DataFrame:
    """One line per run.

    Columns are the fields of `lcp_bench.report.table.Row` (a measured number `x` is `x`, `x_low`, `x_high`, `x_n`), its
    labels, the (mean) number of key steps, and `COMPONENTS`. The unaccelerated run has no pair: its `speedup` is 1 by
    definition, with `speedup_n` 0.

    Args:
        runs: Folder of runs, or its `list_records`.

    Raises:
        ConfigError: There are no records, or pandas is missing.
    """
    return _frame([_line(record) for record in records_of(runs)])


def load_stages(runs: Runs) -> DataFrame:
    """One line per timed sample: `run_id`, `model`, `accel`, `stage`, `sample`, `seconds`. Errors as `load_frame`."""
    return _frame(
        [
            {**_head(record), "stage": stage, "sample": number, "seconds": seconds}
            for record in records_of(runs)
            for stage, samples in (record["timings"] or {}).items()
            for number, seconds in enumerate(samples)
        ],
        ["run_id", "model", "accel", "stage", "sample", "seconds"],
    )


def load_scores(runs: Runs) -> DataFrame:
    """One line per score with its interval, n, label and protocol; `side` is `videos`, `reference` or `difference`.

    A score that is null has no value and its `reason`. Compare only lines of equal `name`, `protocol`, `label` and `n`.
    Errors as `load_frame`.
    """
    wanted = ("value", "low", "high", "n", "n_expected", "unit", "direction", "label", "protocol")
    return _frame(
        [
            {**_head(record), "set": block["set"], "side": side, "name": name}
            | {key: score.get(key) for key in wanted}
            | {"reason": score.get("value_reason")}
            for record in records_of(runs)
            for block in (record["quality"] or {}).values()
            for side, name, score in block_scores(block)
        ],
        ["run_id", "model", "accel", "set", "side", "name", *wanted, "reason"],
    )


def load_steps(runs: Runs) -> DataFrame:
    """One line per step of every plan: `step`, and the fields of `strips.Step`. Errors as `load_frame`."""
    shown = ["role", "group", "key", "parallel", "key_share"]
    return _frame(
        [
            {**_head(record), "step": step.index} | {name: getattr(step, name) for name in shown}
            for record in records_of(runs)
            for step in steps_of(record["plan"])
        ],
        ["run_id", "model", "accel", "step", *shown],
    )


def records_of(runs: Runs) -> list[Record]:
    """The records of a folder, or of its listing.

    Raises:
        ConfigError: There are none.
    """
    listed = list_records(runs) if isinstance(runs, (str, Path)) else list(runs)
    found = [run.record for run in listed if run.record is not None]
    if not found:
        where = f"in {runs}" if isinstance(runs, (str, Path)) else "among these runs"
        raise ConfigError(
            f"expected at least one record {where}, found none; make some with: python -m lcp_bench -m "
            "+model=mini +accel=none,lcp"
        )
    return found


def components(record: Record) -> dict[str, bool]:
    """Which parts of LightningCP, or of another strategy, a run used.

    caches: some steps follow others. parallel: followers of a group are one batch. estimates: their latents are
    estimated. foreground: attention is restricted to the foreground. drops_reference: some layers stop reading it.
    """
    steps, accel = steps_of(record["plan"]), record["accel"]
    used = (
        any(step.role != "key" for step in steps),
        any(step.parallel for step in steps),
        bool(accel.get("estimate")),
        accel.get("attention") is not None,
        accel.get("reference") is not None,
    )
    return dict(zip(COMPONENTS, used, strict=True))


def _line(record: Record) -> dict[str, Any]:
    row = make_row(record)
    line = {key: value for name, cell in _cells(row) for key, value in _flat(name, cell)}
    keys = sum(step.key_share for step in steps_of(record["plan"]))  # a mean, where it was decided at run time
    if row.accel == row.speedup_baseline and row.speedup.value is None:
        line["speedup"] = 1.0
    return {"run_id": row.run_id, **line, "key_steps": keys or None, **components(record)}


def _cells(row: Row) -> Iterator[tuple[str, Any]]:
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name == "labels":
            yield from ((each.name, getattr(value, each.name)) for each in fields(value))
        elif field.name != "quality":  # a score belongs to a protocol and an n: see `load_scores`
            yield field.name, value


def _flat(name: str, cell: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(cell, Measured):
        yield name, cell
        return
    ends = ((name, cell.value), (f"{name}_low", cell.low), (f"{name}_high", cell.high))
    yield from ((key, math.nan if value is None else value) for key, value in ends)
    yield f"{name}_n", cell.n


def _head(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"run_id": record["run_id"], "model": record["model"]["name"], "accel": record["accel"]["name"]}


def _frame(lines: list[dict[str, Any]], columns: list[str] | None = None) -> DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(f'pandas is needed for tables of records ({error}); pip install -e ".[report]"') from error
    return pandas.DataFrame(lines, columns=columns)
