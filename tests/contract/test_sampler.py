"""The sampling loop: order, estimates, guidance, counters. Partly on a network whose noise prediction never changes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from family import Draw, random_conditions, seeded_unet
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import Group, Plan, ScheduleConfig
from lcp_bench.accel.scope import Scope, decoder_scope, shell_scope
from lcp_bench.accel.strategy import NoAcceleration, Strategy
from lcp_bench.errors import EngagementError
from lcp_bench.models.conditions import Conditions, SiteConditions
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.features import Engagement
from lcp_bench.models.topology import Topology, unet_topology
from lcp_bench.models.unet import UNet
from lcp_bench.sampling import Sampler, check_engagement, expected_engagement
from lcp_bench.schedulers import DDIM

SMALL = unet_topology(2, 2)
SHAPE = (1, 4, 4, 8, 8)


def lcp(key_steps: Any, **options: Any) -> LightningCP:
    """LightningCP at the last up layer of the small network."""
    options.setdefault("site", "up.1.2")
    return LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=key_steps), **options))


def make(unet: Any, strategy: Strategy, steps: int, guidance: float = 3.5, topology: Topology = SMALL) -> Sampler:
    """A sampler on Hallo's scheduler."""
    plan = strategy.check(topology, num_steps=steps, eta=0.0)
    return Sampler(unet, strategy, plan, DDIM(plan.num_steps), guidance)


class ConstantNoise:
    """Stands in for a UNet: predicts v such that the implied noise is the same at every step, and logs its calls."""

    topology = SMALL

    def __init__(self, steps: int, noise: Tensor, clean: Tensor, branches: int) -> None:
        self.scheduler, self.noise, self.clean, self.branches = DDIM(steps), noise, clean, branches
        self.calls: list[tuple[int, ...]] = []

    def embed_time(self, timesteps: tuple[float, ...]) -> Tensor:
        """The timesteps themselves, so that a call can be checked for its times."""
        return torch.tensor(timesteps)[:, None]

    def __call__(
        self, latents: Tensor, time: Tensor, conditions: Conditions, *, steps: tuple[int, ...], engagement: Engagement,
        scope: Scope | None = None, **_: object,
    ) -> Tensor:  # fmt: skip
        self.calls.append(tuple(steps))
        assert time[:, 0].tolist() == [self.scheduler.timesteps[step] for step in steps]
        members = []
        for member, step in enumerate(steps):
            alpha = self.scheduler.alphas_cumprod[int(time[member, 0])]
            x = latents[0, member]
            v = -self.clean if alpha == 0 else (self.noise - (1 - alpha).sqrt() * x) / alpha.sqrt()
            members.append(v)
            for layer in SMALL.names if scope is None else scope.evaluated:
                engagement.compute((step,), layer)
            for feature in () if scope is None else scope.reads(SMALL):
                engagement.reuse((step,), feature)
        return torch.stack(members)[None].expand(self.branches, -1, -1, -1, -1, -1)


@pytest.mark.parametrize("steps", [12, 20, 40])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_constant_noise_makes_parallel_and_sequential_equal(steps: int, count: int) -> None:
    """For any size of group, on grids that divide 1000 or do not (12): estimates are then exact."""
    draw = Draw(steps)
    noise, clean = draw(*SHAPE)[0], draw(*SHAPE)[0]
    results = []
    for strategy in (lcp(count, estimate_from_step=0), lcp(count, parallel=False), NoAcceleration()):
        unet = ConstantNoise(steps, noise, clean, branches=1)
        results.append(make(unet, strategy, steps).denoise(noise[None], random_empty()).latents)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[0], results[2], rtol=1e-4, atol=1e-4)
    if 1000 % steps == 0:
        torch.testing.assert_close(results[0][0], clean, rtol=1e-3, atol=1e-3)


def random_empty(branches: int = 1) -> Conditions:
    """Conditions that nobody reads."""
    return Conditions(branches, 4, {})


def test_one_call_per_key_step_and_one_per_group() -> None:
    draw = Draw(1)
    unet = ConstantNoise(8, draw(*SHAPE)[0], draw(*SHAPE)[0], branches=2)
    make(unet, lcp([0, 1, 5]), 8).denoise(draw(*SHAPE), random_empty(2))
    assert unet.calls == [(0,), (1,), (2, 3, 4), (5,), (6, 7)]
    unet.calls.clear()
    make(unet, lcp([0, 1, 5], parallel=False), 8).denoise(draw(*SHAPE), random_empty(2))
    assert unet.calls == [(step,) for step in range(8)]


