"""DBCache with step masks, as practitioners use it in the cache-dit library; it has no paper.

The first `first` layers always run. If what they add has changed little since the last step that was computed in full
(mean absolute difference over mean absolute value, below `threshold`), the layers in the middle are replaced by what
they added then, and the last `last` layers run; else everything runs. A step mask says where reuse is allowed at all
(`dynamic`), or orders it outright (`static`, no measurement). Named masks are the library's, stretched and cut to the
number of steps as it does it.

Deviations:

* blocks are the layers of a UNet, so the first layers end and the last ones begin where the map has one size: at most
  two on each side of an SD-1.5-shaped network;
* both guidance branches are one batch and share one decision, as the published video models would with
  `enable_separate_cfg` off;
* `warmup` does not apply where a mask is given: masks have their own.

Which steps were computed is known only after the run: the record carries it, with the measured changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lcp_bench.accel.gate import Gate, Move
from lcp_bench.accel.schedule import Plan, plan_of_keys
from lcp_bench.accel.scope import Scope, checked_delta, delta_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology

if TYPE_CHECKING:
    from torch import Tensor

Mask = Literal["none", "slow", "medium", "fast", "ultra"] | tuple[int, ...]

ALWAYS = 1.0
"""From this threshold on reuse needs no measurement."""


class DBCache(Strategy):
    """Reuse the middle layers while the first ones change little."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of DBCache.

        Attributes:
            first: First layers that always run; their change decides.
            last: Last layers that always run.
            threshold: Relative change below which the middle is reused; 0 never reuses, 1 or more always does.
            warmup: First steps that are always computed, where no mask is given.
            max_reused: Most steps that reuse in a segment; null is no limit.
            max_in_row: Most such steps in a row; null is no limit.
            mask: Named step mask, `none`, or lengths of runs of steps: computed, reused, computed, ...
            mask_policy: `dynamic` measures where the mask allows reuse, `static` reuses there without measuring.
        """

        first: int = 1
        last: int = 1
        threshold: float = 0.08
        warmup: int = 8
        max_reused: int | None = None
        max_in_row: int | None = None
        mask: Mask = "none"
        mask_policy: Literal["dynamic", "static"] = "dynamic"

        def __post_init__(self) -> None:
            if self.first < 1 or self.last < 0:
                raise ConfigError(
                    f"accel.first must be 1 or more and accel.last 0 or more, got {self.first} and {self.last}"
                )
            if self.threshold < 0:
                raise ConfigError(f"accel.threshold must be 0 or more, got {self.threshold}")
            if self.warmup < 1:
                raise ConfigError(f"accel.warmup must be 1 or more, got {self.warmup}; the first step has no features")
            for name in ("max_reused", "max_in_row"):
                if (limit := getattr(self, name)) is not None and limit < 0:
                    raise ConfigError(f"accel.{name} must be 0 or more, or null, got {limit}")
            if self.mask == "none" and self.mask_policy == "static":
                raise ConfigError("accel.mask_policy=static needs a mask: accel.mask=slow, medium, fast or ultra")
            if isinstance(self.mask, tuple) and (not self.mask or self.mask[0] < 1 or min(self.mask) < 0):
                raise ConfigError(f"accel.mask must be lengths of runs that begin with computed steps, got {self.mask}")

        @property
        def measures(self) -> bool:
            """Whether anything is decided at run time."""
            return self.mask_policy == "dynamic" and 0 < self.threshold < ALWAYS

    config: DBCache.Config

    def plan(self, num_steps: int) -> Plan:
        """The final plan if nothing is measured, else the cheapest one: reuse wherever it is allowed."""
        options = self.config
        if options.mask_policy == "dynamic" and options.threshold == 0:
            return plan_of_keys(range(num_steps), num_steps)
        limits = Limits(options, num_steps)
        for step in range(num_steps):
            limits.note(step, reused=limits.allow(step))
        cheapest = plan_of_keys(limits.keys, num_steps)
        return Plan(num_steps, cheapest.groups, open=options.measures and bool(cheapest.followers))

    def validate(self, topology: Topology) -> None:
        """The middle must keep the shape of the map."""
        self._scope(topology)
        self.probe(topology)

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """First layers, the middle's delta, last layers."""
        return self._scope(topology)

    def gate(self, plan: Plan, topology: Topology) -> Gate:
        """Measures the first layers."""
        return ChangeGate(self.config, plan.num_steps, self.probe(topology))

    def probe(self, topology: Topology) -> str:
        """What the first layers add."""
        return checked_delta(topology, topology.names[1], topology.names[self.config.first]).feature

    def _scope(self, topology: Topology) -> Scope:
        first, last, names = self.config.first, self.config.last, topology.names
        if first + last > len(names) - 3:
            raise ConfigError(f"accel.first={first} and accel.last={last} leave nothing of {len(names) - 2} layers")
        return delta_scope(topology, names[first + 1], names[-2 - last])


