"""Fewer steps: the control that every acceleration must beat at equal cost.

The full network at every step, on a coarser grid of the same sampler.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcp_bench.accel.schedule import Group, Plan
from lcp_bench.accel.scope import Scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology


class FewerSteps(Strategy):
    """Run the unaccelerated network with fewer steps."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options.

        Attributes:
            steps: Number of steps actually taken; must not exceed `sampler.steps`, which stays the reference.
        """

        steps: int

        def __post_init__(self) -> None:
            if self.steps < 1:
                raise ConfigError(f"accel.steps must be 1 or more, got {self.steps}")

    config: FewerSteps.Config

    def plan(self, num_steps: int) -> Plan:
        """`steps` key steps on their own grid of timesteps."""
        if self.config.steps > num_steps:
            raise ConfigError(
                f"accel.steps={self.config.steps} is more than sampler.steps={num_steps}; "
                "fewer_steps can only take steps away"
            )
        return Plan(self.config.steps, tuple(Group(step) for step in range(self.config.steps)))

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """Never asked: there are no followers."""
        raise ConfigError(f"the plan of fewer_steps has no follower {step}")