class TwoScopes(Strategy):
    """Followers of one parallel group with different scopes."""

    def plan(self, num_steps: int) -> Plan:
        """One group."""
        return Plan(num_steps, (Group(0, tuple(range(1, num_steps)), parallel=True),))

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """The decoder for steps 3 and 4, else the shell."""
        return decoder_scope(topology) if step in (3, 4) else shell_scope(topology, "up.1.2")


def test_a_parallel_group_is_split_where_scopes_change(small_unet: UNet) -> None:
    draw = Draw(1)
    unet = ConstantNoise(7, draw(*SHAPE)[0], draw(*SHAPE)[0], branches=1)
    make(unet, TwoScopes(None), 7).denoise(draw(*SHAPE), random_empty())
    assert unet.calls == [(0,), (1, 2), (3, 4), (5, 6)]
    result = make(small_unet, TwoScopes(None), 7).denoise(draw(*SHAPE), random_conditions(small_unet))
    assert result.engagement.computed[(3, "up.0.0")] == 1
    assert result.engagement.computed[(5, "up.0.0")] == 0


# ------------------------------------------------------------------ against a plain loop


def plain_loop(unet: UNet, latents: Tensor, conditions: Conditions, steps: int, guidance: float) -> list[Tensor]:
    """The textbook loop."""
    scheduler = DDIM(steps)
    times = unet.embed_time(scheduler.timesteps)
    states = []
    for step in range(steps):
        branches = unet(latents[:, None], times[step, None], conditions)[:, 0]
        prediction = branches[-1:]
        if len(branches) == 2:
            prediction = branches[:1] + guidance * (branches[1:] - branches[:1])
        latents = scheduler.apply(latents, prediction, step)
        states.append(latents)
    return states


@pytest.mark.parametrize("branches", [1, 2])
@torch.inference_mode()
def test_no_acceleration_is_the_plain_loop(branches: int, small_unet: UNet) -> None:
    latents, conditions = Draw(2)(*SHAPE), random_conditions(small_unet, branches=branches)
    seen: list[Tensor] = []
    sampler = make(small_unet, NoAcceleration(), 5)
    result = sampler.denoise(latents, conditions, lambda _step, state: seen.append(state))
    want = plain_loop(small_unet, latents, conditions, 5, 3.5)
    assert all(torch.equal(a, b) for a, b in zip(seen, want, strict=True))
    assert torch.equal(result.latents, want[-1])
    assert result.cache_bytes == 0


@torch.inference_mode()
def test_guidance_scale_matters_with_two_branches_only(small_unet: UNet) -> None:
    latents = Draw(2)(*SHAPE)
    for branches, equal in ((1, True), (2, False)):
        conditions = random_conditions(small_unet, branches=branches)
        low, high = (
            make(small_unet, NoAcceleration(), 3, scale).denoise(latents, conditions).latents for scale in (1.5, 4.0)
        )
        assert torch.equal(low, high) is equal


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("hold", ["noise", "output"])
def test_parallel_equals_sequential_with_one_follower(branches: int, hold: str, small_unet: UNet) -> None:
    """The first follower's input is exact, so alternating key steps leave nothing to estimate."""
    latents, conditions = Draw(2)(*SHAPE), random_conditions(small_unet, branches=branches)
    keys = [0, 2, 4, 6]
    together, alone = (
        make(small_unet, lcp(keys, parallel=parallel, hold=hold), 8).denoise(latents, conditions)
        for parallel in (True, False)
    )
    assert torch.equal(together.latents, alone.latents)
    assert together.engagement.computed == alone.engagement.computed
    assert together.engagement.reused == alone.engagement.reused


@pytest.mark.parametrize("estimate", [True, False])
def test_parallel_equals_a_loop_on_the_same_estimates(estimate: bool, small_unet: UNet) -> None:
    """Equation 6b by hand: followers on estimated inputs, one by one, the scheduler on true latents in order."""
    steps, keys = 8, [0, 3]
    strategy = lcp(keys, estimate=estimate, estimate_from_step=0)
    latents, conditions = Draw(2)(*SHAPE), random_conditions(small_unet)
    got = make(small_unet, strategy, steps).denoise(latents, conditions).latents
    want = by_hand(small_unet, strategy, latents, conditions, steps)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    sequential = make(small_unet, lcp(keys, parallel=False), steps).denoise(latents, conditions).latents
    assert (sequential - want).abs().max() > 1e-3, "the estimate must matter here, or the test shows nothing"


