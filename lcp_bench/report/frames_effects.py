"""What each part of a strategy contributes, and whether speed-ups multiply: ratios between lines of `load_frame`.

Speed-ups are compared on a log scale: parts that do not disturb each other multiply, so their logs add.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from lcp_bench.errors import ConfigError
from lcp_bench.report.frames import COMPONENTS

if TYPE_CHECKING:
    from pandas import DataFrame

ALIKE = ("model", "size", "weights", "dtype", "dataset", "device")
"""What two lines must share to be compared."""
Z_95 = 1.959963984540054
"""Half width of a 95 % interval of a normal value, in standard errors."""


def main_effects(frame: DataFrame, factors: Sequence[str] = COMPONENTS, value: str = "speedup") -> DataFrame:
    """By what each factor alone multiplies a value: geometric mean over all pairs of lines that differ in it only.

    Args:
        frame: Of `load_frame`.
        factors: Boolean columns. Columns that are left out may differ along: with `("caches",)` the whole of `lcp`
            against `none` is one part.
        value: A positive column; its interval is `<value>_low`, `<value>_high` where it has one.

    Returns:
        One line per factor that any pair has: `factor`, `ratio`, `low`, `high` (95 %, taking the lines as independent
        and normal on the log scale; NaN without intervals) and `pairs`.

    Raises:
        ConfigError: A column is missing.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for points in _cells(frame, factors, value):
        for place, factor in enumerate(factors):
            for key, (log_value, variance) in points.items():
                partner = points.get(_with(key, place)) if not key[place] else None
                if partner is not None:
                    found.setdefault(factor, []).append((partner[0] - log_value, partner[1] + variance))
    lines = [
        {"factor": factor, **_ratio(found[factor]), "pairs": len(found[factor])}
        for factor in factors
        if factor in found
    ]
    return _table(lines, ["factor", "ratio", "low", "high", "pairs"])


def interactions(frame: DataFrame, factors: Sequence[str] = COMPONENTS, value: str = "speedup") -> DataFrame:
    """Whether two factors multiply: what they give together over the product of what each gives alone.

    Only where all four of neither, one, the other and both were measured with the other factors equal; a nested
    ablation, in which each line adds to the one before, has no such four and gives no line.

    Args:
        frame: See `main_effects`.
        factors: See `main_effects`.
        value: See `main_effects`.

    Returns:
        One line per pair of factors: `first`, `second`, `ratio` (1: they multiply; below 1: together they give less),
        `low`, `high`, `squares` (how many such fours).
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for points in _cells(frame, factors, value):
        for one, two in combinations(range(len(factors)), 2):
            for key in points:
                corners = (key, _with(key, one), _with(key, two), _with(_with(key, one), two))
                if key[one] or key[two] or any(corner not in points for corner in corners):
                    continue
                neither, first, second, both = (points[corner] for corner in corners)
                variance = sum(corner[1] for corner in (neither, first, second, both))
                together = both[0] - first[0] - second[0] + neither[0]
                found.setdefault((factors[one], factors[two]), []).append((together, variance))
    lines = [{"first": a, "second": b, **_ratio(each), "squares": len(each)} for (a, b), each in found.items()]
    return _table(lines, ["first", "second", "ratio", "low", "high", "squares"])


Cell = dict[tuple[bool, ...], tuple[float, float]]


def _cells(frame: DataFrame, factors: Sequence[str], value: str) -> Iterator[Cell]:
    """Per set of comparable lines: factors to the log of the value and its variance; of equal factors the newest."""
    wanted = [*ALIKE, *factors, value, "status", "created_utc"]
    missing = [name for name in wanted if name not in frame]
    if missing:
        raise ConfigError(f"expected the columns of load_frame, {', '.join(missing)} missing; pass what it returned")
    whole = frame[(frame["status"] == "complete") & frame[value].notna()].sort_values("created_utc")
    for _, lines in whole.groupby(list(ALIKE), sort=True):
        yield {
            tuple(bool(line[factor]) for factor in factors): (math.log(line[value]), _variance(line, value))
            for line in lines.to_dict("records")
        }


def _variance(line: dict[str, Any], value: str) -> float:
    """Of the log of the value; 0 for a speed-up of 1 by definition, NaN where no interval was measured."""
    low, high = line.get(f"{value}_low", math.nan), line.get(f"{value}_high", math.nan)
    if line.get(f"{value}_n") == 0 and line[value] == 1.0:
        return 0.0
    return ((math.log(high) - math.log(low)) / (2 * Z_95)) ** 2 if low > 0 else math.nan


def _with(key: tuple[bool, ...], place: int) -> tuple[bool, ...]:
    return (*key[:place], True, *key[place + 1 :])


def _ratio(logs: Sequence[tuple[float, float]]) -> dict[str, float]:
    mean = sum(each for each, _ in logs) / len(logs)
    half = Z_95 * math.sqrt(sum(variance for _, variance in logs)) / len(logs)
    return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def _table(lines: list[dict[str, Any]], columns: list[str]) -> DataFrame:
    import pandas

    return pandas.DataFrame(lines, columns=columns)
