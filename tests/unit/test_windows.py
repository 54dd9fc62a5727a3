"""Windows over a video: which frames, how often, and where they are at each step."""

from __future__ import annotations

import math

import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.windows import WindowSchedule, shifted, uniform_windows


@pytest.mark.parametrize("frames", range(1, 61))
def test_every_frame_is_covered_and_no_window_repeats_one(frames: int) -> None:
    schedule = WindowSchedule()
    for step in (0, 1, 5):
        windows = schedule.at(step, frames)
        assert {frame for window in windows for frame in window} == set(range(frames))
        assert all(len(set(window)) == len(window) == min(frames, 12) for window in windows)
        assert len(windows) == (1 if frames <= 12 else math.ceil(frames / 9))


def test_windows_run_over_the_end_and_move() -> None:
    schedule = WindowSchedule(size=4, overlap=1, shift=2)
    assert schedule.at(0, 6) == ((0, 1, 2, 3), (3, 4, 5, 0))
    assert schedule.at(1, 6) == ((2, 3, 4, 5), (5, 0, 1, 2))
    assert schedule.counts(0, 6) == [2, 1, 1, 2, 1, 1]
    assert schedule.counts(1, 6) == [1, 1, 2, 1, 1, 2]


def test_a_video_of_one_window_moves_too() -> None:
    """Upstream turns the frames of a short video around the loop; their positions along time turn with them."""
    assert WindowSchedule(size=4).at(1, 3) == ((2, 0, 1),)


def test_larger_strides_come_after_the_densest() -> None:
    windows = uniform_windows(20, size=4, overlap=1, stride=2)
    assert windows[:2] == ((0, 1, 2, 3), (3, 4, 5, 6))
    assert windows[-1] == (14, 16, 18, 0)


def test_shifted_by_a_whole_turn_is_the_same() -> None:
    windows = uniform_windows(13, size=6, overlap=2)
    assert shifted(windows, 13, 13) == windows


@pytest.mark.parametrize("overlap", [-1, 12])
def test_an_overlap_that_never_advances_is_refused(overlap: int) -> None:
    with pytest.raises(ConfigError, match=r"overlap.*0\.\.11"):
        WindowSchedule(size=12, overlap=overlap)
