"""Faster Diffusion (Li et al., NeurIPS 2024, arXiv 2312.09608): encoder propagation.

A key step evaluates the encoder and keeps all skips and the output of the mid block (section 3.2). Followers evaluate
the decoder only, on these features and with their own time embedding. They do not read their latents at all, so the
followers of a group decode as one batch (section 3.3). Prior noise injection (section 3.4) adds a little of the initial
noise to the latents of the late steps.

Deviations:

* a key step is decoded together with its encoder, its followers as one batch after it; the published form decodes all
  of them in one call. Same arithmetic, one call more;
* where the noise is added follows the two published forms: in the sequential one before the network, which a key step's
  encoder sees, in the parallel one between the network and the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Literal

from lcp_bench.accel.schedule import Plan, ScheduleConfig, grouped_plan, plan_of_keys
from lcp_bench.accel.scope import Scope, decoder_scope
from lcp_bench.accel.strategy import NoiseInjection, Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology

LATE = 500.0
"""Noise is injected at timesteps below this one, t / 1000 < 0.5."""


def _is_square(number: int) -> bool:
    return isqrt(number) ** 2 == number


LISTS: dict[str, Callable[[int], bool]] = {
    "50ls": (0, 1, 2, 3, 5, 10, 15, 25, 35).__contains__,
    "50ls2": (0, 10, 11, 12, 15, 20, 25, 30, 35, 45).__contains__,
    "50ls3": (0, 20, 25, 30, 35, 45, 46, 47, 48, 49).__contains__,
    "50ls4": (0, 9, 13, 14, 15, 28, 29, 32, 36, 45).__contains__,
    "pro": lambda step: _is_square(9 + 8 * step),
    "100ls": lambda step: step < 10 or step > 85 or step % 5 == 0,
    "75ls": lambda step: step < 10 or step > 65 or step % 5 == 0,
    "s2": lambda step: step < 20 or step > 40 or step % 2 == 0,
}
"""The public code's named lists as tests of a step index; they do not scale with the number of steps."""

Timing = Literal["shared", "every", "50ls", "50ls2", "50ls3", "50ls4", "pro", "100ls", "75ls", "s2"]


class FasterDiffusion(Strategy):
    """Encoder at key steps, decoder at all steps."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of Faster Diffusion.

        Attributes:
            timing: `shared` takes the key steps of `schedule`, the same for every method; `every` is every
                `interval`-th step; the others are the public code's lists of step indices, cut off at the last step.
            schedule: Key steps under `shared`.
            interval: Distance of the key steps under `every`; 1 skips nothing.
            parallel: Decode the followers of a group as one batch.
            decoder_batch: Largest such batch, for small GPUs; null decodes a whole group at once. Changes no result.
            prior_noise: Weight of the initial noise that is added at timesteps below 500; 0 adds none.
        """

        timing: Timing = "shared"
        schedule: ScheduleConfig
        interval: int = 5
        parallel: bool = True
        decoder_batch: int | None = None
        prior_noise: float = 0.003

        def __post_init__(self) -> None:
            if self.interval < 1:
                raise ConfigError(f"accel.interval must be 1 or more, got {self.interval}; 1 skips nothing")
            if self.decoder_batch is not None and self.decoder_batch < 1:
                raise ConfigError(f"accel.decoder_batch must be 1 or more or null, got {self.decoder_batch}")
            if self.prior_noise < 0:
                raise ConfigError(f"accel.prior_noise must be 0 or more, got {self.prior_noise}")

    config: FasterDiffusion.Config

    def plan(self, num_steps: int) -> Plan:
        """Key steps by the timing."""
        options = self.config
        if options.timing == "shared":
            return grouped_plan(options.schedule, num_steps, parallel=options.parallel)
        return plan_of_keys(
            key_steps(options.timing, num_steps, options.interval), num_steps, parallel=options.parallel
        )

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """All up layers on recorded skips."""
        return decoder_scope(topology)

    def largest_batch(self) -> int | None:
        """See `Config.decoder_batch`."""
        return self.config.decoder_batch

    def injection(self) -> NoiseInjection | None:
        """Initial noise for late steps; the sequential form adds it before the network, the parallel one after."""
        weight = self.config.prior_noise
        return NoiseInjection(weight=weight, below=LATE, before_network=not self.config.parallel) if weight else None


def key_steps(timing: str, num_steps: int, interval: int) -> tuple[int, ...]:
    """Key steps of `every` or of a named list."""
    if timing == "every":
        return tuple(range(0, num_steps, interval))
    return tuple(filter(LISTS[timing], range(num_steps)))
