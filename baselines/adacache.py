"""AdaCache with motion regularisation (Kahatapitiya et al., arXiv 2411.02397).

At a computed step the change of a probe residual since the last computed step, per step between them, chooses from a
codebook how many steps later the next one is computed (section 3.2); until then residuals are reused. Motion
regularisation (section 3.3) scales the change by the motion between frames and by how fast that motion changes.

The formulas are those of the public code, which differ from the paper's: with r the probe at this step, r' at the last
computed one, g the gap between them, c = |r' - r|_1 / |r'|_1 / g; m = |r[1:] - r[:-1]|_1 / (|r[1:]|_1 + |r[:-1]|_1)
over frames, f = (m / 0.385)^8, outside the middle steps f = 1; the factor is f + |10 (f - f before) / g|.

Deviations:

* residuals are those of runs of layers: everything between `conv_in` and the last up layer by default, where the
  published form keeps one residual per attention and feed-forward of a transformer and recomputes what is around them;
* the probe is the mid block, the middle of the network, where the published one is the middle of 28 blocks;
* both guidance branches share one decision;
* the range of steps in which motion counts is a share of the run; the published one is steps 4 to 26 of 30.

Which steps were computed is known only after the run: the record carries it, with the measured changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcp_bench.accel.gate import Gate, Move
from lcp_bench.accel.schedule import Plan, plan_of_keys
from lcp_bench.accel.scope import Scope, checked_delta, delta_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology

if TYPE_CHECKING:
    from torch import Tensor

Codebook = tuple[tuple[float, int], ...]

FAST: Codebook = ((0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.4, 2), (1.0, 1))
"""The published codebook for 30 steps: (change below, gap); the last gap holds above all of them."""

LAST_STEPS = 2
"""Steps at the end that are always computed."""

USUAL_MOTION, MOTION_POWER, MOTION_GRADIENT = 0.385, 8, 10


class AdaCache(Strategy):
    """Choose the next key step by how fast features change."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of AdaCache.

        Attributes:
            codebook: Pairs of (change, gap), rising in change: below that change the next key step lies so many steps
                ahead; the last gap also holds above. Gaps of 1 throughout skip nothing.
            motion: Regularise by motion.
            motion_from: Share of the steps from which on motion counts.
            motion_to: Share of the steps up to which it counts.
            first_site: First layer whose residual is reused.
            last_site: Last layer of that run.
            probe: Layer whose residual is measured.
        """

        codebook: Codebook = FAST
        motion: bool = False
        motion_from: float = 4 / 30
        motion_to: float = 26 / 30
        first_site: str = "down.0.0"
        last_site: str = "up.3.1"
        probe: str = "mid"

        def __post_init__(self) -> None:
            changes = [change for change, _ in self.codebook]
            if not changes or changes != sorted(set(changes)) or any(gap < 1 for _, gap in self.codebook):
                raise ConfigError(
                    f"accel.codebook must be pairs of a rising change and a gap of 1 or more, got {self.codebook}"
                )
            if not 0 <= self.motion_from <= self.motion_to <= 1:
                raise ConfigError(
                    "accel.motion_from and accel.motion_to must be rising shares in 0..1, got "
                    f"{self.motion_from} and {self.motion_to}"
                )

    config: AdaCache.Config

    def plan(self, num_steps: int) -> Plan:
        """The cheapest plan: always the largest gap."""
        largest, step, keys = max(gap for _, gap in self.config.codebook), 1, [0]
        while step < num_steps:
            keys.append(step)
            step = next_key(step, largest, num_steps)
        cheapest = plan_of_keys(keys, num_steps)
        return Plan(num_steps, cheapest.groups, open=bool(cheapest.followers))

    def validate(self, topology: Topology) -> None:
        """Run and probe must keep the shape of the map."""
        self._scope(topology)
        self._probe(topology)

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """Everything but the run."""
        return self._scope(topology)

    def gate(self, plan: Plan, topology: Topology) -> Gate:
        """Measures the probe at key steps."""
        return PaceGate(self.config, plan.num_steps, self._probe(topology))

    def _scope(self, topology: Topology) -> Scope:
        return delta_scope(topology, self.config.first_site, self.config.last_site)

    def _probe(self, topology: Topology) -> str:
        return checked_delta(topology, self.config.probe, self.config.probe).feature


class PaceGate(Gate):
    """Sets the next key step whenever one was computed; the second step is always the first to be measured."""

    def __init__(self, options: AdaCache.Config, num_steps: int, probe: str) -> None:
        super().__init__(num_steps)
        self.probe, self._options = probe, options
        self._next, self._gap, self._motion = 0, 1, 1.0
        self._last: Tensor | None = None

    def move(self, step: int) -> Move:
        """See `Gate`."""
        return "compute" if step >= self._next else "reuse"

    def computed(self, step: int, probe: Tensor | None) -> None:
        """See `Gate`; one wait for the device."""
        super().computed(step, probe)
        if probe is None:
            return
        if self._last is not None:
            change = relative_change(probe, self._last) / self._gap
            if self._options.motion:
                change *= self._motion_factor(step, probe)
            self._gap = gap_for(self.measure(step, change), self._options.codebook)
        self._last = probe
        self._next = next_key(step, self._gap, self.num_steps)

    def _motion_factor(self, step: int, probe: Tensor) -> float:
        low, high = (round(share * self.num_steps) for share in (self._options.motion_from, self._options.motion_to))
        now = motion(probe) if low <= step <= high else 1.0
        before, self._motion = self._motion, now
        return motion_factor(now, before, self._gap)


def next_key(step: int, gap: int, num_steps: int) -> int:
    """The key step after `step`; the last steps are always computed."""
    return min(step + gap, max(num_steps - LAST_STEPS, step + 1))


def relative_change(now: Tensor, last: Tensor) -> float:
    """Sum of absolute differences over the sum of absolute values of `last`, in float32."""
    return float((last.float() - now.float()).abs().sum() / last.float().abs().sum())


def gap_for(change: float, codebook: Sequence[tuple[float, int]]) -> int:
    """Steps to the next key step."""
    return next((gap for below, gap in codebook if change < below), codebook[-1][1])


def motion(probe: Tensor) -> float:
    """Motion of a residual (branches, frames, ...), normalised, in 0 or more; 1 where there is one frame."""
    if probe.shape[1] < 2:
        return 1.0
    later, earlier = probe[:, 1:].float(), probe[:, :-1].float()
    share = float((later - earlier).abs().sum() / (later.abs().sum() + earlier.abs().sum()))
    return (share / USUAL_MOTION) ** MOTION_POWER


def motion_factor(now: float, before: float, gap: int) -> float:
    """What the measured change is multiplied with."""
    return now + abs(MOTION_GRADIENT * (now - before) / gap)
