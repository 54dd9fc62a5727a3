"""Where key steps lie, and what a plan may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcp_bench.accel.schedule import (
    PLACEMENTS,
    Group,
    Plan,
    ScheduleConfig,
    grouped_plan,
    place_key_steps,
    resolve_key_steps,
)
from lcp_bench.errors import ConfigError

counts = st.integers(1, 120).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(1, steps)))


@given(counts, st.sampled_from(PLACEMENTS))
def test_placement_is_a_rising_list_from_zero(sizes: tuple[int, int], placement: str) -> None:
    steps, count = sizes
    keys = place_key_steps(steps, count, placement)
    assert len(keys) == count
    assert keys[0] == 0
    assert all(a < b for a, b in zip(keys, keys[1:], strict=False))
    assert keys[-1] < steps


@given(st.integers(1, 100), st.sampled_from(PLACEMENTS))
def test_all_steps_key(steps: int, placement: str) -> None:
    assert place_key_steps(steps, steps, placement) == tuple(range(steps))


@given(st.integers(1, 40), st.integers(1, 12))
def test_uniform_is_uniform(count: int, interval: int) -> None:
    """Every `interval`-th step, exactly: DeepCache's published schedules are of this form."""
    assert place_key_steps(count * interval, count, "uniform") == tuple(range(0, count * interval, interval))


@given(st.integers(12, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(5, n // 2))))
def test_dense_ends(sizes: tuple[int, int]) -> None:
    """Gaps rise towards the middle and fall again; the last gap counts up to the end of sampling."""
    steps, count = sizes
    keys = (*place_key_steps(steps, count, "dense_ends"), steps)
    gaps = [b - a for a, b in zip(keys, keys[1:], strict=False)]
    largest = max(gaps)
    peak = gaps.index(largest)
    assert gaps[0] <= largest / 2
    assert gaps[-1] <= largest / 2
    assert count / 5 <= peak <= count * 4 / 5
    assert all(a <= b + 1 for a, b in zip(gaps[:peak], gaps[1 : peak + 1], strict=True))
    assert all(a + 1 >= b for a, b in zip(gaps[peak:-1], gaps[peak + 1 :], strict=True))


def test_published_operating_point() -> None:
    """11 key steps of 40: more than half of them in the first and last quarter."""
    keys = place_key_steps(40, 11, "dense_ends")
    assert keys == (0, 1, 2, 4, 9, 16, 23, 30, 35, 38, 39)
    assert sum(key < 10 or key >= 30 for key in keys) == 9


def test_quadratic_is_dense_at_the_start() -> None:
    assert place_key_steps(100, 10, "quadratic") == (0, 1, 4, 9, 16, 25, 36, 49, 64, 81)


@pytest.mark.parametrize("keys", [[0, 3, 7], (0, 3, 7)])
def test_explicit_list(keys: object) -> None:
    assert resolve_key_steps(ScheduleConfig(key_steps=keys), 8) == (0, 3, 7)


@pytest.mark.parametrize(
    "keys", [[1, 2], [0, 2, 2], [0, 5, 3], [0, 8], [0, -1], [], [0, True], [0, 1.5], ["0"]], ids=str
)
def test_explicit_list_that_does_not_fit(keys: list[object]) -> None:
    with pytest.raises(ConfigError, match=r"accel\.schedule\.key_steps") as caught:
        resolve_key_steps(ScheduleConfig(key_steps=keys), 8)
    assert str(keys) in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 9])
def test_number_that_does_not_fit(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"must be in 1\.\.8 .*got {count}; use \+accel=none"):
        resolve_key_steps(ScheduleConfig(key_steps=count), 8)


@pytest.mark.parametrize("keys", [True, 3.0, "11", None])
def test_neither_number_nor_list(keys: object) -> None:
    with pytest.raises(ConfigError, match="a number of steps or a list"):
        ScheduleConfig(key_steps=keys)


def test_unknown_placement() -> None:
    with pytest.raises(ConfigError, match="dense_ends, uniform, quadratic, got 'cosine'"):
        ScheduleConfig(key_steps=3, placement="cosine")


def test_groups_between_key_steps() -> None:
    plan = grouped_plan(ScheduleConfig(key_steps=[0, 1, 4]), 6, parallel=True)
    assert plan.groups == (Group(0), Group(1, (2, 3), True), Group(4, (5,), True))
    assert plan.key_steps == (0, 1, 4)
    sequential = grouped_plan(ScheduleConfig(key_steps=[0, 1, 4]), 6, parallel=False)
    assert [group.parallel for group in sequential.groups] == [False] * 3


def test_max_followers() -> None:
    with pytest.raises(ConfigError, match=r"2 key steps of 8 leave a group with 4 followers.*max_followers=3"):
        grouped_plan(ScheduleConfig(key_steps=[0, 3], max_followers=3), 8, parallel=True)
    assert grouped_plan(ScheduleConfig(key_steps=[0, 3], max_followers=4), 8, parallel=True).num_steps == 8
    with pytest.raises(ConfigError, match="0 or more, got -1"):
        ScheduleConfig(key_steps=3, max_followers=-1)


@pytest.mark.parametrize(
    "groups",
    [
        (Group(0, (1,)), Group(3)),
        (Group(0, (1, 2)), Group(2, (3,))),
        (Group(2, (3,)), Group(0, (1,))),
        (Group(0, (2, 1)), Group(3)),
        (Group(1, (2, 3)),),
        (Group(0, (1, 2, 3, 4)),),
        (),
    ],
    ids=["gap", "twice", "order of groups", "order of followers", "no first step", "too many", "nothing"],
)
def test_a_plan_is_a_partition(groups: tuple[Group, ...]) -> None:
    with pytest.raises(ConfigError, match=r"must cover steps 0\.\.3 once and in order"):
        Plan(4, groups)
