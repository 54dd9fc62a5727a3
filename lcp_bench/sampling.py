"""The sampling loop: one for all models and strategies.

It walks the plan's groups, tells every layer the step, evaluates a parallel group's followers as one batch, applies the
scheduler in order, and owns the feature cache, which is born with a segment and dies with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lcp_bench.accel.schedule import Group, Plan
from lcp_bench.accel.scope import Scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import EngagementError
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.topology import Topology
from lcp_bench.models.unet import UNet
from lcp_bench.schedulers import StepScheduler

OnStep = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """Outcome of one segment.

    Attributes:
        latents: Final latents (1, C, frames, h, w), float32.
        engagement: What was computed and reused, per step and layer.
        cache_bytes: Largest size of the feature cache.
    """

    latents: Tensor
    engagement: Engagement
    cache_bytes: int


class Sampler:
    """Denoises segments of one run.

    Args:
        unet: The denoising UNet.
        strategy: The acceleration strategy.
        plan: The strategy's checked plan.
        scheduler: Scheduler whose grid has the plan's number of steps.
        guidance_scale: Classifier-free guidance; predictions are `u + scale * (c - u)`. Used with two branches only.
    """

    def __init__(
        self, unet: UNet, strategy: Strategy, plan: Plan, scheduler: StepScheduler, guidance_scale: float
    ) -> None:
        self.unet, self.strategy, self.plan, self.scheduler = unet, strategy, plan, scheduler
        self.guidance_scale = guidance_scale
        self.time = unet.embed_time(scheduler.timesteps)
        self.scopes: dict[int, Scope] = {
            step: strategy.follower_scope(step, plan, unet.topology)
            for group in plan.groups
            for step in group.followers
        }

    @torch.inference_mode()
    def denoise(self, latents: Tensor, conditions: Conditions, on_step: OnStep | None = None) -> SegmentResult:
        """Denoise one segment.

        Args:
            latents: Noise (1, C, frames, h, w), float32.
            conditions: Constants of the segment.
            on_step: Called with (step, latents after it), for tests and progress; must not move data to the host.

        Raises:
            EngagementError: What ran differs from the plan.
        """
        engagement = Engagement()
        with FeatureCache() as cache:
            for group in self.plan.groups:
                latents = self._run_group(group, latents, conditions, cache, engagement, on_step)
            peak = cache.peak_bytes
        check_engagement(engagement, self.plan, self.scopes, self.unet.topology)
        return SegmentResult(latents, engagement, peak)

    def _run_group(
        self,
        group: Group,
        latents: Tensor,
        conditions: Conditions,
        cache: FeatureCache,
        engagement: Engagement,
        on_step: OnStep | None,
    ) -> Tensor:
        topology = self.unet.topology
        record = [name for step in group.followers for name in self.scopes[step].reads(topology)]
        cache.replace({})  # the older features would sit in memory through the whole key step
        prediction = self._guide(
            self.unet(
                latents[:, None],
                self.time[group.key : group.key + 1],
                conditions,
                steps=(group.key,),
                cache=cache,
                record=tuple(dict.fromkeys(record)),
                engagement=engagement,
            )
        )
        state = self.scheduler.apply(latents, prediction, group.key)
        _report(on_step, group.key, state)
        if group.parallel:
            estimator = self.strategy.estimator(group, self.plan)
            inputs = estimator.inputs(self.scheduler, latents, prediction, state, group)
            predictions = self._evaluate_together(group.followers, inputs, conditions, cache, engagement)
            for step, prediction in zip(group.followers, predictions, strict=True):
                state = self.scheduler.apply(state, prediction, step)
                _report(on_step, step, state)
            return state
        for step in group.followers:
            (prediction,) = self._evaluate_together((step,), [state], conditions, cache, engagement)
            state = self.scheduler.apply(state, prediction, step)
            _report(on_step, step, state)
        return state

    def _evaluate_together(
        self,
        steps: Sequence[int],
        inputs: Sequence[Tensor],
        conditions: Conditions,
        cache: FeatureCache,
        engagement: Engagement,
    ) -> list[Tensor]:
        """Guided predictions of followers, one batch per run of equal scopes."""
        predictions: list[Tensor] = []
        start = 0
        while start < len(steps):
            scope = self.scopes[steps[start]]
            stop = start + 1
            while stop < len(steps) and self.scopes[steps[stop]] == scope:
                stop += 1
            batch = self.unet(
                torch.stack(list(inputs[start:stop]), dim=1),
                self.time[steps[start] : steps[stop - 1] + 1],
                conditions,
                steps=steps[start:stop],
                scope=scope,
                cache=cache,
                engagement=engagement,
            )
            predictions += self._guide(batch).unsqueeze(1).unbind(0)
            start = stop
        return predictions

    def _guide(self, branches: Tensor) -> Tensor:
        """(branches, members, C, frames, h, w) to guided predictions (members, C, frames, h, w), float32."""
        if branches.shape[0] == 1:
            return branches[0].float()
        unconditional, conditional = branches.float()
        return unconditional + self.guidance_scale * (conditional - unconditional)


def _report(on_step: OnStep | None, step: int, latents: Tensor) -> None:
    if on_step is not None:
        on_step(step, latents)


def expected_engagement(plan: Plan, scopes: dict[int, Scope], topology: Topology) -> Engagement:
    """The counters that a segment must end with."""
    expected = Engagement()
    for group in plan.groups:
        for layer in topology.names:
            expected.compute((group.key,), layer)
        for step in group.followers:
            scope = scopes[step]
            for layer in topology.names:
                if layer in scope.evaluated:
                    expected.compute((step,), layer)
            for feature in scope.reads(topology):
                expected.reuse((step,), feature)
    return expected


def check_engagement(engagement: Engagement, plan: Plan, scopes: dict[int, Scope], topology: Topology) -> None:
    """Compare what ran with the plan.

    Raises:
        EngagementError: A layer ran too often, too rarely, or a feature was not reused as planned.
    """
    expected = expected_engagement(plan, scopes, topology)
    for kind in ("computed", "reused"):
        got, wanted = getattr(engagement, kind), getattr(expected, kind)
        if got != wanted:
            differing = [key for key in {*got, *wanted} if got[key] != wanted[key]]
            step, name = min(differing)
            raise EngagementError(
                f"step {step}: {name} was {kind} {got[(step, name)]} times, the plan says {wanted[(step, name)]} "
                f"({len(differing)} such differences); the run's numbers are void"
            )
