"""What key steps record, known before anything runs: the sampler records it, the plan adds it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lcp_bench.accel.schedule import Plan
from lcp_bench.accel.scope import Scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.models.topology import Topology


@dataclass(frozen=True, slots=True)
class Recording:
    """The features that a strategy's key steps keep.

    Attributes:
        plan: The groups.
        scopes: What each step evaluates that may follow.
        topology: The network's layers.
        history: Older key steps that features are read with.
        probe: What a gate wants to look at, beside the followers' features.
    """

    plan: Plan
    scopes: Mapping[int, Scope]
    topology: Topology
    history: int = 0
    probe: str | None = None

    def at(self, step: int) -> tuple[str, ...]:
        """Names of the features that `step` records if it is key.

        Its followers' features; with a history those of all later followers, because every key step counts; with an
        open plan those of all later steps, because any of them may follow.
        """
        later = [follower for follower in self.scopes if follower > step]
        if not self.plan.open and not self.history:
            own = {group.key: group.followers for group in self.plan.groups}
            later = list(own.get(step, ()))
        names = [name for follower in later for name in self.scopes[follower].reads(self.topology)]
        if later and self.probe is not None:
            names.append(self.probe)
        return tuple(dict.fromkeys(names))

    def peak_bytes(self, sizes: Mapping[str, int]) -> int:
        """Largest size of what is held at once, given the size of every feature."""
        keys = range(self.plan.num_steps) if self.plan.open else self.plan.key_steps
        held = [
            sum(sizes[name] for name in self.at(key)) * (1 + min(number, self.history))
            for number, key in enumerate(keys)
        ]
        return max(held, default=0)


def recording_of(strategy: Strategy, plan: Plan, topology: Topology) -> Recording:
    """What a strategy's key steps record."""
    scopes = {step: strategy.follower_scope(step, plan, topology) for step in strategy.may_follow(plan)}
    probe = strategy.gate(plan, topology).probe if plan.open else None
    return Recording(plan, scopes, topology, strategy.read_rule().history, probe)
