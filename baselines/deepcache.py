"""DeepCache (Ma, Fang and Wang, CVPR 2024, arXiv 2312.00858).

A key step runs everything and keeps one feature of the main path (section 3.3, equation 4). A follower runs the outer
shell: the encoder up to the skip with number `branch`, then the decoder from the layer that consumes that skip, on the
kept feature. Followers run one after another on their true latents.

Branch numbers are those of the published helper: 0 is the skip of `conv_in`. The paper's own numbering (resolution l,
layer j) is branch `3 l + j + 1` where down blocks have two layers. Branch 1 is the scope whose work arXiv 2509.00052
reports for its DeepCache rows.

Deviations:

* a layer is all its modules, so audio and temporal modules are skipped with the rest; the published helper knows only
  resnets and attentions and would run them;
* one tensor is kept, not the output of every wrapped module;
* a schedule of a public wrapper is refused where that wrapper would fail or could not start at step 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lcp_bench.accel.schedule import Plan, ScheduleConfig, grouped_plan, plan_of_keys
from lcp_bench.accel.scope import Scope, shell_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology

POWER_STEP = 0.02


class DeepCache(Strategy):
    """Reuse one deep feature, recompute the shallow shell."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of DeepCache.

        Attributes:
            timing: `shared` takes the key steps of `schedule`, the same for every method. The others are DeepCache's
                own: `uniform` (every `interval`-th step), `quad_center` (dense around `center`; the Stable Diffusion
                pipelines) and `quad` (dense at the noisy start; the latent diffusion wrapper).
            schedule: Key steps under `shared`.
            interval: Mean distance of the key steps under the own timings; 1 skips nothing.
            power: Exponent of `quad_center` and `quad`, above 1.
            center: Step around which `quad_center` is dense.
            branch: Number of the skip outside which everything is recomputed, 0 the cheapest.
        """

        timing: Literal["shared", "uniform", "quad_center", "quad"] = "shared"
        schedule: ScheduleConfig
        interval: int = 5
        power: float = 1.4
        center: int = 15
        branch: int = 1

        def __post_init__(self) -> None:
            if self.interval < 1:
                raise ConfigError(f"accel.interval must be 1 or more, got {self.interval}; 1 skips nothing")
            if self.power <= 1:
                raise ConfigError(f"accel.power must be above 1, got {self.power}; accel.timing=uniform is even")
            if self.center < 0:
                raise ConfigError(f"accel.center must be a step, 0 or more, got {self.center}")

    config: DeepCache.Config

    def plan(self, num_steps: int) -> Plan:
        """Key steps by the timing; sequential followers."""
        options = self.config
        if options.timing == "shared":
            return grouped_plan(options.schedule, num_steps, parallel=False)
        if options.timing == "uniform":
            return plan_of_keys(range(0, num_steps, options.interval), num_steps)
        if options.timing == "quad":
            return plan_of_keys(quad_keys(num_steps, options.interval, options.power), num_steps)
        return plan_of_keys(quad_center_keys(num_steps, options.interval, options.power, options.center)[0], num_steps)

    def validate(self, topology: Topology) -> None:
        """The branch must exist."""
        site_of_branch(topology, self.config.branch)

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """The shell outside the branch's skip."""
        return shell_scope(topology, site_of_branch(topology, self.config.branch))


def site_of_branch(topology: Topology, branch: int) -> str:
    """The up layer that consumes skip number `branch`; skips are numbered as the encoder makes them."""
    sites = [layer.name for layer in reversed(topology.layers) if layer.pops is not None]
    if not 0 <= branch < len(sites):
        raise ConfigError(f"accel.branch must be in 0..{len(sites) - 1} for this model, got {branch}")
    return sites[branch]


def quad_keys(num_steps: int, interval: int, power: float) -> tuple[int, ...]:
    """`quad`: evenly spaced in the `power`-th root of the step; near 0 several may fall together and count once."""
    count = math.ceil(num_steps / interval)
    end = num_steps ** (1 / power)
    return tuple(sorted({int((end * i / count) ** power) for i in range(count)}))


def quad_center_keys(num_steps: int, interval: int, power: float, center: int) -> tuple[tuple[int, ...], float]:
    """`quad_center`: key steps and the exponent that was used in the end.

    The public code takes the root of a negative number, which makes its grid complex: the principal root it is, and the
    real part of the powers. Where too few different steps come out it lowers the exponent until there are enough.

    Raises:
        ConfigError: The exponent would have to fall to 1, or the grid leaves the run.
    """
    count, tried = math.ceil(num_steps / interval), power
    while tried > 1:
        first, last = complex(-center) ** (1 / tried), complex(num_steps - center) ** (1 / tried)
        grid = [first + (last - first) * i / count for i in range(1, count)]
        keys = {0} | {center + int((point**tried).real) for point in grid}
        if len(keys) == count:
            if min(keys) < 0 or max(keys) >= num_steps:
                break
            return tuple(sorted(keys)), tried
        tried = round(tried - POWER_STEP, 10)
    raise ConfigError(
        f"no quad_center schedule of {count} key steps in {num_steps} for accel.power={power} and "
        f"accel.center={center}; use a larger power, another center, or accel.timing=uniform"
    )
