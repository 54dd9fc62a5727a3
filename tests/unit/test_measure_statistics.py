"""Intervals: right on average, reproducible, honest about too few samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.measure import statistics
from lcp_bench.measure.statistics import interleave, mean_interval, median_interval, paired_samples, ratio_interval


def test_mean_interval_is_students_interval_up_to_the_draws() -> None:
    samples = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    interval = mean_interval(samples, resamples=50_000)
    half = 2.7764451 * samples.std(ddof=1) / math.sqrt(5)  # t quantile for 4 degrees of freedom
    assert interval.value == 3.0
    assert interval.low is not None and interval.high is not None
    assert interval.low == pytest.approx(3.0 - half, rel=0.02)
    assert interval.high == pytest.approx(3.0 + half, rel=0.02)


def test_equal_seed_equal_interval_other_seed_other_draws() -> None:
    samples = [1.0, 1.4, 0.9, 1.2]
    assert mean_interval(samples, seed=1) == mean_interval(samples, seed=1)
    assert mean_interval(samples, seed=1) != mean_interval(samples, seed=2)


def test_a_wider_level_is_wider() -> None:
    narrow, wide = (median_interval([1.0, 1.4, 0.9, 1.2, 1.1], level=level) for level in (0.5, 0.99))
    assert narrow.low is not None and narrow.high is not None and wide.low is not None and wide.high is not None
    assert wide.low < narrow.low <= narrow.value <= narrow.high < wide.high


def test_ratio_is_of_totals_and_its_reciprocal_mirrors_it() -> None:
    a, b = [10.0, 1.0, 5.0], [5.0, 1.0, 2.0]
    there, back = ratio_interval(a, b), ratio_interval(b, a)
    assert there.value == pytest.approx(16.0 / 8.0)  # the mean of ratios would be 1.83
    assert there.low is not None and back.high is not None
    assert there.low == pytest.approx(1 / back.high)


def test_what_a_pair_shares_cancels() -> None:
    clips = np.array([1.0, 10.0, 100.0, 1000.0])
    paired = ratio_interval(2 * clips, clips)
    assert paired.low == pytest.approx(2.0) and paired.high == pytest.approx(2.0)
    crossed = ratio_interval(2 * clips, clips[::-1])
    assert crossed.high is not None and crossed.high > 3.0


def test_one_sample_has_no_interval_but_a_reason() -> None:
    interval = ratio_interval([2.0], [1.0])
    assert (interval.value, interval.low, interval.high, interval.n) == (2.0, None, None, 1)
    block = interval.as_dict()
    assert block["low"] is None and "at least 2" in str(block["low_reason"]) and block["high_reason"]
    assert "low_reason" not in mean_interval([1.0, 2.0]).as_dict()


@pytest.mark.parametrize("n", [2, 5, 10])
def test_equal_runs_are_flagged_at_the_stated_rate(n: int) -> None:
    """400 comparisons of a run with itself: about 5 % of the 95 % intervals may miss 1."""
    rng = np.random.default_rng(7)
    misses = 0
    for _ in range(400):
        times = np.exp(0.05 * rng.standard_normal((2, n)))
        interval = ratio_interval(times[0], times[1], resamples=400)
        assert interval.low is not None and interval.high is not None
        misses += not interval.low <= 1.0 <= interval.high
    assert 6 <= misses <= 36  # 20 expected; binomial 99.9 % range


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "at least 1 number"),
        ([[1.0, 2.0]], {}, "shape"),
        ([1.0, math.nan], {}, "finite"),
        ([1.0, 2.0], {"resamples": 10}, "measure.bootstrap"),
        ([1.0, 2.0], {"level": 1.0}, "level"),
    ],
)
def test_bad_samples_and_settings_are_refused(samples: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mean_interval(samples, **options)  # type: ignore[arg-type]


def test_bad_pairs_are_refused() -> None:
    with pytest.raises(ConfigError, match="equally long"):
        ratio_interval([1.0, 2.0], [1.0])
    with pytest.raises(ConfigError, match="positive"):
        ratio_interval([1.0, 2.0], [1.0, 0.0])


def test_pairs_alternate_and_stay_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    ticks = iter(range(100))

    def fake(function: object, device: object) -> float:
        assert callable(function)
        function()
        return float(next(ticks))

    monkeypatch.setattr(statistics, "time_call", fake)
    a, b = paired_samples(lambda: calls.append("a"), lambda: calls.append("b"), 4, warmup=1)
    assert "".join(calls) == "ab" + "abbaabba"
    assert a.tolist() == [0, 3, 4, 7] and b.tolist() == [1, 2, 5, 6]
    with pytest.raises(ConfigError, match="pair_repeats"):
        interleave(0)
