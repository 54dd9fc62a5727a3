"""Quality columns: one per score, label, protocol and n, so that what was measured differently never shares one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcp_bench.quality_check import block_scores

BETTER = {"lower": "lower is better", "higher": "higher is better", "none": "no direction"}
SHOWN_SIDES = ("videos", "difference")


@dataclass(frozen=True, order=True)
class QualityColumn:
    """What must be equal for two scores to stand under each other.

    Attributes:
        name: Of the score; a paired difference to the unaccelerated run ends in `_minus_baseline`.
        label: Of the metric's backbones: `public`, `mini`, `no backbone`.
        protocol: Hash of the protocol, weights included.
        n: Clips behind the value.
        unit: Of the value.
        direction: `lower`, `higher` or `none`.
    """

    name: str
    label: str
    protocol: str
    n: int
    unit: str
    direction: str

    @property
    def title(self) -> str:
        """For people."""
        better = BETTER[self.direction]
        if self.name.endswith("_minus_baseline") and self.direction != "none":
            better = f"{'below' if self.direction == 'lower' else 'above'} 0 is better than none"
        return f"{self.name} [95% interval] ({self.label}, {better}, n={self.n}, protocol {self.protocol[:8]})"

    @property
    def key(self) -> str:
        """For programs."""
        return f"{self.name}|{self.label}|{self.protocol}|n={self.n}"


@dataclass(frozen=True)
class QualityCell:
    """A score of one run: value with its interval, and how many clips were expected behind it."""

    value: float
    low: float | None
    high: float | None
    n: int
    n_expected: int
    low_reason: str | None = None


Cells = dict[QualityColumn, QualityCell]


@dataclass(frozen=True)
class RowQuality:
    """The scores of one run.

    Attributes:
        cells: By column.
        reference: What the same metrics say of the real videos; floors among them.
        missing: Why scores are null.
        absent: Why the run has no quality at all; empty if it has.
    """

    cells: Mapping[QualityColumn, QualityCell]
    reference: Mapping[QualityColumn, QualityCell]
    missing: tuple[str, ...] = ()
    absent: str = ""


def row_quality(record: Mapping[str, Any]) -> RowQuality:
    """The scores of a record; where two blocks have the same column, the later one counts."""
    quality = record["quality"]
    if quality is None:
        return RowQuality({}, {}, absent=str(record.get("quality_reason", "not recorded")))
    cells: Cells = {}
    reference: Cells = {}
    missing: dict[str, str] = {}
    for block in sorted(quality.values(), key=lambda block: str(block["created_utc"])):
        for name, reason in _nulls(block):
            missing[f"{name} ({block['set']})"] = reason
        for side, name, score in block_scores(block):
            if score["value"] is not None and (side in SHOWN_SIDES or side == "reference"):
                target = reference if side == "reference" else cells
                target |= {_column(score): _cell(score)}
                missing.pop(f"{name} ({block['set']})", None)
    return RowQuality(cells, reference, tuple(f"no {name}: {reason}" for name, reason in missing.items()))


def _nulls(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for side in SHOWN_SIDES:
        scores = block["scores"].get(side, {})
        for name, score in scores.items():
            if score is None:
                yield name, str(scores[f"{name}_reason"])
            elif isinstance(score, Mapping) and score["value"] is None:
                yield name, str(score["value_reason"])


def _column(score: Mapping[str, Any]) -> QualityColumn:
    return QualityColumn(*(score[key] for key in ("name", "label", "protocol", "n", "unit", "direction")))


def _cell(score: Mapping[str, Any]) -> QualityCell:
    ends = {"low": score["low"], "high": score["high"], "low_reason": score.get("low_reason")}
    return QualityCell(score["value"], n=score["n"], n_expected=score["n_expected"], **ends)


def quality_columns(rows: Iterable[RowQuality]) -> list[QualityColumn]:
    """All columns that a run of the table has a value in, sorted."""
    return sorted({column for row in rows for column in row.cells})


def real_videos(rows: Sequence[RowQuality], columns: Sequence[QualityColumn]) -> dict[QualityColumn, QualityCell]:
    """What the same metrics under the same protocol and n say of the real videos."""
    found = {column: cell for row in rows for column, cell in row.reference.items()}
    return {column: found[column] for column in columns if column in found}


def quality_notes(rows: Mapping[str, RowQuality]) -> list[str]:
    """Why scores are missing, and the floors and real videos' scores that no column may hold, with their n.

    Args:
        rows: Run id to its scores.
    """
    columns = quality_columns(rows.values())
    found: dict[str, list[str]] = {}
    for run, row in rows.items():
        lines = list(row.missing)
        if columns and row.absent:
            lines.append(f"no quality: {row.absent}")
        for column, cell in row.cells.items():
            if cell.low is None and cell.low_reason:
                lines.append(f"no interval of {column.name}: {cell.low_reason}")
        for line in lines:
            found.setdefault(line, []).append(run)
    notes = [f"{line} ({', '.join(runs)})" for line, runs in found.items()]
    extra = {column: cell for row in rows.values() for column, cell in row.reference.items() if column not in columns}
    return notes + [_reference_note(column, extra[column]) for column in sorted(extra)]


def _reference_note(column: QualityColumn, cell: QualityCell) -> str:
    ends = "" if cell.low is None else f" [{cell.low:.4g}, {cell.high:.4g}]"
    what = "real videos"
    if column.name.endswith("_floor"):
        what = f"floor, {cell.n} real clips against {cell.n} others"
    where = f"{column.label}, protocol {column.protocol[:8]}"
    return f"{what}: {column.name} {cell.value:.4g}{ends} n={cell.n} ({where})"