@torch.inference_mode()
def by_hand(unet: UNet, strategy: LightningCP, state: Tensor, conditions: Conditions, steps: int) -> Tensor:
    """The same run without batches, the sampler, or its cache."""
    scheduler, plan = DDIM(steps), strategy.plan(steps)
    scope = shell_scope(SMALL, "up.1.2")
    kept: dict[str, Tensor] = {}

    def predict(latents: Tensor, step: int, **how: Any) -> Tensor:
        u, c = unet(latents[:, None], unet.embed_time([scheduler.timesteps[step]]), conditions, **how)[:, 0, None]
        return u + 3.5 * (c - u)

    class Kept:
        def replace(self, features: dict[str, Tensor], _step: int) -> None:
            kept.update(features)

        def read(self, name: str, _steps: Sequence[int]) -> Tensor:
            return kept[name]

    for group in plan.groups:
        prediction = predict(state, group.key, cache=Kept(), record=("up.1.2:in",))
        following = scheduler.apply(state, prediction, group.key)
        inputs = strategy.estimator(group, plan).inputs(scheduler, state, prediction, following, group)
        state = following
        for step, estimate in zip(group.followers, inputs, strict=True):
            state = scheduler.apply(state, predict(estimate, step, scope=scope, cache=Kept()), step)
    return state


# ------------------------------------------------------------------ engagement


def test_engagement_is_the_plan(small_unet: UNet) -> None:
    sampler = make(small_unet, lcp([0, 1, 4]), 6)
    result = sampler.denoise(Draw(2)(*SHAPE), random_conditions(small_unet))
    expected: Counter[tuple[int, str]] = Counter()
    for step in range(6):
        layers = SMALL.names if step in (0, 1, 4) else ("conv_in", "up.1.2", "out")
        expected.update((step, layer) for layer in layers)
    assert result.engagement.computed == expected
    assert result.engagement.reused == {(step, "up.1.2:in"): 1 for step in (2, 3, 5)}
    assert result.cache_bytes == 2 * 4 * 32 * 8 * 8 * 4
    totals = result.engagement.per_layer()
    assert totals["computed"]["mid"] == 3
    assert totals["computed"]["out"] == 6
    assert totals["reused"] == {"up.1.2:in": 3}


class Disobedient:
    """A UNet that does something else than told, for chosen calls."""

    def __init__(self, unet: UNet, **change: Any) -> None:
        self.unet, self.change, self.topology = unet, change, unet.topology

    def embed_time(self, timesteps: tuple[float, ...]) -> Tensor:
        """As the network."""
        return self.unet.embed_time(timesteps)

    def __call__(self, *args: Any, **told: Any) -> Tensor:
        if told.get("scope") is not None:
            told |= self.change
        return self.unet(*args, **told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": None}, r"step 2: .* was computed 1 times, the plan says 0"),
        ({"steps": (2,)}, r"step 3: .* was computed 0 times, the plan says 1"),
        ({"engagement": None}, r"step 2: .* was computed 0 times, the plan says 1"),
        ({"scope": shell_scope(SMALL, "up.1.1")}, "feature 'up.1.1:in' was not recorded"),
    ],
    ids=["everything", "one step only", "uncounted", "another scope"],
)
def test_whoever_leaves_the_plan_is_caught(change: dict[str, Any], message: str, small_unet: UNet) -> None:
    sampler = make(Disobedient(small_unet, **change), lcp([0, 1]), 4)
    with pytest.raises(EngagementError, match=message):
        sampler.denoise(Draw(2)(*SHAPE), random_conditions(small_unet))


def test_a_plan_changed_on_the_way_is_caught(small_unet: UNet) -> None:
    sampler, other = make(small_unet, lcp([0, 1]), 4), make(small_unet, lcp([0, 2]), 4)

    def tamper(step: int, _latents: Tensor) -> None:
        if step == 3:
            sampler.plan, sampler.scopes = other.plan, other.scopes

    with pytest.raises(EngagementError, match="the run's numbers are void"):
        sampler.denoise(Draw(2)(*SHAPE), random_conditions(small_unet), tamper)


