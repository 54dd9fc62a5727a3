"""The choice is seeded, balanced, and moves little when clips are missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from lcp_bench.data.selection import choose


@dataclass(frozen=True)
class One:
    id: str
    identity: str
    strata: tuple[str, ...] = ()


def crowd(people: int = 30, each: int = 4) -> list[One]:
    return [One(f"p{person:02d}_{number}", f"p{person:02d}") for person in range(people) for number in range(each)]


def ids(chosen: list[One]) -> list[str]:
    return [each.id for each in chosen]


def test_same_seed_same_choice_in_any_order_of_listing() -> None:
    first = ids(choose(crowd(), 20, 7, lambda _: True))
    assert ids(choose(reversed(crowd()), 20, 7, lambda _: True)) == first
    assert ids(choose(crowd(), 20, 8, lambda _: True)) != first
    assert first != sorted(first)


@pytest.mark.parametrize(("count", "shares"), [(20, {1: 20}), (30, {1: 30}), (70, {2: 20, 3: 10}), (500, {4: 30})])
def test_people_take_turns(count: int, shares: dict[int, int]) -> None:
    chosen = choose(crowd(), count, 0, lambda _: True)
    assert Counter(Counter(each.identity for each in chosen).values()) == shares
    assert len(set(ids(chosen))) == min(count, 120)


def test_a_person_whose_clip_is_missing_gives_another_one() -> None:
    lost = {f"p{person:02d}_{number}" for person in range(30) for number in range(3)}
    chosen = choose(crowd(), 30, 0, lambda one: one.id not in lost)
    assert len({each.identity for each in chosen}) == 30 and not lost & set(ids(chosen))


def test_gaps_of_two_users_move_only_what_they_must() -> None:
    everything = set(ids(choose(crowd(), 20, 0, lambda _: True)))
    first = sorted(everything)[0]
    without = set(ids(choose(crowd(), 20, 0, lambda one: one.id != first)))
    assert everything - without == {first} and len(without) == 20


def test_each_candidate_is_tried_once_and_no_more_than_needed() -> None:
    tried: list[str] = []
    choose(crowd(), 10, 0, lambda one: bool(tried.append(one.id)) or True)
    assert len(tried) == 10
    tried.clear()
    assert choose(crowd(), 10, 0, lambda one: bool(tried.append(one.id))) == []
    assert sorted(tried) == sorted(ids(crowd()))


def test_strata_are_balanced_coarse_first() -> None:
    cells = [("neutral", "1"), *[(name, level) for name in ("angry", "happy", "sad") for level in "123"]]
    many = [One(f"{p}_{a}_{b}_{n}", f"p{p}", (a, b)) for p in range(5) for a, b in cells for n in range(3)]
    chosen = choose(many, 48, 3, lambda _: True)
    assert set(Counter(each.strata[0] for each in chosen).values()) == {12}
    levels = Counter(each.strata for each in chosen if each.strata[0] != "neutral")
    assert set(levels.values()) == {4}
    assert max(Counter(each.identity for each in chosen).values()) == 10
