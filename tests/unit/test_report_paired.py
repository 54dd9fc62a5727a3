"""Paired comparisons: the test that belongs to a record's interval, its correction, and how often it errs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lcp_bench.errors import ConfigError
from lcp_bench.report.paired import ALPHA, correct, difference_of, difference_of_ratio, holm, p_value
from metrics.cache import Arrays
from metrics.errors import MetricError
from metrics.frechet import Array
from metrics.intervals import clip_interval
from metrics.metric import ClipMetric, FeatureSet, FrechetMetric
from metrics.protocol import FidelityProtocol, FvdProtocol
from metrics.score import Score

COMPARISONS = 200
PEOPLE, TAKES = 20, 3


def test_p_is_that_of_the_paired_t_test() -> None:
    """With one clip per person and a mean, the bootstrap's error is the classic one but for the draws."""
    values = np.random.default_rng(1).normal(0.4, 1.0, 30)
    interval = clip_interval(lambda drawn: float(values[drawn].mean()), float(values.mean()), 30, 20000, 0)
    assert interval.low is not None and interval.high is not None
    found = p_value(float(values.mean()), interval.low, interval.high, 30, 0.95)
    assert found == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue), rel=0.06)


def test_p_and_the_interval_say_the_same() -> None:
    assert p_value(1.0, 0.001, 1.999, 8, 0.95) < 0.05 < p_value(1.0, -0.001, 2.001, 8, 0.95)
    assert p_value(1.0, 0.001, 1.999, 8, 0.95) == p_value(-1.0, -1.999, -0.001, 8, 0.95)
    with pytest.raises(ConfigError, match="at least 2"):
        p_value(1.0, 0.5, 1.5, 1, 0.95)


def test_people_count_not_their_clips() -> None:
    """40 clips of 2 people are 2 observations: the same interval gives a far larger p."""
    score = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 40, "level": 0.95}
    alone, people = difference_of(score), difference_of(score | {"identities": 2})
    assert alone is not None and people is not None and alone.p < 0.001 < people.p < 0.05
    assert people.people == 2 and alone.people is None
    assert difference_of(None) is None and difference_of(score | {"low": None, "high": None}) is None


def test_a_ratio_is_judged_in_its_logarithm() -> None:
    pair = {"ratio": 2.0, "low": 1.6, "high": 2.5, "n": 5, "level": 0.95}
    inverse = {"ratio": 0.5, "low": 1 / 2.5, "high": 1 / 1.6, "n": 5, "level": 0.95}
    one, other = difference_of_ratio(pair), difference_of_ratio(inverse)
    assert one is not None and other is not None and one.p == pytest.approx(other.p) and one.p < 0.01
    assert difference_of_ratio(None) is None


def test_holm_against_a_worked_example() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_rows_without_a_comparison_do_not_count() -> None:
    score = {"value": 1.0, "low": 0.1, "high": 1.9, "n": 20, "level": 0.95}
    found = correct([None, difference_of(score), None, difference_of(score)])
    assert found[0] is None and found[1] is not None and found[1].family == 2
    assert found[1].p_holm == pytest.approx(2 * found[1].p)


# People in intervals


def test_clips_of_one_person_are_drawn_together() -> None:
    people = [name for name in "abc" for _ in range(2)]
    drawn: list[list[int]] = []

    def statistic(indices: np.ndarray) -> float:  # type: ignore[type-arg]
        drawn.append(indices.tolist())
        return float(len(indices))

    found = clip_interval(statistic, 6.0, 6, 50, 0, identities=people)
    assert found.identities == 3
    assert all(list(zip(each[::2], each[1::2], strict=True)) == [(i, i + 1) for i in each[::2]] for each in drawn)
    with pytest.raises(MetricError, match="person of each"):
        clip_interval(statistic, 6.0, 6, 50, 0, identities=["a"])
    alone = clip_interval(statistic, 6.0, 6, 50, 0, identities=["a"] * 6)
    assert alone.low is None and "one person" in str(alone.reason)


def test_everybody_once_is_the_plain_interval() -> None:
    values = np.random.default_rng(0).normal(size=12)
    plain, named = (
        clip_interval(lambda drawn: float(values[drawn].mean()), float(values.mean()), 12, 100, 0, identities=people)
        for people in (None, list("abcdefghijkl"))
    )
    assert (plain.low, plain.high) == (named.low, named.high)


