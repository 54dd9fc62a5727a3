"""Whether a run differs from the unaccelerated one, corrected for the number of rows that ask the same question.

A record holds each paired difference with its interval: Student's t around the estimate, with the standard error of a
bootstrap over people (`metrics.intervals`; over clips where nobody knows who is in them), or for speed-ups over
interleaved pairs of measurements (`lcp_bench.measure.statistics`). The test here is the one that belongs to that
interval, so that p < 0.05 and "the 95 % interval leaves out no difference" are the same statement. Rows of one column
are one family: Holm's step-down correction (Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure") keeps
the chance that any row without a difference is flagged below `ALPHA`, however the rows depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import stdtr, stdtrit

from lcp_bench.errors import ConfigError

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired comparison with the unaccelerated run.

    Attributes:
        value: Accelerated minus unaccelerated, in the score's unit; for a speed-up the ratio itself.
        low: Lower end of its interval.
        high: Upper end.
        n: Clips, or pairs of measurements, behind it.
        people: How many people were resampled; None where clips or pairs were.
        p: Probability of a difference at least as large if there is none, uncorrected.
        p_holm: The same, corrected for the rows of the column; None before `correct`.
        family: How many rows the correction counts.
    """

    value: float
    low: float
    high: float
    n: int
    people: int | None
    p: float
    p_holm: float | None = None
    family: int = 1

    @property
    def significant(self) -> bool:
        """Whether it is flagged at the level `ALPHA` after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA


def difference_of(score: Mapping[str, Any] | None) -> Difference | None:
    """The comparison in a score of a record's `difference` side; None where there is no interval.

    Raises:
        ConfigError: as `p_value`.
    """
    if score is None or score["value"] is None or score["low"] is None:
        return None
    people = score.get("identities")
    p = p_value(score["value"], score["low"], score["high"], people or score["n"], score["level"])
    return Difference(score["value"], score["low"], score["high"], score["n"], people, p)


def difference_of_ratio(pair: Mapping[str, Any] | None) -> Difference | None:
    """The comparison in a record's `pair` (a speed-up, 1 is no difference); its interval is symmetric in the logarithm.

    Raises:
        ConfigError: as `p_value`.
    """
    if pair is None or pair["low"] is None:
        return None
    value, low, high = (math.log(pair[key]) for key in ("ratio", "low", "high"))
    p = p_value(value, low, high, pair["n"], pair.get("level", 0.95))
    return Difference(pair["ratio"], pair["low"], pair["high"], pair["n"], None, p)


def p_value(value: float, low: float, high: float, count: int, level: float) -> float:
    """Two-sided probability, under Student's t, of a value so far from 0.

    Args:
        value: The estimate; 0 is no difference.
        low: Lower end of its interval.
        high: Upper end.
        count: What was resampled, at least 2; the degrees of freedom are one less.
        level: Of the interval, in (0, 1).

    Raises:
        ConfigError: fewer than 2 resampled, or a level out of range.

    >>> round(p_value(2.0, 0.0, 4.0, 10, 0.95), 3)  # the interval just touches 0
    0.05
    >>> p_value(0.0, 0.0, 0.0, 10, 0.95), p_value(1.0, 1.0, 1.0, 10, 0.95)
    (1.0, 0.0)
    """
    if count < 2 or not 0 < level < 1:
        raise ConfigError(
            f"a comparison needs an interval over at least 2 and a level in (0, 1), got {count} and {level}; "
            "score more clips"
        )
    error = (high - low) / 2 / float(stdtrit(count - 1, 0.5 + level / 2))
    if error == 0:  # every pair differs by the same: bit-equal videos, or a shift
        return 1.0 if value == 0 else 0.0
    return 2 * float(stdtr(count - 1, -abs(value) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected probabilities, in the order given; each is at least the uncorrected one and at most 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def correct(column: Sequence[Difference | None]) -> list[Difference | None]:
    """The differences of one column with their corrected probabilities; rows without one do not count."""
    found = [each for each in column if each is not None]
    corrected = iter(holm([each.p for each in found]))
    return [None if each is None else replace(each, p_holm=next(corrected), family=len(found)) for each in column]
