"""Which clips of a large data set are used: a seeded choice that is balanced over people.

No public list says which clips "100 videos of HDTF" (or of MEAD) are, and nobody can obtain all of them any more. So
the choice is an order rather than a set: people take turns, and a person whose clip cannot be had gives the next one.
Two users with different gaps then still share most of their clips.

The order comes from SHA-256 of seed and name, not from a random generator: it is the same on every machine and with
every library version, and a further candidate moves none of the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


class Choosable(Protocol):
    """What the choice looks at."""

    @property
    def id(self) -> str:
        """Unique name of the clip."""

    @property
    def identity(self) -> str:
        """The person in it."""

    @property
    def strata(self) -> tuple[str, ...]:
        """What else is balanced, coarsest first, for example (emotion, level); may be empty."""


C = TypeVar("C", bound=Choosable)


def choose(candidates: Iterable[C], count: int, seed: int, accept: Callable[[C], bool]) -> list[C]:
    """Choose up to `count` clips, people taking turns in a seeded order.

    At a turn a person gives the clip whose strata are least used so far (first by the coarsest stratum, then by the
    finer ones, then by seeded rank); if it is not accepted, the next one.

    Args:
        candidates: Any order; ids are unique.
        count: How many are wanted.
        seed: Another seed is another choice.
        accept: Asked once per tried candidate, in order; False means that it cannot be had.

    Returns:
        The accepted ones in the order of choice; fewer than `count` only when every candidate was tried.
    """
    people: dict[str, list[C]] = {}
    for each in sorted(candidates, key=lambda one: _rank(seed, one.id)):
        people.setdefault(each.identity, []).append(each)
    order = sorted(people, key=lambda name: _rank(seed, name))
    used: Counter[tuple[str, ...]] = Counter()
    chosen: list[C] = []
    while any(people.values()):
        for name in order:
            if len(chosen) == count:
                return chosen
            taken = _take(people[name], used, accept)
            if taken is not None:
                chosen.append(taken)
                used.update(_prefixes(taken))
    return chosen


def _take(left: list[C], used: Counter[tuple[str, ...]], accept: Callable[[C], bool]) -> C | None:
    """The person's next acceptable clip; everything that was tried is removed from `left` (which is in rank order)."""
    while left:
        best = min(left, key=lambda one: [used[prefix] for prefix in _prefixes(one)])
        left.remove(best)
        if accept(best):
            return best
    return None


def _prefixes(one: Choosable) -> list[tuple[str, ...]]:
    return [one.strata[: size + 1] for size in range(len(one.strata))]


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
