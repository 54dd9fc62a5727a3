"""Schedules: which steps are key, which follow, which of those are evaluated together. Pure data, no torch.

Steps are numbered in sampling order, 0 is the noisiest. A *group* is one key step and its followers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lcp_bench.errors import ConfigError

PLACEMENTS = ("dense_ends", "uniform", "quadratic")


@dataclass(frozen=True, slots=True)
class Group:
    """One key step and the steps that reuse its features.

    Attributes:
        key: Index of the step that evaluates the full network.
        followers: The steps right after it, in order.
        parallel: Whether the followers are evaluated together on estimated latents instead of one after another.
    """

    key: int
    followers: tuple[int, ...] = ()
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups that cover all steps of one sampling run, in order.

    Attributes:
        num_steps: Steps of the run.
        groups: Key steps and their followers.
        open: Whether which steps are key is decided while a segment is denoised; the groups are then the cheapest case,
            and the dearest one is that every step is key.

    Raises:
        ConfigError: The groups are not a partition of `range(num_steps)` in order.
    """

    num_steps: int
    groups: tuple[Group, ...]
    open: bool = False

    def __post_init__(self) -> None:
        covered = [step for group in self.groups for step in (group.key, *group.followers)]
        if covered != list(range(self.num_steps)):
            raise ConfigError(f"a plan must cover steps 0..{self.num_steps - 1} once and in order, got {covered}")

    @property
    def key_steps(self) -> tuple[int, ...]:
        """Steps that evaluate the full network."""
        return tuple(group.key for group in self.groups)

    @property
    def followers(self) -> tuple[int, ...]:
        """Steps that reuse features."""
        return tuple(step for group in self.groups for step in group.followers)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Key steps of a cached run.

    Attributes:
        key_steps: How many steps are key (an integer), or exactly which (a list that starts with 0).
        placement: Where a *number* of key steps goes: `dense_ends` (many at both ends of sampling, where the features
            change most: Figure 1a of arXiv 2509.00052), `uniform`, or `quadratic` (many at the noisy start).
        max_followers: Refuse plans in which a key step has more followers than this; null accepts any.
    """

    key_steps: Any
    placement: str = "dense_ends"
    max_followers: int | None = None

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            known = ", ".join(PLACEMENTS)
            raise ConfigError(f"accel.schedule.placement must be one of {known}, got {self.placement!r}")
        if isinstance(self.key_steps, Iterable) and not isinstance(self.key_steps, str):
            object.__setattr__(self, "key_steps", tuple(self.key_steps))
        elif isinstance(self.key_steps, bool) or not isinstance(self.key_steps, int):
            raise ConfigError(
                f"accel.schedule.key_steps must be a number of steps or a list of step indices, got {self.key_steps!r}"
            )
        if self.max_followers is not None and self.max_followers < 0:
            raise ConfigError(f"accel.schedule.max_followers must be 0 or more, got {self.max_followers}")


def place_key_steps(num_steps: int, count: int, placement: str) -> tuple[int, ...]:
    """Indices of `count` key steps among `num_steps`, strictly increasing, the first is 0.

    With u = j / count for j = 0..count-1 the j-th key step lies at `num_steps * s(u)`, rounded down:
    `uniform` s = u, `quadratic` s = u^2, `dense_ends` s = u - sin(2 pi u) / (2 pi). Collisions move to the next free
    step.
    """
    steps: list[int] = []
    for j in range(count):
        wanted = _wanted_step(num_steps, j, count, placement)
        earliest = steps[-1] + 1 if steps else 0
        latest = num_steps - (count - j)
        steps.append(min(max(wanted, earliest), latest))
    return tuple(steps)


def _wanted_step(num_steps: int, j: int, count: int, placement: str) -> int:
    """Unconstrained place of the j-th key step; integers where the exact value is rational, so that nothing rounds."""
    if placement == "uniform":
        return num_steps * j // count
    if placement == "quadratic":
        return num_steps * j * j // count**2
    turn = 2 * math.pi * j / count
    return math.floor(num_steps * (turn - math.sin(turn)) / (2 * math.pi) + 1e-9)


def resolve_key_steps(config: ScheduleConfig, num_steps: int) -> tuple[int, ...]:
    """Key steps for a run of `num_steps` steps.

    Raises:
        ConfigError: The number or the list does not fit the number of steps.
    """
    keys = config.key_steps
    if isinstance(keys, int):
        if not 1 <= keys <= num_steps:
            raise ConfigError(
                f"accel.schedule.key_steps must be in 1..{num_steps} (sampler.steps={num_steps}), got {keys}; "
                "use +accel=none to run without caching"
            )
        return place_key_steps(num_steps, keys, config.placement)
    if not keys or any(isinstance(key, bool) or not isinstance(key, int) for key in keys):
        raise ConfigError(f"accel.schedule.key_steps must list integers and start with 0, got {list(keys)}")
    if keys[0] != 0 or list(keys) != sorted(set(keys)) or keys[-1] >= num_steps:
        raise ConfigError(
            f"accel.schedule.key_steps must rise from 0 and stay within 0..{num_steps - 1} "
            f"(sampler.steps={num_steps}), got {list(keys)}"
        )
    return tuple(keys)


def _group(key: int, end: int, parallel: bool) -> Group:
    followers = tuple(range(key + 1, end))
    return Group(key, followers, parallel and bool(followers))


def grouped_plan(config: ScheduleConfig, num_steps: int, *, parallel: bool) -> Plan:
    """Plan in which the steps between two key steps follow the first of them.

    Raises:
        ConfigError: The key steps do not fit, or a group exceeds `max_followers`.
    """
    keys = resolve_key_steps(config, num_steps)
    plan = plan_of_keys(keys, num_steps, parallel=parallel)
    largest = max(len(group.followers) for group in plan.groups)
    if config.max_followers is not None and largest > config.max_followers:
        raise ConfigError(
            f"{len(keys)} key steps of {num_steps} leave a group with {largest} followers, but "
            f"accel.schedule.max_followers={config.max_followers}; add key steps or raise the limit"
        )
    return plan


def plan_of_keys(keys: Sequence[int], num_steps: int, *, parallel: bool = False) -> Plan:
    """Plan of rising key steps from 0 on, in which the steps between two of them follow the first."""
    ends = (*keys[1:], num_steps)
    return Plan(num_steps, tuple(_group(key, end, parallel) for key, end in zip(keys, ends, strict=True)))
