"""TaylorSeer (Liu et al., ICCV 2025, arXiv 2503.06923): forecast features instead of reusing them.

At every key step the finite differences of a feature are updated, D0 = feature, D(j+1) = (Dj - Dj before) / gap; a
follower that lies e steps ahead reads sum_j Dj e^j / j! (equations 5 to 7). Order 0 is plain reuse.

Deviations:

* the published form forecasts the output of every attention and feed-forward module of a transformer, while the rest
  runs. Here the input of one layer is forecast, and everything from that layer on runs: as much as LightningCP or
  DeepCache compute, with another feature. `site=out` is the published light form, only the last projection runs;
* a forecast is made for one step at a time, on true latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING, Literal

from lcp_bench.accel.reuse import ReadRule
from lcp_bench.accel.schedule import Plan, ScheduleConfig, grouped_plan, plan_of_keys
from lcp_bench.accel.scope import Scope, resume_scope, shell_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology

if TYPE_CHECKING:
    from torch import Tensor

LIGHT = "out"


class TaylorSeer(Strategy):
    """Forecast the feature of a follower from the differences of the key steps."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of TaylorSeer.

        Attributes:
            timing: `shared` takes the key steps of `schedule`, the same for every method; `every` is the published one:
                the first `warmup` steps, then every `interval`-th.
            schedule: Key steps under `shared`.
            warmup: First steps that are all key under `every`.
            interval: Distance of the key steps under `every`, after the warm-up; 1 skips nothing.
            full_from: Under `every`, all steps from this one on are key; null ends no sooner than the run.
            order: Order of the forecast, 0 reuses the newest feature.
            site: The layer whose input is forecast; `out` evaluates the last projection only.
        """

        timing: Literal["shared", "every"] = "shared"
        schedule: ScheduleConfig
        warmup: int = 3
        interval: int = 5
        full_from: int | None = None
        order: int = 1
        site: str = "up.3.2"

        def __post_init__(self) -> None:
            if self.warmup < 1:
                raise ConfigError(f"accel.warmup must be 1 or more, got {self.warmup}; the first step has no features")
            if self.interval < 1:
                raise ConfigError(f"accel.interval must be 1 or more, got {self.interval}; 1 skips nothing")
            if not 0 <= self.order <= 4:
                raise ConfigError(f"accel.order must be in 0..4, got {self.order}")

    config: TaylorSeer.Config

    def plan(self, num_steps: int) -> Plan:
        """Key steps by the timing; sequential followers."""
        options = self.config
        if options.timing == "shared":
            return grouped_plan(options.schedule, num_steps, parallel=False)
        return plan_of_keys(
            every_keys(num_steps, options.warmup, options.interval, options.full_from), num_steps, parallel=False
        )

    def validate(self, topology: Topology) -> None:
        """The site must exist."""
        self._scope(topology)

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """From the forecast feature to the end, with fresh skips."""
        return self._scope(topology)

    def read_rule(self) -> ReadRule:
        """Differences instead of the newest feature."""
        return TaylorForecast(self.config.order)

    def _scope(self, topology: Topology) -> Scope:
        site = self.config.site
        return resume_scope(topology, site) if site == LIGHT else shell_scope(topology, site)


class TaylorForecast:
    """Finite differences over key steps, and the series at a follower.

    Args:
        order: Highest difference that is kept; fewer are known after the first key steps.
    """

    def __init__(self, order: int) -> None:
        self.history = order

    def keep(self, older: tuple[Tensor, ...], value: Tensor, gap: int) -> tuple[Tensor, ...]:
        """See `ReadRule`."""
        differences = [value]
        for before in older[: self.history]:
            differences.append((differences[-1] - before) / gap)
        return tuple(differences)

    def read(self, held: tuple[Tensor, ...], ahead: int) -> Tensor:
        """See `ReadRule`."""
        forecast = held[0]
        for order, difference in enumerate(held[1:], start=1):
            forecast = forecast + difference * (ahead**order / factorial(order))
        return forecast


def every_keys(num_steps: int, warmup: int, interval: int, full_from: int | None = None) -> tuple[int, ...]:
    """The published key steps: the warm-up, then the last step of every `interval`, then all from `full_from` on."""

    def is_key(step: int) -> bool:
        late = full_from is not None and step >= full_from
        return late or step < warmup or (step - warmup - 1) % interval == 0

    return tuple(filter(is_key, range(num_steps)))
