"""Records become the rows of tables; rows that must not be compared land in different tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcp_bench.errors import ConfigError
from lcp_bench.record import Record
from lcp_bench.report.quality import RowQuality, quality_notes, row_quality
from lcp_bench.store import StoredRun


@dataclass(frozen=True)
class Measured:
    """A number with its interval and sample count; `value` None when it was not measured, then `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Labels:
    """What must be equal for two rows to share a table."""

    weights: str
    size: str
    dtype: str
    device: str
    dataset: str

    def heading(self) -> str:
        """One line for people."""
        return f"{self.weights} weights, size {self.size}, {self.dtype}, data {self.dataset}, on {self.device}"


@dataclass(frozen=True)
class Row:
    """One run. Units: `*_s` seconds, `*_mb` 10^6 bytes, `*_tflop` 10^12 FLOP (a multiply-add counts 2), per clip.

    reached_tflop_per_s: executed work of the denoising loop over its time.
    """

    model: str
    labels: Labels
    accel: str
    steps: int | None
    clips_ok: int
    clips_expected: int
    seconds_per_clip: Measured
    frames_per_second: Measured
    speedup: Measured
    speedup_baseline: str
    speedup_bound: Measured
    executed_tflop: Measured
    reached_tflop_per_s: Measured
    cache_mb: Measured
    peak_memory_mb: Measured
    peak_memory_of: str
    quality: RowQuality
    status: str
    status_reason: str
    run_id: str
    created_utc: str


@dataclass(frozen=True)
class Table:
    """Rows that may be compared, under their common labels."""

    labels: Labels
    rows: tuple[Row, ...]


# What `sort` accepts, and how to get it from a row; None sorts last.
SORT_KEYS: dict[str, Callable[[Row], Any]] = {
    "model": lambda row: (row.model, row.accel),
    "accel": lambda row: row.accel,
    "steps": lambda row: row.steps,
    "seconds": lambda row: row.seconds_per_clip.value,
    "speedup": lambda row: row.speedup.value,
    "status": lambda row: row.status,
    "created": lambda row: row.created_utc,
    "run": lambda row: row.run_id,
}


def make_tables(runs: Iterable[StoredRun], *, sort: str = "model", descending: bool = False) -> list[Table]:
    """Group the runs' records into one table per set of labels; tables in the order of their headings.

    Args:
        runs: from `store.list_records`; runs without a record are left to `unfinished`.
        sort: one of `SORT_KEYS`.
        descending: largest first; rows without the value stay last.

    Raises:
        ConfigError: unknown sort key.
    """
    if sort not in SORT_KEYS:
        raise ConfigError(f"--sort must be one of {', '.join(SORT_KEYS)}, got {sort!r}")
    key = SORT_KEYS[sort]
    groups: dict[Labels, list[Row]] = {}
    for run in runs:
        if run.record is not None:
            row = make_row(run.record)
            groups.setdefault(row.labels, []).append(row)
    tables = []
    for labels in sorted(groups, key=lambda labels: labels.heading()):
        rows = sorted(groups[labels], key=lambda row: row.run_id)
        known = sorted((row for row in rows if key(row) is not None), key=key, reverse=descending)
        tables.append(Table(labels, (*known, *(row for row in rows if key(row) is None))))
    return tables


def unfinished(runs: Iterable[StoredRun]) -> list[tuple[str, str]]:
    """Run id and problem of every folder without a usable record."""
    return [(run.run_id, run.problem or "") for run in runs if run.record is None]


def make_row(record: Record) -> Row:
    """The row of one record."""
    labels, clips, plan = record["labels"], record["clips"], record["plan"]
    device = record["device"]
    flops = _block(record, "flops")
    bytes_of = "device" if device is not None and device["type"] == "cuda" else "host"
    memory_key = "device_peak_allocated_bytes" if bytes_of == "device" else "host_peak_rss_bytes"
    speed = _block(record, "speed")
    pair = record["pair"]
    return Row(
        model=str(record["model"]["name"]),
        labels=Labels(
            labels["weights"],
            str(record["model"]["size"]),
            str(record["model"]["dtype"]),
            str(device["label"]) if device is not None else "unknown device",
            labels["dataset"],
        ),
        accel=str(record["accel"]["name"]),
        steps=plan["steps"] if plan is not None else None,
        clips_ok=clips["n_ok"],
        clips_expected=clips["n_expected"],
        seconds_per_clip=_estimate(speed, "seconds_per_clip"),
        frames_per_second=_estimate(speed, "frames_per_second"),
        speedup=_pair(record),
        speedup_baseline=pair["baseline"] if pair is not None else "none",
        speedup_bound=_number(flops, "speedup_bound"),
        executed_tflop=_number(_inner(flops, "tflops_per_clip"), "executed"),
        reached_tflop_per_s=_estimate(speed, "denoise_tflops_per_second"),
        cache_mb=_number(record, "cache_bytes", 1e6),
        peak_memory_mb=_number(_block(record, "memory"), memory_key, 1e6),
        peak_memory_of=bytes_of,
        quality=row_quality(record),
        status=record["status"],
        status_reason=record.get("status_reason", ""),
        run_id=record["run_id"],
        created_utc=record["created_utc"],
    )


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why cells are empty and runs are not whole, one line per reason with the runs that it concerns; then floors."""
    found: dict[str, list[str]] = {}
    names = {
        "seconds_per_clip": "time", "speedup": "speed-up", "speedup_bound": "speed-up bound",
        "executed_tflop": "executed TFLOP", "cache_mb": "cache", "peak_memory_mb": "peak memory",
    }  # fmt: skip
    for row in rows:
        lines = [f"{row.status}: {row.status_reason}"] if row.status != "complete" else []
        for field, name in names.items():
            cell: Measured = getattr(row, field)
            if cell.value is None:
                lines.append(f"no {name}: {cell.reason}")
            elif cell.reason is not None:
                lines.append(f"no interval of the {name}: {cell.reason}")
        for line in lines:
            found.setdefault(line, []).append(row.run_id)
    notes = [f"{line} ({', '.join(runs)})" for line, runs in found.items()]
    return notes + quality_notes({row.run_id: row.quality for row in rows})


def _block(record: Record, name: str) -> Mapping[str, Any]:
    """A nullable object of the record, or one that carries only the reason."""
    block: Any = record.get(name)
    return block if block is not None else {"_reason": record.get(f"{name}_reason", "not recorded")}


def _inner(block: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = block.get(name)
    return inner if isinstance(inner, Mapping) else {"_reason": _why(block, name)}


def _why(block: Mapping[str, Any], name: str) -> str:
    return str(block.get(f"{name}_reason", block.get("_reason", "not recorded")))


def _number(block: Mapping[str, Any], name: str, per: float = 1.0) -> Measured:
    value = block.get(name)
    return Measured(None, reason=_why(block, name)) if value is None else Measured(value / per)


def _estimate(speed: Mapping[str, Any], name: str) -> Measured:
    block = speed.get(name)
    if block is None:
        return Measured(None, reason=_why(speed, name))
    return Measured(block["value"], block["low"], block["high"], block["n"], block.get("low_reason"))


def _pair(record: Record) -> Measured:
    pair = record["pair"]
    if pair is None:
        return Measured(None, reason=record.get("pair_reason", "not recorded"))
    return Measured(pair["ratio"], pair["low"], pair["high"], pair["n"], pair.get("low_reason"))