class Limits:
    """Where reuse is allowed, whatever is measured: warm-up or mask, and the limits on reused steps."""

    def __init__(self, options: DBCache.Config, num_steps: int) -> None:
        self._options, self._reused, self._in_row = options, 0, 0
        self.keys: list[int] = []
        if options.mask == "none":
            self._mask = [step < options.warmup for step in range(num_steps)]
        else:
            self._mask = step_mask(options.mask, num_steps)

    def allow(self, step: int) -> bool:
        """Whether `step` may reuse."""
        total, row = self._options.max_reused, self._options.max_in_row
        full = (total is not None and self._reused >= total) or (row is not None and self._in_row >= row)
        return not (self._mask[step] or full)

    def note(self, step: int, *, reused: bool) -> None:
        """What happened at `step`."""
        self._reused += reused
        self._in_row = self._in_row + 1 if reused else 0
        if not reused:
            self.keys.append(step)


class ChangeGate(Gate):
    """Reuses while the probe's relative change since the last computed step stays below the threshold."""

    def __init__(self, options: DBCache.Config, num_steps: int, probe: str) -> None:
        super().__init__(num_steps)
        self.probe, self._threshold, self._limits = probe, options.threshold, Limits(options, num_steps)

    def move(self, step: int) -> Move:
        """See `Gate`."""
        return "ask" if self._limits.allow(step) else "compute"

    def reuses(self, step: int, now: Tensor, then: Tensor) -> bool:
        """See `Gate`; one wait for the device."""
        return self.measure(step, relative_change(now, then)) < self._threshold

    def computed(self, step: int, probe: Tensor | None) -> None:
        """See `Gate`."""
        super().computed(step, probe)
        self._limits.note(step, reused=False)

    def reused(self, step: int) -> None:
        """See `Gate`."""
        self._limits.note(step, reused=True)


def relative_change(now: Tensor, then: Tensor) -> float:
    """Mean absolute difference over the mean absolute value of `then`, in float32."""
    return float((now.float() - then.float()).abs().mean() / then.float().abs().mean())


# Lengths of runs: computed, reused, computed, ... for 28 steps, and for few steps.
MASKS = {
    "slow": (8, 1, 3, 2, 3, 2, 2, 2, 1, 3, 1),
    "medium": (6, 1, 2, 3, 2, 3, 2, 3, 2, 3, 1),
    "fast": (6, 1, 1, 3, 1, 4, 1, 5, 1, 4, 1),
    "ultra": (4, 2, 1, 5, 1, 6, 1, 7, 1),
}
FEW = {
    "slow": (4, 1, 2, 1, 2, 1, 2, 1, 1),
    "medium": (4, 1, 2, 1, 1, 2, 1, 2, 1),
    "fast": (3, 1, 1, 2, 1, 2, 1, 3, 1),
    "ultra": (2, 1, 1, 2, 1, 3, 1, 3, 1),
}
NINE = {"slow": (5, 1, 2, 0, 1), "medium": (5, 1, 1, 1, 1), "fast": (4, 1, 1, 2, 1), "ultra": (3, 2, 1, 2, 1)}
EIGHT = {"slow": (5, 1, 1, 0, 1), "medium": (4, 1, 1, 1, 1), "fast": (3, 1, 1, 2, 1), "ultra": (2, 2, 1, 2, 1)}
FIXED = {4: (2, 1, 1), 6: (3, 2, 1)}
BASE_STEPS = 28


def step_mask(policy: str | Sequence[int], num_steps: int) -> list[bool]:
    """The library's named mask, or one of given runs: True is compute. The last step always computes.

    Raises:
        ConfigError: The library has no mask for so few steps, or the runs do not cover them.
    """
    if not isinstance(policy, str):
        runs = list(policy)
        if sum(runs) < num_steps:
            raise ConfigError(f"accel.mask={runs} covers {sum(runs)} of {num_steps} steps (sampler.steps); add runs")
    elif num_steps in FIXED:
        runs = list(FIXED[num_steps])
    elif num_steps < 8:
        raise ConfigError(
            f"accel.mask={policy} exists for 4, 6, 8 and more steps, got {num_steps}; use accel.mask=none"
        )
    else:
        table = {8: EIGHT, 9: NINE}.get(num_steps, FEW if num_steps < 16 else MASKS)
        runs = list(table[policy])
        if num_steps > BASE_STEPS:
            _stretch(runs, num_steps)
        _shrink(runs, num_steps)
    mask = [number % 2 == 0 for number, length in enumerate(runs) for _ in range(length)][:num_steps]
    mask[-1] = True
    return mask


def _stretch(runs: list[int], num_steps: int) -> None:
    """Lengthen the runs in order, all but the last by half their share of `num_steps`, until they cover it."""
    shares = [max(int(length * (num_steps / BASE_STEPS * 0.5)), 1) for length in runs[:-1]]
    while True:
        for number, more in enumerate([*shares, 1]):
            if sum(runs) >= num_steps:
                return
            runs[number] += more


def _shrink(runs: list[int], num_steps: int) -> None:
    """Shorten the last reused run and the last computed one in turn until `num_steps` remain."""
    kind = 1
    while sum(runs) > num_steps:
        ends = [number for number in range(kind, len(runs), 2) if runs[number]]
        if ends:
            runs[ends[-1]] -= 1
        kind = 1 - kind
