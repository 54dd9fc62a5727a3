"""Input latents for parallel followers (LightningCP, arXiv 2509.00052, equation 6a).

A group's followers run before their true latents exist. `HoldLatents` gives all of them the latents right after the key
step; `HoldNoise` and `HoldOutput` walk the scheduler ahead with what the key step predicted. None of them touches the
scheduler's state or a random generator. The first follower's input is always exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from lcp_bench.accel.schedule import Group
    from lcp_bench.schedulers import StepScheduler


class InputEstimator(Protocol):
    """Latents on which each follower of a group is evaluated."""

    def inputs(
        self, scheduler: StepScheduler, key_latents: Tensor, key_prediction: Tensor, next_latents: Tensor, group: Group
    ) -> list[Tensor]:
        """One latent per follower.

        Args:
            scheduler: The sampler's scheduler.
            key_latents: Latents entering the key step, any shape.
            key_prediction: The guided prediction of the key step, same shape.
            next_latents: The exact latents after the key step.
            group: The key step and its followers.
        """
        ...


class HoldLatents:
    """Every follower sees the latents right after the key step."""

    def inputs(
        self, scheduler: StepScheduler, key_latents: Tensor, key_prediction: Tensor, next_latents: Tensor, group: Group
    ) -> list[Tensor]:
        """See `InputEstimator`."""
        return [next_latents] * len(group.followers)


class HoldOutput:
    """The network's raw output stays what it was at the key step; first-order for v-prediction."""

    def inputs(
        self, scheduler: StepScheduler, key_latents: Tensor, key_prediction: Tensor, next_latents: Tensor, group: Group
    ) -> list[Tensor]:
        """See `InputEstimator`."""
        estimates = [next_latents]
        for step in group.followers[:-1]:
            estimates.append(scheduler.apply(estimates[-1], key_prediction, step))
        return estimates[: len(group.followers)]


class HoldNoise:
    """The noise implied by the key prediction stays constant; exact if the network predicted it perfectly."""

    def inputs(
        self, scheduler: StepScheduler, key_latents: Tensor, key_prediction: Tensor, next_latents: Tensor, group: Group
    ) -> list[Tensor]:
        """See `InputEstimator`."""
        if not group.followers:
            return []
        ahead = scheduler.walk_with_held_noise(key_latents, key_prediction, group.key, group.followers[:-1])
        return [next_latents, *ahead]
