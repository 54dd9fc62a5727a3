"""The sampling loop: one for all models and strategies.

It takes turns: a key step, a follower, or a parallel group's followers as one batch; they come from the plan's groups,
or from a gate where the plan is open. It tells every layer the step, applies the scheduler in order, and owns the
feature cache, which is born with a segment and dies with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from lcp_bench.accel.gate import Decisions, Fork, Move
from lcp_bench.accel.recording import recording_of
from lcp_bench.accel.reference import unread_references
from lcp_bench.accel.schedule import Group, Plan
from lcp_bench.accel.scope import Scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import EngagementError
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.topology import Topology
from lcp_bench.models.unet import UNet
from lcp_bench.models.windowed import WindowedUNet
from lcp_bench.parallel import Ranks
from lcp_bench.schedulers import StepScheduler

OnStep = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """Outcome of one segment.

    Attributes:
        latents: Final latents (1, C, frames, h, w), float32.
        engagement: What was computed and reused, per step and layer.
        cache_bytes: Largest size of the feature cache.
        decisions: What was decided at run time, with the plan that came out; None if the plan was fixed before.
    """

    latents: Tensor
    engagement: Engagement
    cache_bytes: int
    decisions: Decisions | None = None


class Sampler:
    """Denoises segments of one run.

    Args:
        unet: The denoising UNet.
        strategy: The acceleration strategy.
        plan: The strategy's checked plan.
        scheduler: Scheduler whose grid has the plan's number of steps.
        guidance_scale: Classifier-free guidance; predictions are `u + scale * (c - u)`. Used with two branches only.
        ranks: The processes that share a parallel group's followers; by default this one alone.
    """

    def __init__(
        self,
        unet: UNet | WindowedUNet,
        strategy: Strategy,
        plan: Plan,
        scheduler: StepScheduler,
        guidance_scale: float,
        ranks: Ranks | None = None,
    ) -> None:
        self.unet, self.strategy, self.plan, self.scheduler = unet, strategy, plan, scheduler
        self.guidance_scale = guidance_scale
        self.ranks = ranks or Ranks()
        self.time = unet.embed_time(scheduler.timesteps)
        self.scopes: dict[int, Scope] = {
            step: strategy.follower_scope(step, plan, unet.topology) for step in strategy.may_follow(plan)
        }
        self.key_scope: Scope | None = strategy.key_scope(unet.topology)

    @property
    def unread_references(self) -> frozenset[str]:
        """Layers whose reference features no step of the plan reads, so that nobody need compute them."""
        return unread_references((self.key_scope, *self.scopes.values()), self.unet.topology)

    def batches(self, steps: Sequence[int]) -> Iterator[Sequence[int]]:
        """Parallel followers, cut where the scope changes: what is evaluated together, and shared out over ranks."""
        for _, alike in groupby(steps, key=self.scopes.__getitem__):
            yield tuple(alike)

    @property
    def split_steps(self) -> frozenset[int]:
        """Steps that are shared out over ranks, if there are several; every rank evaluates all others."""
        groups = [group.followers for group in self.plan.groups if group.parallel]
        batches = [batch for followers in groups for batch in self.batches(followers)]
        return frozenset(step for batch in batches if len(batch) > 1 for step in batch)

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
        with FeatureCache(self.strategy.read_rule()) as cache:
            segment = _Segment(self, latents, conditions, cache, on_step)
            for turn in segment.turns():
                segment.take(turn)
        decisions = None if segment.gate is None else segment.gate.decisions()
        plan = self.plan if decisions is None else decisions.plan
        final, engagement = self.ranks.settle(segment.state, segment.engagement, self.split_steps)
        check_engagement(engagement, plan, self.scopes, self.unet.topology, self.key_scope)
        return SegmentResult(final, engagement, cache.peak_bytes, decisions)

    def guide(self, branches: Tensor) -> Tensor:
        """(branches, members, C, frames, h, w) to guided predictions (members, C, frames, h, w), float32."""
        if branches.shape[0] == 1:
            return branches[0].float()
        unconditional, conditional = branches.float()
        return unconditional + self.guidance_scale * (conditional - unconditional)


@dataclass(frozen=True, slots=True)
class _Turn:
    """Steps that are evaluated together, and how; `group` is the planned one, if the plan is not open."""

    steps: tuple[int, ...]
    move: Move
    group: Group | None = None


@dataclass(frozen=True, slots=True)
class _Key:
    """The newest key step: latents before it, its guided prediction, latents after it."""

    latents: Tensor
    prediction: Tensor
    after: Tensor


class _Segment:
    """State of one segment: latents, features, counters, and the gate of an open plan."""

    def __init__(
        self, sampler: Sampler, noise: Tensor, conditions: Conditions, cache: FeatureCache, on_step: OnStep | None
    ) -> None:
        self.sampler, self.conditions, self.cache, self.on_step = sampler, conditions, cache, on_step
        self.noise = self.state = noise
        self.engagement = Engagement()
        plan, strategy = sampler.plan, sampler.strategy
        self.gate = strategy.gate(plan, sampler.unet.topology) if plan.open else None
        self.recording = recording_of(strategy, plan, sampler.unet.topology)
        self.injection = strategy.injection()
        self.key: _Key | None = None

    def turns(self) -> Iterator[_Turn]:
        """What is evaluated, in order; the turns of an open plan are decided one by one."""
        if self.gate is not None:
            for step in range(self.sampler.plan.num_steps):
                yield _Turn((step,), self.gate.move(step))
            return
        for group in self.sampler.plan.groups:
            yield _Turn((group.key,), "compute", group)
            if group.parallel:
                yield _Turn(group.followers, "reuse", group)
            else:
                yield from (_Turn((step,), "reuse", group) for step in group.followers)

    def take(self, turn: _Turn) -> None:
        """Evaluate the turn's steps, then apply the scheduler in order."""
        injected = self.injection is not None and self.injection.before_network and len(turn.steps) == 1
        if injected:
            self.state = self._with_noise(turn.steps[0])
        predictions = self._follow(turn) if turn.move == "reuse" else [self._compute(turn)]
        for step, prediction in zip(turn.steps, predictions, strict=True):
            before = self.state if injected else self._with_noise(step)
            after = self.sampler.scheduler.apply(before, prediction, step)
            if turn.move != "reuse":
                self.key = _Key(self.state, prediction, after)
            self.state = after
            if self.on_step is not None:
                self.on_step(step, after)

    def _with_noise(self, step: int) -> Tensor:
        injection = self.injection
        if injection is None or self.sampler.scheduler.timesteps[step] >= injection.below:
            return self.state
        return self.state + injection.weight * self.noise

    def _compute(self, turn: _Turn) -> Tensor:
        """Guided prediction of the full network, which may turn into a follower's on the way if a gate is asked."""
        sampler, (step,) = self.sampler, turn.steps
        fork = self._fork(step) if turn.move == "ask" else None
        record = self.recording.at(step)
        if fork is None:
            self.cache.make_room()
        elif fork.probe not in record:
            record += (fork.probe,)  # nobody follows the last step, but it is asked too
        prediction = sampler.unet(
            self.state[:, None],
            sampler.time[step : step + 1],
            self.conditions,
            steps=(step,),
            scope=sampler.key_scope,
            cache=self.cache,
            record=record,
            engagement=self.engagement,
            fork=fork,
        )
        self._tell_gate(step, reused=fork is not None and fork.reused)
        return sampler.guide(prediction)

    def _fork(self, step: int) -> Fork:
        gate = self.gate
        assert gate is not None and gate.probe is not None
        return Fork(gate.probe, self.sampler.scopes[step], lambda now, then: gate.reuses(step, now, then))

    def _tell_gate(self, step: int, *, reused: bool) -> None:
        if self.gate is None:
            return
        if reused:
            self.gate.reused(step)
            return
        probe = None
        if self.gate.probe is not None and self.gate.probe in self.recording.at(step):
            probe = self.cache.read(self.gate.probe).unflatten(0, (self.conditions.branches, self.conditions.frames))
        self.gate.computed(step, probe)

    def _follow(self, turn: _Turn) -> list[Tensor]:
        """Guided predictions of followers."""
        inputs: Sequence[Tensor] = [self.state]
        if turn.group is not None and turn.group.parallel:
            assert self.key is not None
            estimator = self.sampler.strategy.estimator(turn.group, self.sampler.plan)
            scheduler, key = self.sampler.scheduler, self.key
            inputs = estimator.inputs(scheduler, key.latents, key.prediction, key.after, turn.group)
        if self.gate is not None:
            self.gate.reused(turn.steps[0])
        return self._evaluate_together(turn.steps, inputs)

    def _evaluate_together(self, steps: Sequence[int], inputs: Sequence[Tensor]) -> list[Tensor]:
        """One batch per run of equal scopes and rank, and no larger than the strategy allows."""
        ranks = self.sampler.ranks
        predictions: list[Tensor] = []
        for alike in self.sampler.batches(steps):
            own = [len(predictions) + member for member in ranks.share(len(alike))]
            largest = self.sampler.strategy.largest_batch() or len(steps)
            cuts = [own[start : start + largest] for start in range(0, len(own), largest)]
            done = [each for cut in cuts for each in self._evaluate(steps, inputs, cut)]
            predictions += ranks.gather(done, len(alike), inputs[0])
        return predictions

    def _evaluate(self, steps: Sequence[int], inputs: Sequence[Tensor], members: Sequence[int]) -> Sequence[Tensor]:
        """Guided predictions of neighbouring members that share a scope, as one batch."""
        sampler, first, last = self.sampler, members[0], members[-1]
        batch = sampler.unet(
            torch.stack(list(inputs[first : last + 1]), dim=1),
            sampler.time[steps[first] : steps[last] + 1],
            self.conditions,
            steps=steps[first : last + 1],
            scope=sampler.scopes[steps[first]],
            cache=self.cache,
            engagement=self.engagement,
        )
        return sampler.guide(batch).unsqueeze(1).unbind(0)


