"""Delta-DiT (Chen et al., arXiv 2406.01125): cache what a run of layers adds, not what comes out of it.

At a key step the difference `out - in` of a run of layers is kept; a follower adds it to its current map instead of
evaluating the run (section 4.1), so the current latents survive. Stage-adaptive caching (section 4.2): early steps
make the outline and skip rear layers, late steps make the detail and skip front layers, with a switch at a boundary
step.

The paper's form is for transformers, whose layers all keep the shape and have no skips: `cut=stages` does exactly that
on such a topology (front: layers 1..n, rear: the last n). No model of this family is a transformer. On its UNet:

* `stages`: a run must keep the width and size of the map. Inside the front run every layer gets its own delta, because
  the skips that the decoder consumes must be current too. That leaves n = 1 or 2;
* `outer`: one delta over everything between `conv_in` and the last up layer;
* `level_0`, `level_1`, `level_2`: one delta over everything below that resolution level.

`outer` and the levels are ours. The paper publishes no code; its number of skipped layers is not stated for the fast
setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lcp_bench.accel.schedule import Plan, ScheduleConfig, grouped_plan, plan_of_keys
from lcp_bench.accel.scope import Scope, delta_scope, layer_deltas_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology


class DeltaDiT(Strategy):
    """Replace runs of layers by what they added at the key step."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of Delta-DiT.

        Attributes:
            timing: `shared` takes the key steps of `schedule`, the same for every method; `every` is the paper's, every
                `interval`-th step.
            schedule: Key steps under `shared`.
            interval: Distance of the key steps under `every`; 1 skips nothing.
            cut: Which layers a follower skips, see the module's text.
            skipped: Layers of a `stages` run.
            boundary: First step that skips the front run instead of the rear run under `stages`; null is three fifths
                of the steps, as the published 12 of 20.
        """

        timing: Literal["shared", "every"] = "shared"
        schedule: ScheduleConfig
        interval: int = 2
        cut: Literal["stages", "outer", "level_0", "level_1", "level_2"] = "stages"
        skipped: int = 2
        boundary: int | None = None

        def __post_init__(self) -> None:
            if self.interval < 1:
                raise ConfigError(f"accel.interval must be 1 or more, got {self.interval}; 1 skips nothing")
            if self.skipped < 1:
                raise ConfigError(f"accel.skipped must be 1 or more layers, got {self.skipped}")
            if self.boundary is not None and self.boundary < 0:
                raise ConfigError(f"accel.boundary must be a step, 0 or more, or null, got {self.boundary}")

    config: DeltaDiT.Config

    def plan(self, num_steps: int) -> Plan:
        """Key steps by the timing; sequential followers."""
        if self.config.timing == "shared":
            return grouped_plan(self.config.schedule, num_steps, parallel=False)
        return plan_of_keys(range(0, num_steps, self.config.interval), num_steps)

    def validate(self, topology: Topology) -> None:
        """All runs must keep the shape of the map, also those that this plan does not use."""
        if self.config.cut == "stages":
            front_scope(topology, self.config.skipped)
            rear_scope(topology, self.config.skipped)
        else:
            whole_scope(topology, self.config.cut)

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """Everything but the run."""
        options = self.config
        if options.cut != "stages":
            return whole_scope(topology, options.cut)
        boundary = plan.num_steps * 3 // 5 if options.boundary is None else options.boundary
        return (rear_scope if step < boundary else front_scope)(topology, options.skipped)


def front_scope(topology: Topology, count: int) -> Scope:
    """Without the first `count` layers after `conv_in`, each replaced by its own delta if skips come from between."""
    first, last = _run(topology, 1, count)
    between = topology.layers[1:count]
    return (layer_deltas_scope if any(layer.pushes for layer in between) else delta_scope)(topology, first, last)


def rear_scope(topology: Topology, count: int) -> Scope:
    """Without the last `count` layers before `out`."""
    return delta_scope(topology, *_run(topology, len(topology.layers) - 1 - count, count))


def _run(topology: Topology, start: int, count: int) -> tuple[str, str]:
    if count > len(topology.layers) - 2:
        raise ConfigError(f"accel.skipped={count} is more than this model's {len(topology.layers) - 2} layers")
    return topology.names[start], topology.names[start + count - 1]


def whole_scope(topology: Topology, cut: str) -> Scope:
    """`outer` or `level_N`: one delta over all that lies inside."""
    ups = [layer for layer in topology.layers if layer.pops is not None]
    if not ups:
        raise ConfigError(f"accel.cut={cut} needs a model with skips; use accel.cut=stages")
    if cut == "outer":
        return delta_scope(topology, topology.names[1], topology.names[topology.index(ups[-1].name) - 1])
    level = int(cut.removeprefix("level_"))
    entry = f"down.{level}.ds"
    inside = [layer.name for layer in ups if layer.level == level]
    if entry not in topology.names or not inside:
        levels = max(layer.level for layer in topology.layers)
        raise ConfigError(f"accel.cut={cut} needs a level below it; this model has levels 0..{levels}")
    return delta_scope(topology, entry, inside[0])
