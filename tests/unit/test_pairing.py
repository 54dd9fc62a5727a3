"""The paired measurement with runners that take exactly as long as they are told."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lcp_bench.config import MeasureConfig
from lcp_bench.pairing import measure_pair


class Runner:
    """Takes the next time from a list, and notes who was called when."""

    def __init__(self, name: str, times: Iterator[float], log: list[tuple[str, str]]) -> None:
        self.name, self.times, self.log = name, times, log

    def generate(self, prepared: str) -> SimpleNamespace:
        """One generation; encoding takes a second, denoising what is told."""
        self.log.append((self.name, prepared))
        return SimpleNamespace(seconds={"encode": 1.0, "denoise": next(self.times), "decode": 0.5})


def measure(baseline: list[float], accelerated: list[float], clips: list[str], **options: Any) -> tuple[Any, Any]:
    """The block, and the calls in order."""
    log: list[tuple[str, str]] = []
    sides = [Runner("none", iter(baseline), log), Runner("lcp", iter(accelerated), log)]
    config = MeasureConfig(pair="none", bootstrap=200, **options)
    return measure_pair(*sides, clips, config), log  # type: ignore[arg-type]


def test_order_and_samples() -> None:
    """Each clip warms both sides up untimed; then AB, BA, ...; the first time of each clip is in no sample."""
    block, log = measure(
        [99.0, 4.0, 6.0, 99.0, 8.0, 10.0],
        [77.0, 1.0, 2.0, 77.0, 3.0, 4.0],
        ["a", "b", "c"],
        pair_clips=2,
        pair_repeats=2,
    )
    one = ["none", "lcp", "none", "lcp", "lcp", "none"]
    assert log == [(side, "a") for side in one] + [(side, "b") for side in one]
    assert block["samples"] == {"baseline_s": [4.0, 6.0, 8.0, 10.0], "accelerated_s": [1.0, 2.0, 3.0, 4.0]}
    assert block["ratio"] == pytest.approx(28 / 10)
    assert block["low"] <= block["ratio"] <= block["high"]
    assert (block["baseline"], block["n"], block["stage"]) == ("none", 4, "denoise")


def test_the_whole_generation_is_beside_it() -> None:
    block, _ = measure([9.0, 4.0, 4.0], [9.0, 1.0, 1.0], ["a"], pair_clips=1, pair_repeats=2)
    assert block["ratio"] == pytest.approx(4.0)
    whole = block["generation"]
    assert whole["samples"] == {"baseline_s": [5.5, 5.5], "accelerated_s": [2.5, 2.5]}
    assert whole["ratio"] == pytest.approx(2.2)


def test_equal_sides_have_one_in_their_interval() -> None:
    times = [2.0, 2.1, 1.9, 2.0, 2.2, 1.8]
    block, _ = measure([2.0, *times], [2.0, *times[::-1]], ["a"], pair_clips=1, pair_repeats=6)
    assert block["low"] <= 1.0 <= block["high"]