def expected_engagement(
    plan: Plan, scopes: dict[int, Scope], topology: Topology, key_scope: Scope | None = None
) -> Engagement:
    """The counters that a segment must end with."""
    expected = Engagement()
    for group in plan.groups:
        for layer in topology.names:
            expected.compute((group.key,), layer)
        for feature in key_scope.drops(topology) if key_scope else ():
            expected.drop((group.key,), feature)
        for step in group.followers:
            scope = scopes[step]
            for layer in topology.names:
                if layer in scope.evaluated:
                    expected.compute((step,), layer)
            for feature in scope.reads(topology):
                expected.reuse((step,), feature)
            for feature in scope.drops(topology):
                expected.drop((step,), feature)
    return expected


def check_engagement(
    engagement: Engagement, plan: Plan, scopes: dict[int, Scope], topology: Topology, key_scope: Scope | None = None
) -> None:
    """Compare what ran with the plan.

    Raises:
        EngagementError: A layer ran too often, too rarely, or a feature was not reused as planned.
    """
    expected = expected_engagement(plan, scopes, topology, key_scope)
    for kind in ("computed", "reused", "dropped"):
        got, wanted = getattr(engagement, kind), getattr(expected, kind)
        if got != wanted:
            differing = [key for key in {*got, *wanted} if got[key] != wanted[key]]
            step, name = min(differing)
            raise EngagementError(
                f"step {step}: {name} was {kind} {got[(step, name)]} times, the plan says {wanted[(step, name)]} "
                f"({len(differing)} such differences); the run's numbers are void"
            )
