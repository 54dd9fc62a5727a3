"""Confidence intervals by resampling clips.

The interval is Student's t around the estimate with a bootstrapped standard error, widened by sqrt(n / (n - 1))
(Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 5). Percentiles are not used: resampling
repeats clips, which lifts every Fréchet distance, so that the percentiles can lie wholly above the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Ends of an interval, or why there are none.

    Attributes:
        low: lower end in the score's unit.
        high: upper end.
        level: confidence, in (0, 1).
        resamples: how many were drawn.
        reason: why the ends are None.
    """

    low: float | None
    high: float | None
    level: float = LEVEL
    resamples: int = 0
    reason: str | None = None


def clip_interval(
    statistic: Callable[[NDArray[np.int64]], float], value: float, clips: int, resamples: int, seed: int
) -> Interval:
    """Interval of a statistic of clips.

    Args:
        statistic: from the indices (n,) of the clips in a resample, drawn with replacement at fixed n, to its value.
        value: of all clips once.
        clips: n.
        resamples: how many to draw; 0 for no interval.
        seed: of the draws; equal input and seed give an equal interval.
    """
    if resamples < 2:
        return Interval(None, None, reason="no resampling asked for")
    if clips < 2:
        return Interval(None, None, reason=f"n = {clips}: an interval needs at least 2 clips")
    generator = np.random.default_rng(seed)
    drawn = np.array([statistic(generator.integers(0, clips, clips)) for _ in range(resamples)])
    spread = float(drawn.std(ddof=1)) * math.sqrt(clips / (clips - 1))
    reach = float(stdtrit(clips - 1, 0.5 + LEVEL / 2)) * spread
    return Interval(value - reach, value + reach, LEVEL, resamples)
