"""Confidence intervals by resampling clips, or the people in them.

The interval is Student's t around the estimate with a bootstrapped standard error, widened by sqrt(n / (n - 1))
(Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 5). Percentiles are not used: resampling
repeats clips, which lifts every Fréchet distance, so that the percentiles can lie wholly above the estimate.

Clips of one person resemble each other. Where people are known they are resampled with all their clips, and the
degrees of freedom count people: 40 clips of 10 people tell as much about new people as 10 people can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from metrics.errors import MetricError

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
        identities: how many people were resampled; None where clips were.
    """

    low: float | None
    high: float | None
    level: float = LEVEL
    resamples: int = 0
    reason: str | None = None
    identities: int | None = None


def clip_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    value: float,
    clips: int,
    resamples: int,
    seed: int,
    identities: Sequence[str] | None = None,
) -> Interval:
    """Interval of a statistic of clips.

    Args:
        statistic: from the indices of the clips in a resample, drawn with replacement, to its value: n of them, or
            where people with different numbers of clips are drawn about as many.
        value: of all clips once.
        clips: n.
        resamples: how many to draw; 0 for no interval.
        seed: of the draws; equal input and seed give an equal interval.
        identities: (n,) who is in each clip; None, or everybody once, resamples clips.
    """
    if identities is not None and len(identities) != clips:
        raise MetricError(f"expected the person of each of {clips} clips, got {len(identities)}; name all or none")
    if resamples < 2:
        return Interval(None, None, reason="no resampling asked for")
    if clips < 2:
        return Interval(None, None, reason=f"n = {clips}: an interval needs at least 2 clips")
    people = [np.array([index]) for index in range(clips)] if identities is None else _members(identities)
    count = len(people)
    if count < 2:
        return Interval(None, None, reason="all clips are of one person: an interval needs at least 2 people")
    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, count, count) for _ in range(resamples))
    drawn = np.array([statistic(np.concatenate([people[one] for one in draw])) for draw in draws])
    spread = float(drawn.std(ddof=1)) * math.sqrt(count / (count - 1))
    reach = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * spread
    named = None if identities is None else count
    return Interval(value - reach, value + reach, LEVEL, resamples, identities=named)


def _members(identities: Sequence[str]) -> list[NDArray[np.int64]]:
    """The clips of each person, people in the order of their first clips."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(identities):
        found.setdefault(name, []).append(index)
    return [np.array(clips) for clips in found.values()]
