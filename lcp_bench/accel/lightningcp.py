"""LightningCP: lightning-fast cache and parallel denoising prediction (arXiv 2509.00052, sections 3.2 to 3.4).

At a key step the full network runs and the input of one up layer is kept. A follower evaluates that layer and what
comes after it, with its own time embedding, fresh skips and the full conditioning. The followers of a group share the
kept feature, so they run as one batch on estimated latents.

Deviations, where the paper leaves a choice open:

* positions of the key steps are not published; `accel.schedule.placement` or an explicit list decides;
* "the predicted noise" is held by its meaning (noise), not as the raw network output; `hold` offers both;
* the estimate uses the guided prediction, the one that the scheduler consumed;
* the first follower's input is exact, as equation 6a gives it.

The paper's other two parts, foreground attention and reference removal, are options here and say their readings in
`lcp_bench.accel.dfa` and `lcp_bench.accel.reference`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcp_bench.accel.dfa import ForegroundConfig, with_foreground
from lcp_bench.accel.estimate import HoldLatents, HoldNoise, HoldOutput, InputEstimator
from lcp_bench.accel.reference import RemovalConfig, without_reference
from lcp_bench.accel.schedule import Group, Plan, ScheduleConfig, grouped_plan
from lcp_bench.accel.scope import Scope, full_scope, shell_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology

HOLDS = ("noise", "output")


class LightningCP(Strategy):
    """Caching with parallel followers, and optionally foreground attention and reference removal."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of LightningCP.

        Attributes:
            schedule: The key steps.
            parallel: Evaluate a group's followers as one batch; off, each follower sees its true latents in turn.
            estimate: Estimate the latents of later followers from the key prediction (equation 6a); off, every follower
                of a group gets the latents right after the key step. Only parallel groups estimate anything.
            estimate_from_step: Groups whose key step lies before this one do not estimate, because early latents hardly
                change (Figure 4; step 10 of 40). Null means a quarter of the steps.
            hold: What the estimate keeps constant: the `noise` implied by the key prediction, or the network's raw
                `output`.
            site: The layer whose input is cached; `up.3.2` is the last layer of the last up block.
            batch: At most so many followers of a parallel group in one call, which bounds memory; null puts all of them
                together. Results are the same up to rounding.
            attention: Restrict the followers' attention to the foreground (DFA); null does not.
            reference: Layers that stop reading the reference; null is none.
        """

        schedule: ScheduleConfig
        parallel: bool = True
        estimate: bool = True
        estimate_from_step: int | None = None
        hold: str = "noise"
        site: str = "up.3.2"
        batch: int | None = None
        attention: ForegroundConfig | None = None
        reference: RemovalConfig | None = None

        def __post_init__(self) -> None:
            if self.hold not in HOLDS:
                raise ConfigError(f"accel.hold must be one of {', '.join(HOLDS)}, got {self.hold!r}")
            if self.estimate_from_step is not None and self.estimate_from_step < 0:
                raise ConfigError(f"accel.estimate_from_step must be 0 or more, got {self.estimate_from_step}")
            if self.batch is not None and self.batch < 1:
                raise ConfigError(f"accel.batch must be 1 or more followers, or null for all, got {self.batch}")

    config: LightningCP.Config

    def plan(self, num_steps: int) -> Plan:
        """Key steps by the schedule, all other steps follow."""
        return grouped_plan(self.config.schedule, num_steps, parallel=self.config.parallel)

    def validate(self, topology: Topology) -> None:
        """The cached site must have a skip to resume with, and what is restricted or removed must exist."""
        scope, removal = self._follower_scope(topology), self.config.reference
        if removal is not None and removal.steps == "followers" and removal.sites and not scope.without_reference:
            attends = [layer.name for layer in topology.layers if layer.attentions and layer.name in scope.evaluated]
            raise ConfigError(
                f"accel.reference.steps=followers drops nothing: followers evaluate attention in {', '.join(attends)}, "
                f"but accel.reference.sites={list(removal.sites)} names none of it; use steps=all"
            )

    def key_scope(self, topology: Topology) -> Scope | None:
        """Everything, without the reference where it is removed."""
        full = full_scope(topology)
        scope = without_reference(full, self.config.reference, topology, "key")
        return None if scope == full else scope

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """From the cached site to the end."""
        return self._follower_scope(topology)

    def _follower_scope(self, topology: Topology) -> Scope:
        scope = shell_scope(topology, self.config.site)
        scope = with_foreground(scope, self.config.attention, topology)
        return without_reference(scope, self.config.reference, topology, "followers")

    def foreground(self) -> ForegroundConfig | None:
        """As configured."""
        return self.config.attention

    def largest_batch(self) -> int | None:
        """As configured."""
        return self.config.batch

    def estimator(self, group: Group, plan: Plan) -> InputEstimator:
        """Hold the latents before the threshold step, then hold the noise or the output."""
        threshold = self.config.estimate_from_step
        if threshold is None:
            threshold = plan.num_steps // 4
        if not self.config.estimate or group.key < threshold:
            return HoldLatents()
        return HoldNoise() if self.config.hold == "noise" else HoldOutput()
