"""Decisions at run time: a gate says, while a segment is denoised, which steps are key.

A gate is made fresh for every segment and dies with it. It may look at values, so each look costs one wait for the
device; strategies with a static plan have no gate and never wait. What it decided is the segment's plan after the fact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lcp_bench.accel.schedule import Plan, plan_of_keys
from lcp_bench.accel.scope import Scope

if TYPE_CHECKING:
    from torch import Tensor

Move = Literal["compute", "reuse", "ask"]
"""What happens at a step: the full network, the follower's scope, or the one that `Gate.reuses` chooses half-way."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a gate decided over one segment.

    Attributes:
        plan: The groups that came out.
        measured: (step, value) of everything that was measured on the way, in order; the strategy says what it is.
    """

    plan: Plan
    measured: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Fork:
    """A full pass that may turn into a follower's scope half-way.

    Attributes:
        probe: The `FIRST..LAST:delta` feature on which the decision is made, as soon as it is known.
        scope: What is evaluated if features are reused; contains everything up to the end of the probe.
        reuses: Called with the probe now and at the newest key step.
        reused: The decision, once it was made.
    """

    probe: str
    scope: Scope
    reuses: Callable[[Tensor, Tensor], bool]
    reused: bool = False


class Gate(ABC):
    """Decides step by step.

    Attributes:
        probe: A feature recorded at every key step for the gate's own use; None if it looks at none.
    """

    probe: str | None = None

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.keys: list[int] = []
        self.measured: list[tuple[int, float]] = []

    @abstractmethod
    def move(self, step: int) -> Move:
        """What to do at `step`; the first step must compute."""

    def reuses(self, step: int, now: Tensor, then: Tensor) -> bool:
        """The decision of a step whose move was `ask`: the probe at this step, and at the newest key step."""
        raise NotImplementedError

    def computed(self, step: int, probe: Tensor | None) -> None:
        """`step` was a key step.

        Args:
            step: The step.
            probe: What it recorded for the gate, (branches, frames, ...); None without a probe and after the last step.
        """
        self.keys.append(step)

    def reused(self, step: int) -> None:  # noqa: B027 - most gates need not know
        """`step` followed."""

    def measure(self, step: int, value: float) -> float:
        """Keep a measured value for the record and return it."""
        self.measured.append((step, value))
        return value

    def decisions(self) -> Decisions:
        """What was decided, after the last step."""
        return Decisions(plan_of_keys(self.keys, self.num_steps), tuple(self.measured))
