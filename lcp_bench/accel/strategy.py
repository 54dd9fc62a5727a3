"""The interface of an acceleration strategy, and the strategy that accelerates nothing.

A strategy holds configuration only. It answers three questions, all without a GPU: which steps are key (`plan`), what a
follower evaluates (`follower_scope`), and on which latents a parallel follower runs (`estimator`). Some methods need
more: another reading of recorded features (`read_rule`), injected noise (`injection`), decisions at run time (`gate`).
The sampler does the rest, for every strategy alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from lcp_bench.accel.dfa import ForegroundConfig
from lcp_bench.accel.estimate import HoldLatents, InputEstimator
from lcp_bench.accel.gate import Gate
from lcp_bench.accel.reuse import Newest, ReadRule
from lcp_bench.accel.schedule import Group, Plan
from lcp_bench.accel.scope import Scope
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseInjection:
    """A little of the initial noise, added to the latents of late steps.

    Attributes:
        weight: Added are `weight` times the initial latents.
        below: Only at steps whose timestep is below this one (the training schedule has 1000).
        before_network: Whether a step that is evaluated alone sees it; else it is added between the network and the
            scheduler.
    """

    weight: float
    below: float
    before_network: bool


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

    def key_scope(self, topology: Topology) -> Scope | None:
        """What a key step evaluates: all layers, perhaps without some reference; None is the full network."""
        return None

    def foreground(self) -> ForegroundConfig | None:
        """How the foreground is made of a picture's mask, if followers restrict their attention to it."""
        return None

    def estimator(self, group: Group, plan: Plan) -> InputEstimator:
        """How the inputs of a parallel group's followers are estimated."""
        return HoldLatents()

    def read_rule(self) -> ReadRule:
        """What is kept of features over key steps; asked once per segment."""
        return Newest()

    def injection(self) -> NoiseInjection | None:
        """Noise to add on the way."""
        return None

    def largest_batch(self) -> int | None:
        """How many parallel followers are evaluated at once; None is all of a group."""
        return None

    def gate(self, plan: Plan, topology: Topology) -> Gate:
        """A fresh gate for a segment, asked only if the plan is open."""
        raise ConfigError(f"{type(self).__name__} made an open plan but has no gate to decide it; define `gate`")

    def may_follow(self, plan: Plan) -> tuple[int, ...]:
        """Steps that may reuse features: the plan's followers, or any but the first if it is open."""
        return tuple(range(1, plan.num_steps)) if plan.open else plan.followers

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
        self.key_scope(topology)
        for step in self.may_follow(plan):
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
