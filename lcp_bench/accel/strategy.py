"""The interface of an acceleration strategy, and the strategy that accelerates nothing.

A strategy holds configuration only. It answers three questions, all without a GPU: which steps are key (`plan`), what a
follower evaluates (`follower_scope`), and on which latents a parallel follower runs (`estimator`). The sampler does the
rest, for every strategy alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from lcp_bench.accel.estimate import HoldLatents, InputEstimator
from lcp_bench.accel.schedule import Group, Plan
from lcp_bench.accel.scope import Scope
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology


class Strategy(ABC):
    """Base of all strategies.

    Subclasses carry a frozen dataclass `Config`; `conf/accel/NAME.yaml` names the class in `_target_` and sets the
    config's fields.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def plan(self, num_steps: int) -> Plan:
        """Groups for a run of `num_steps` steps; the plan may use fewer steps than asked for."""

    @abstractmethod
    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """What the follower `step` evaluates."""

    def estimator(self, group: Group, plan: Plan) -> InputEstimator:
        """How the inputs of a parallel group's followers are estimated."""
        return HoldLatents()

    def validate(self, topology: Topology) -> None:  # noqa: B027 - most strategies name no site
        """Refuse options that the model cannot serve, also those that this number of steps would never use."""

    def check(self, topology: Topology, *, num_steps: int, eta: float) -> Plan:
        """The plan, after checking that the strategy fits the model and the sampler.

        Raises:
            ConfigError: The sampler is stochastic and steps are reordered, a site is unknown, or the key steps do not
                fit.
        """
        plan = self.plan(num_steps)
        if eta > 0:
            raise ConfigError(
                f"sampler.eta={eta} adds fresh noise at every step: cached and parallel steps cannot reproduce it, and "
                "a baseline with it could not be compared; use sampler.eta=0"
            )
        self.validate(topology)
        for group in plan.groups:
            for step in group.followers:
                self.follower_scope(step, plan, topology).reads(topology)
        return plan


class NoAcceleration(Strategy):
    """Every step evaluates the full network: the baseline that every other strategy is paired with."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """No options."""

    def __init__(self, config: NoAcceleration.Config | None = None) -> None:
        super().__init__(config or self.Config())

    def plan(self, num_steps: int) -> Plan:
        """All steps are key steps."""
        return Plan(num_steps, tuple(Group(step) for step in range(num_steps)))

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """Never asked: there are no followers."""
        raise ConfigError(f"the unaccelerated plan has no follower {step}")