def test_correlated_clips_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(size=10), 4) + generator.normal(0, 0.1, 40)
    people = [str(index // 4) for index in range(40)]
    plain, clustered = (
        clip_interval(lambda drawn: float(values[drawn].mean()), float(values.mean()), 40, 400, 0, identities=each)
        for each in (None, people)
    )
    assert plain.high is not None and plain.low is not None and clustered.high is not None and clustered.low is not None
    assert clustered.high - clustered.low > 1.6 * (plain.high - plain.low)


# The null check: comparisons without a difference, through the code that scores runs


class MeanOfClips(ClipMetric):
    """A number per clip, as sync is."""

    def __init__(self) -> None:
        self.protocol = FidelityProtocol(bootstrap=300)
        self.quantities = {"number": ("1", "lower")}

    def extract(self, files: object) -> Arrays:
        raise NotImplementedError

    def values(self, features: Arrays) -> dict[str, float]:
        return {"number": float(features["number"][0])}


class Distance(FrechetMetric):
    """Two-dimensional features."""

    def __init__(self) -> None:
        self.protocol = FvdProtocol(bootstrap=120)

    def extract(self, files: object) -> Arrays:
        raise NotImplementedError

    def rows(self, generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
        return generated["features"], reference["features"]


def _mean_difference(seed: int, clustered: bool = True) -> Score:
    """Two runs whose clips differ by person and by clip, in the same way on average."""
    generator, metric = np.random.default_rng([0, seed]), MeanOfClips()
    clips = [f"{person}_{take}" for person in range(PEOPLE) for take in range(TAKES)]
    people = {clip: clip.split("_")[0] for clip in clips} if clustered else {}
    sides = []
    for _ in range(2):
        own = np.repeat(generator.normal(0, 1.0, PEOPLE), TAKES) + generator.normal(0, 0.5, len(clips))
        arrays = {clip: {"number": np.array([value])} for clip, value in zip(clips, own, strict=True)}
        sides.append(FeatureSet(metric.protocol, arrays, {}, people))
    return metric.differences(*sides)[0]


def _distance_difference(seed: int) -> Score:
    """Three sets of features of the same people; the two runs are equally far from the real one."""
    generator, metric = np.random.default_rng([8, seed]), Distance()
    clips = [f"{person}_{take}" for person in range(PEOPLE) for take in range(TAKES)]
    people = {clip: clip.split("_")[0] for clip in clips}
    base = np.repeat(generator.normal(0, 1.0, (PEOPLE, 2)), TAKES, axis=0)
    sets = []
    for shift in (0.0, 0.8, 0.8):
        own = np.repeat(generator.normal(0, 0.3, (PEOPLE, 2)), TAKES, axis=0)
        features = (base + own)[:, None] + generator.normal(0, 0.5, (len(clips), 4, 2)) + shift
        arrays = {clip: {"features": rows} for clip, rows in zip(clips, features, strict=True)}
        sets.append(FeatureSet(metric.protocol, arrays, {}, people))
    reference, run, baseline = sets
    return metric.difference(run, baseline, reference)


def _p(score: Score) -> float:
    found = difference_of(score.as_dict())
    assert found is not None and found.people == PEOPLE
    return found.p


def _rate(flagged: int, of: int) -> str:
    error = math.sqrt(ALPHA * (1 - ALPHA) / of)
    return f"{flagged} of {of} flagged: {flagged / of:.3f}, stated {ALPHA} +- {1.96 * error:.3f}"


def _within_error(flagged: int, of: int) -> bool:
    """Whether the exact binomial test (5 %) lets this count pass as the stated rate."""
    return bool(stats.binomtest(flagged, of, ALPHA).pvalue > 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("make", [_mean_difference, _distance_difference], ids=["mean", "frechet"])
def test_null_comparisons_are_flagged_at_the_stated_rate(make: Callable[[int], Score]) -> None:
    """The measured rate is printed: `pytest -m slow -k null -s tests/unit/test_report_paired.py`."""
    flagged = sum(_p(make(seed)) < ALPHA for seed in range(COMPARISONS))
    print(f"\nsingle comparisons, {make.__name__}: {_rate(flagged, COMPARISONS)}")
    assert _within_error(flagged, COMPARISONS), _rate(flagged, COMPARISONS)


@pytest.mark.slow
def test_null_tables_are_flagged_at_most_at_the_stated_rate() -> None:
    """200 tables of 4 rows: without the correction far too many have a flagged row, with it no more than stated."""
    rows = 4
    p = [[_p(_mean_difference(1000 + table * rows + row)) for row in range(rows)] for table in range(COMPARISONS)]
    plain = sum(min(each) < ALPHA for each in p)
    corrected = sum(min(holm(each)) < ALPHA for each in p)
    print(f"\ntables of {rows} rows, any flagged: {_rate(corrected, COMPARISONS)}; uncorrected {plain}")
    assert plain / COMPARISONS > 0.12
    assert _within_error(corrected, COMPARISONS) or corrected < ALPHA * COMPARISONS, _rate(corrected, COMPARISONS)


@pytest.mark.slow
def test_without_people_the_same_comparisons_are_flagged_too_often() -> None:
    """Why intervals are over people: resampling clips calls a third of the no-difference comparisons different."""
    flagged = 0
    for seed in range(COMPARISONS):
        found = difference_of(_mean_difference(seed, clustered=False).as_dict())
        assert found is not None
        flagged += found.p < ALPHA
    print(f"\nresampling clips instead of people: {_rate(flagged, COMPARISONS)}")
    assert flagged / COMPARISONS > 0.12 and not _within_error(flagged, COMPARISONS), _rate(flagged, COMPARISONS)