@pytest.mark.parametrize("kind", ["computed", "reused"])
@pytest.mark.parametrize("change", [1, -1])
def test_one_wrong_count_is_enough(kind: str, change: int) -> None:
    strategy = lcp([0, 2])
    plan = strategy.plan(4)
    scopes = {step: strategy.follower_scope(step, plan, SMALL) for step in (1, 3)}
    counted = expected_engagement(plan, scopes, SMALL)
    check_engagement(counted, plan, scopes, SMALL)
    name = "out" if kind == "computed" else "up.1.2:in"
    getattr(counted, kind)[(3, name)] += change
    with pytest.raises(EngagementError, match=rf"step 3: {name} was {kind} {1 + change} times, the plan says 1"):
        check_engagement(counted, plan, scopes, SMALL)


def test_segments_are_independent(small_unet: UNet) -> None:
    """A sampler that has denoised something else before gives the same bits, and counts from zero."""
    used, fresh = (make(small_unet, lcp([0, 3]), 5) for _ in range(2))
    first, second = random_conditions(small_unet, seed=8), random_conditions(small_unet, seed=9)
    used.denoise(Draw(6)(*SHAPE), first)
    again, alone = used.denoise(Draw(7)(*SHAPE), second), fresh.denoise(Draw(7)(*SHAPE), second)
    assert torch.equal(again.latents, alone.latents)
    assert again.engagement.computed == alone.engagement.computed


def test_the_cache_is_empty_after_a_segment(small_unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    from lcp_bench import sampling

    caches = []

    class Watched(sampling.FeatureCache):
        def __init__(self, *options: Any) -> None:
            super().__init__(*options)
            caches.append(self)

    monkeypatch.setattr(sampling, "FeatureCache", Watched)
    sampler = make(small_unet, lcp([0, 3]), 5)
    for _ in range(2):
        sampler.denoise(Draw(6)(*SHAPE), random_conditions(small_unet))
    disobedient = make(Disobedient(small_unet, scope=None), lcp([0, 3]), 5)
    with pytest.raises(EngagementError):
        disobedient.denoise(Draw(6)(*SHAPE), random_conditions(small_unet))
    assert len(caches) == 3, "one cache per segment"
    assert all(cache.closed and len(cache) == 0 and cache.peak_bytes > 0 for cache in caches)


# ------------------------------------------------------------------ another implementation


@pytest.mark.parametrize("interval", [2, 3, 5])
@pytest.mark.parametrize("branch", [0, 1, 2])
def test_sequential_caching_is_deepcache(interval: int, branch: int, shared_dir: Path) -> None:
    """DeepCache's helper around diffusers' UNet, on every `interval`-th step, by its own final latents."""
    folder = shared_dir / "goldens/accel/deepcache_sd_tiny"
    meta = json.loads((folder / "meta.json").read_text())
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    options = meta["unet_config"]
    config = UNetConfig(
        channels=tuple(options["block_out_channels"]),
        heads=options["attention_head_dim"],
        norm_groups=options["norm_num_groups"],
        image_token_dim=options["cross_attention_dim"],
    )
    unet = seeded_unet(config, meta["weights"]["seed"])
    steps = meta["scheduler"]["num_inference_steps"]
    keys = list(range(0, steps, interval))
    site = ("up.3.2", "up.3.1", "up.3.0")[branch]
    strategy = lcp(keys, parallel=False, site=site)
    plan = strategy.check(unet.topology, num_steps=steps, eta=0.0)
    plain = {"rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    scheduler = DDIM(steps, **{**plain, **meta["scheduler"]["config"]})
    tokens = torch.cat([inputs["uncond"], inputs["cond"]])
    sites = unet.site_conditions(None, tokens, None, branches=2, frames=1, row_rule="tiled")
    conditions = Conditions(2, 1, {name: replace(site, reference=None) for name, site in sites.items()})
    assert all(isinstance(site, SiteConditions) for site in sites.values())
    sampler = Sampler(unet, strategy, plan, scheduler, meta["guidance"]["scale"])
    result = sampler.denoise(inputs["latents"][:, :, None], conditions)
    want = outputs[f"final_i{interval}_b{branch}"][:, :, None]
    torch.testing.assert_close(result.latents, want, rtol=meta["rtol"], atol=meta["atol"])
    assert (outputs["final_full"][:, :, None] - want).abs().max() > 0.4
