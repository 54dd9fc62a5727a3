"""The cells of the paper's tables: one number of one run (or of two runs with equal videos), with all it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcp_bench.quality_check import block_scores
from lcp_bench.record import Record, canonical_json
from lcp_bench.report.paired import Difference, difference_of, difference_of_ratio
from lcp_bench.report.published import PublishedNumber

QUALITY = ("fvd", "fvd_motion", "fvd_frames", "fid", "efid", "lse_c", "sync_c")
"""Scores of the tables, in the order of their columns: those of the published metrics and their small counterparts."""
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Baseline:
    """The unaccelerated run's number under the same protocol: what a cell must leave the interval of to be bold."""

    run: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, order=True, slots=True)
class Column:
    """What must be equal for two cells to stand under each other.

    Attributes:
        dataset: Label of the clips, e.g. `synth_hdtf:1f0c2ab9`.
        rank: Place in its group.
        metric: Name of the number.
        label: Of the metric's networks; empty for times and work.
        protocol: Hash of the protocol; empty for times and work.
        unit: Of the value.
        direction: `lower`, `higher` or `none` (is better).
    """

    dataset: str
    rank: int
    metric: str
    label: str
    protocol: str
    unit: str
    direction: str

    @property
    def is_quality(self) -> bool:
        """Whether it is a score of videos."""
        return self.metric in QUALITY

    @property
    def dataset_name(self) -> str:
        """Without the hash of the clips."""
        return self.dataset.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Cell:
    """One number with everything that a reader needs to trust or refuse it.

    Attributes:
        value: The number; None where there is none, then `reason` says why.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Clips (of a speed-up: pairs of measurements) behind it; None for what was counted, not measured.
        n_expected: Clips that should have been.
        people: How many people its interval resamples; None where it resamples clips.
        runs: Ids of the runs that it comes from: its own, then the one that it is compared with.
        reason: Why there is no value, or no interval.
        difference: Paired comparison with the unaccelerated run.
        baseline: That run's own number.
        published: What a paper prints in this place.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_expected: int | None = None
    people: int | None = None
    runs: tuple[str, ...] = ()
    reason: str = ""
    difference: Difference | None = None
    baseline: Baseline | None = None
    published: PublishedNumber | None = None

    @property
    def partial(self) -> bool:
        """Whether clips that were expected are missing behind it."""
        return self.n is not None and self.n_expected is not None and self.n < self.n_expected

    def verdict(self, column: Column) -> str:
        """`better` or `worse` than the unaccelerated run, or nothing; never where clips are missing.

        The corrected paired comparison must say so. `better` must also lie outside the interval of the unaccelerated
        run's own number; `worse` need not: a warning that waits for that would hide what the pairs show. For a speed-up
        the baseline is 1 and the interval its own.
        """
        difference = self.difference
        if self.value is None or difference is None or not difference.significant or self.partial:
            return ""
        if column.direction == "none":
            return ""
        base = 1.0 if column.metric == "speedup" else 0.0
        if difference.low <= base <= difference.high:
            return ""
        if (difference.value < base) != (column.direction == "lower"):
            return "worse"
        return "better" if self._outside() else ""

    def _outside(self) -> bool:
        if self.baseline is None:  # a ratio has its baseline in itself
            return True
        if self.baseline.low is None or self.baseline.high is None or self.value is None:
            return False
        return not self.baseline.low <= self.value <= self.baseline.high


SPEED: tuple[Column, ...] = (
    Column("", 100, "tflop", "", "", "TFLOP per clip, as published", "lower"),
    Column("", 101, "executed_tflop", "", "", "TFLOP per clip, executed", "lower"),
    Column("", 102, "denoise_s", "", "", "s of denoising per segment", "lower"),
    Column("", 103, "seconds_per_clip", "", "", "s per clip", "lower"),
    Column("", 104, "speedup", "", "", "x, denoising, interleaved with none", "higher"),
)
"""Columns of time and work, without their data set."""


def variant(record: Record) -> str:
    """Everything of an identity that makes a row of its own: not the clips, the machine, the code or what was timed."""
    identity = record["identity"]
    return canonical_json({key: identity.get(key) for key in ("model", "accel", "sampler", "weights")})


def preferred(records: Sequence[Record]) -> list[Record]:
    """The runs of one row on one data set, the one to show first: whole ones, then the latest."""
    ranked = sorted(records, key=lambda record: record["run_id"])
    ranked.sort(key=lambda record: str(record["created_utc"]), reverse=True)
    return sorted(ranked, key=lambda record: ("complete", "partial", "failed").index(record["status"]))


def quality_columns(records: Sequence[Record]) -> list[Column]:
    """All columns of scores that any of these runs of one data set has, sorted; also of scores that are null."""
    found: set[Column] = set()
    unscored: set[str] = set()
    for record in records:
        for block in (record["quality"] or {}).values():
            found |= {_column(record, score) for side, _, score in block_scores(block)
                      if side == "videos" and score["name"] in QUALITY}  # fmt: skip
            unscored |= {name for name, score in block["scores"].get("videos", {}).items()
                         if score is None and name in QUALITY}  # fmt: skip
    known = {column.metric for column in found}
    dataset = records[0]["labels"]["dataset"] if records else ""
    return sorted(
        [*found, *(Column(dataset, QUALITY.index(name), name, "", "", "", "none") for name in unscored - known)]
    )


def _column(record: Record, score: Mapping[str, Any]) -> Column:
    place = QUALITY.index(score["name"])
    parts = (score[key] for key in ("name", "label", "protocol", "unit", "direction"))
    return Column(record["labels"]["dataset"], place, *parts)


def quality_cell(column: Column, records: Sequence[Record]) -> Cell:
    """The score of a row: of the first of its runs that has it.

    Args:
        column: Which score.
        records: Runs of the row on the column's data set, as `preferred` orders them.
    """
    if not records:
        return Cell(None, reason=NOT_RUN)
    reason = ""
    for record in records:
        for block in _latest(record):
            score = _score(block, "videos", column.metric, column)
            if score is not None and score["value"] is not None:
                return _scored(record, block, score, column)
            if score is not None:
                reason = reason or str(score["value_reason"])
            elif block["scores"].get("videos", {}).get(column.metric, 0) is None:
                reason = reason or str(block["scores"]["videos"][f"{column.metric}_reason"])
    first = records[0]
    unscored = first.get("quality_reason", "not scored under this protocol")
    return Cell(None, runs=(first["run_id"],), reason=reason or str(unscored))


def real_cell(column: Column, records: Sequence[Record]) -> Cell:
    """What the same metric says of the real videos; a Fréchet distance has its floor, one half against the other."""
    for record in records:
        for block in _latest(record):
            for name in (column.metric, f"{column.metric}_floor"):
                score = _score(block, "reference", name, column)
                if score is not None and score["value"] is not None:
                    note = (
                        f"floor: {score['n']} real clips against {score['n']} others" if name.endswith("_floor") else ""
                    )
                    return Cell(score["value"], score["low"], score["high"], score["n"], score["n"],
                                score.get("identities"), (record["run_id"],), note)  # fmt: skip
    return Cell(None, reason="no score of the real videos")


def _latest(record: Record) -> list[Mapping[str, Any]]:
    blocks = sorted((record["quality"] or {}).items(), reverse=True)
    return [block for _, block in sorted(blocks, key=lambda item: str(item[1]["created_utc"]), reverse=True)]


def _score(block: Mapping[str, Any], side: str, name: str, column: Column) -> Mapping[str, Any] | None:
    score = block["scores"].get(side, {}).get(name)
    if not isinstance(score, Mapping) or (score["label"], score["protocol"]) != (column.label, column.protocol):
        return None
    return score


def _scored(record: Record, block: Mapping[str, Any], score: Mapping[str, Any], column: Column) -> Cell:
    plain = _score(block, "baseline", column.metric, column)
    twin = block["inputs"].get("baseline")
    runs: tuple[str, ...] = (record["run_id"],)
    baseline = None
    if plain is not None and plain["value"] is not None and twin is not None:
        baseline = Baseline(twin["run_id"], plain["value"], plain["low"], plain["high"])
        runs = (record["run_id"], twin["run_id"])
    return Cell(
        score["value"], score["low"], score["high"], score["n"], score["n_expected"], score.get("identities"), runs,
        str(score.get("low_reason") or ""),
        difference_of(_score(block, "difference", f"{column.metric}_minus_baseline", column)), baseline,
    )  # fmt: skip


def speed_cell(column: Column, records: Sequence[Record]) -> Cell:
    """A time, an amount of work or a speed-up of a row, from the first of its runs that has it; arguments as above."""
    reason = NOT_RUN if not records else ""
    for record in records:
        cell = _SPEED_OF[column.metric](record)
        if cell.value is not None:
            return cell
        reason = reason or cell.reason
    return Cell(None, runs=tuple(record["run_id"] for record in records[:1]), reason=reason)


def _work(record: Record, name: str) -> Cell:
    flops = record["flops"]
    if flops is None:
        return Cell(None, reason=str(record.get("flops_reason", "not recorded")))
    value = (flops["tflops_per_clip"] or {}).get(name)
    return Cell(value, runs=(record["run_id"],), reason="" if value is not None else "not counted")


def _time(record: Record, name: str) -> Cell:
    block = (record["speed"] or {}).get(name)
    if block is None:
        return Cell(None, reason=str(record.get("speed_reason", "not recorded")))
    expected = record["clips"]["n_expected"]
    reason = str(block.get("low_reason") or "")
    return Cell(block["value"], block["low"], block["high"], block["n"], expected, None, (record["run_id"],), reason)


def _speedup(record: Record) -> Cell:
    pair = record["pair"]
    if pair is None:
        return Cell(None, reason=str(record.get("pair_reason", "not recorded")))
    low_reason = str(pair.get("low_reason") or "")
    return Cell(pair["ratio"], pair["low"], pair["high"], pair["n"], None, None, (record["run_id"],), low_reason,
                difference_of_ratio(pair))  # fmt: skip


_SPEED_OF = {
    "tflop": lambda record: _work(record, "as_published"),
    "executed_tflop": lambda record: _work(record, "executed"),
    "denoise_s": lambda record: _time(record, "denoise_seconds_per_segment"),
    "seconds_per_clip": lambda record: _time(record, "seconds_per_clip"),
    "speedup": _speedup,
}


def cells_of(columns: Sequence[Column], records: Mapping[str, Sequence[Record]]) -> Iterator[tuple[Column, Cell]]:
    """The cells of one row.

    Args:
        columns: Of the table.
        records: Label of a data set to the row's runs on it, as `preferred` orders them.
    """
    for column in columns:
        make = quality_cell if column.is_quality else speed_cell
        yield column, make(column, records.get(column.dataset, ()))
