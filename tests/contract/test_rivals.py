"""The rival methods' equations by hand, on the small network and Hallo's scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.adacache import AdaCache
from baselines.dbcache import DBCache, relative_change
from baselines.deepcache import DeepCache
from baselines.delta_dit import DeltaDiT
from baselines.faster_diffusion import FasterDiffusion
from baselines.taylorseer import TaylorSeer
from family import Draw, random_conditions
from lcp_bench.accel.gate import Fork
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.recording import recording_of
from lcp_bench.accel.schedule import Plan, ScheduleConfig, plan_of_keys
from lcp_bench.accel.scope import Delta, Scope, delta_scope, full_scope, layer_deltas_scope, resume_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.topology import Topology, unet_topology
from lcp_bench.models.unet import UNet
from lcp_bench.sampling import Sampler, SegmentResult
from lcp_bench.schedulers import DDIM

SMALL = unet_topology(2, 2)
SHAPE = (1, 4, 4, 8, 8)
STEPS = 8
KEYS = ScheduleConfig(key_steps=[0, 1, 4])
both_guidances = pytest.mark.parametrize("branches", [1, 2])


def denoise(unet: UNet, strategy: Strategy, *, branches: int = 2, steps: int = STEPS) -> SegmentResult:
    """One segment from fixed noise under fixed conditions."""
    plan = strategy.check(unet.topology, num_steps=steps, eta=0.0)
    sampler = Sampler(unet, strategy, plan, DDIM(steps), 3.5)
    return sampler.denoise(Draw(2)(*SHAPE), random_conditions(unet, branches=branches))


def faster(**options: Any) -> FasterDiffusion:
    """Faster Diffusion on the shared key steps, without prior noise unless asked for."""
    return FasterDiffusion(FasterDiffusion.Config(schedule=KEYS, **{"prior_noise": 0.0, **options}))


def taylor(**options: Any) -> TaylorSeer:
    """TaylorSeer at the small network's last up layer."""
    return TaylorSeer(TaylorSeer.Config(schedule=KEYS, **{"site": "up.1.2", **options}))


# ------------------------------------------------------------------ scopes and recording


def test_two_recorded_deltas_may_start_at_one_layer(small_unet: UNet) -> None:
    """And one may lie inside the other."""
    conditions, latents = random_conditions(small_unet), Draw(1)(1, 1, 4, 4, 8, 8)
    names = ("down.0.0..down.0.0:delta", "down.0.0..down.0.1:delta", "down.0.1..down.0.1:delta")
    with torch.inference_mode(), FeatureCache() as cache:
        small_unet(latents, small_unet.embed_time([400.0]), conditions, cache=cache, record=names)
        first, both, second = (cache.read(name) for name in names)
        torch.testing.assert_close(both, first + second)
    assert first.abs().max() > 1e-3


def test_layer_deltas_make_every_skip_current(small_unet: UNet) -> None:
    """Moving the latents moves the skip of the first layer with them; a recorded skip would stay behind."""
    conditions, time = random_conditions(small_unet), small_unet.embed_time([400.0])
    key, moved = Draw(1)(1, 1, 4, 4, 8, 8), Draw(3)(1, 1, 4, 4, 8, 8)
    each = layer_deltas_scope(SMALL, "down.0.0", "down.0.1")
    whole = delta_scope(SMALL, "down.0.0", "down.0.1")
    results = []
    for scope in (each, whole):
        with torch.inference_mode(), FeatureCache() as cache:
            full = small_unet(key, time, conditions, cache=cache, record=scope.reads(SMALL))
            again = small_unet(key, time, conditions, scope=scope, cache=cache)
            torch.testing.assert_close(again, full, rtol=1e-5, atol=1e-5)
            results.append(small_unet(moved, time, conditions, scope=scope, cache=cache))
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_a_delta_needs_a_current_map() -> None:
    names = frozenset(SMALL.names) - {"down.0.0", "down.0.1", "down.1.0"}
    with pytest.raises(ConfigError, match=r"the delta from down\.0\.1 on starts where the map is not the current one"):
        Scope("odd", names, (Delta("down.0.1", "down.0.1"),)).reads(SMALL)


@pytest.mark.parametrize("site", ["out", "up.1.2", "mid", "down.1.0"])
@both_guidances
def test_resuming_on_recorded_features_is_the_key_step(site: str, branches: int, small_unet: UNet) -> None:
    """Whatever latents come in: they are not read."""
    scope, time = resume_scope(SMALL, site), small_unet.embed_time([400.0])
    conditions = random_conditions(small_unet, branches=branches)
    with torch.inference_mode(), FeatureCache() as cache:
        full = small_unet(Draw(1)(1, 1, 4, 4, 8, 8), time, conditions, cache=cache, record=scope.reads(SMALL))
        again = small_unet(Draw(2)(1, 1, 4, 4, 8, 8), time, conditions, scope=scope, cache=cache)
    assert torch.equal(full, again)


STRATEGIES: list[Strategy] = [
    DeepCache(DeepCache.Config(schedule=KEYS, branch=2)),
    faster(),
    faster(parallel=False),
    DeltaDiT(DeltaDiT.Config(schedule=KEYS)),
    DeltaDiT(DeltaDiT.Config(schedule=KEYS, cut="outer")),
    taylor(order=0),
    taylor(order=2),
    taylor(site="out"),
    DBCache(DBCache.Config(warmup=1, threshold=0.99)),
    AdaCache(AdaCache.Config(codebook=((1.0, 3),), last_site="up.1.1")),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: f"{type(each).__name__}")
@both_guidances
def test_the_plan_knows_the_size_of_the_cache(strategy: Strategy, branches: int, small_unet: UNet) -> None:
    result = denoise(small_unet, strategy, branches=branches)
    plan = strategy.plan(STEPS)
    recording = recording_of(strategy, plan, SMALL)
    names = tuple(dict.fromkeys(name for step in range(STEPS) for name in recording.at(step)))
    with torch.inference_mode(), FeatureCache() as cache:
        conditions = random_conditions(small_unet, branches=branches)
        small_unet(Draw(2)(*SHAPE)[:, None], small_unet.embed_time([1.0]), conditions, cache=cache, record=names)
        assert result.cache_bytes == recording.peak_bytes(cache.sizes()) > 0


# ------------------------------------------------------------------ DeepCache, Faster Diffusion, Delta-DiT


@both_guidances
def test_branch_zero_is_sequential_lightningcp(branches: int, small_unet: UNet) -> None:
    sequential = LightningCP(LightningCP.Config(schedule=KEYS, parallel=False, site="up.1.2"))
    cached = DeepCache(DeepCache.Config(schedule=KEYS, branch=0))
    got, want = (denoise(small_unet, each, branches=branches) for each in (cached, sequential))
    assert torch.equal(got.latents, want.latents)


@both_guidances
def test_decoding_together_or_one_by_one_is_the_same(branches: int, small_unet: UNet) -> None:
    """Followers do not read their latents, so nothing is estimated."""
    results = [
        denoise(small_unet, strategy, branches=branches)
        for strategy in (faster(), faster(parallel=False), faster(decoder_batch=2))
    ]
    for result in results[1:]:
        torch.testing.assert_close(result.latents, results[0].latents, rtol=1e-4, atol=1e-4)
        assert result.engagement.computed == results[0].engagement.computed
        assert result.engagement.reused == results[0].engagement.reused


class Log:
    """A UNet that says which steps it was called for."""

    def __init__(self, unet: UNet) -> None:
        self.unet = unet
        self.calls: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unet, name)

    def __call__(self, *args: Any, **told: Any) -> Tensor:
        self.calls.append(tuple(told["steps"]))
        return self.unet(*args, **told)


@pytest.mark.parametrize(("batch", "calls"), [(None, [(5, 6, 7)]), (2, [(5, 6), (7,)]), (1, [(5,), (6,), (7,)])])
def test_a_decoder_batch_is_split(batch: int | None, calls: list[tuple[int, ...]], small_unet: UNet) -> None:
    log: Any = Log(small_unet)
    denoise(log, faster(decoder_batch=batch))
    assert log.calls[log.calls.index((4,)) + 1 :] == calls


@both_guidances
@pytest.mark.parametrize("parallel", [True, False])
def test_prior_noise_by_hand(parallel: bool, branches: int, small_unet: UNet) -> None:
    """Added to late latents: before the encoder of a key step in the sequential form, after it in the parallel one."""
    got = denoise(small_unet, faster(prior_noise=0.05, parallel=parallel), branches=branches).latents
    conditions, scheduler, state = random_conditions(small_unet, branches=branches), DDIM(STEPS), Draw(2)(*SHAPE)
    noise, scope = state, faster().follower_scope(1, faster().plan(STEPS), SMALL)
    with torch.inference_mode(), FeatureCache() as cache:
        for step, timestep in enumerate(scheduler.timesteps):
            late = state + 0.05 * noise if timestep < 500 else state
            how: dict[str, Any] = {"record": scope.reads(SMALL)} if step in (0, 1, 4) else {"scope": scope}
            seen = state if parallel else late
            maps = small_unet(seen[:, None], small_unet.embed_time([timestep]), conditions, cache=cache, **how)[:, 0]
            guided = maps[-1:] if branches == 1 else maps[:1] + 3.5 * (maps[1:] - maps[:1])
            state = scheduler.apply(late, guided, step)
    torch.testing.assert_close(got, state, rtol=1e-4, atol=1e-4)
    without = denoise(small_unet, faster(parallel=parallel), branches=branches).latents
    assert (got - without).abs().max() > 1e-3


@both_guidances
def test_the_outer_delta_by_hand(branches: int, small_unet: UNet) -> None:
    """A follower enters the last up layer on conv_in(x_i) plus what lay between the two at the key step."""
    cut = DeltaDiT(DeltaDiT.Config(schedule=KEYS, cut="outer"))
    scope, conditions = cut.follower_scope(2, cut.plan(STEPS), SMALL), random_conditions(small_unet, branches=branches)
    key, other = Draw(1)(1, 1, 4, 4, 8, 8), Draw(3)(1, 1, 4, 4, 8, 8)
    time, shell = small_unet.embed_time([400.0]), resume_scope(SMALL, "up.1.2")
    with torch.inference_mode(), FeatureCache() as cache:
        small_unet(key, time, conditions, cache=cache, record=(*scope.reads(SMALL), *shell.reads(SMALL)))
        follower = small_unet(other, time, conditions, scope=scope, cache=cache)
        at_key, before = cache.read("up.1.2:in"), cache.read("conv_in:out")
        small_unet(other, time, conditions, cache=cache, record=("conv_in:out",))
        entered = cache.read("conv_in:out")
        cache.replace({"up.1.2:in": entered + (at_key - before), "conv_in:out": entered})
        by_hand = small_unet(other, time, conditions, scope=shell, cache=cache)
    torch.testing.assert_close(follower, by_hand, rtol=1e-4, atol=1e-4)


def test_the_stages_switch_at_the_boundary(small_unet: UNet) -> None:
    """A group that straddles the boundary records both deltas at its key step."""
    strategy = DeltaDiT(DeltaDiT.Config(schedule=ScheduleConfig(key_steps=[0, 4]), boundary=6))
    counted = denoise(small_unet, strategy).engagement
    front, rear = {"down.0.0", "down.0.1"}, {"up.1.1", "up.1.2"}
    for step in range(STEPS):
        skipped = set(SMALL.names) - {layer for s, layer in counted.computed if s == step}
        assert skipped == (set() if step in (0, 4) else rear if step < 6 else front)
    deltas = [name for (step, name), _ in counted.reused.items() if step == 7]
    assert deltas == ["down.0.0..down.0.0:delta", "down.0.1..down.0.1:delta"]


# ------------------------------------------------------------------ TaylorSeer


@both_guidances
def test_order_zero_is_plain_reuse(branches: int, small_unet: UNet) -> None:
    cached = DeepCache(DeepCache.Config(schedule=KEYS, branch=0))
    got, want = (denoise(small_unet, each, branches=branches) for each in (taylor(order=0), cached))
    assert torch.equal(got.latents, want.latents)
    assert got.cache_bytes == want.cache_bytes


@both_guidances
@pytest.mark.parametrize("order", [1, 2])
def test_a_forecast_by_hand(order: int, branches: int, small_unet: UNet) -> None:
    """Key steps 0, 1 and 4: differences over gaps of 1 and 3, also from key steps without followers."""
    got = denoise(small_unet, taylor(order=order), branches=branches)
    conditions, scheduler, state = random_conditions(small_unet, branches=branches), DDIM(STEPS), Draw(2)(*SHAPE)
    scope, last = taylor().follower_scope(2, taylor().plan(STEPS), SMALL), 0
    known: list[Tensor] = []
    with torch.inference_mode(), FeatureCache() as cache:
        for step, timestep in enumerate(scheduler.timesteps):
            how: dict[str, Any] = {"record": ("up.1.2:in",)} if step in (0, 1, 4) else {"scope": scope}
            if step not in (0, 1, 4):
                ahead = step - last
                terms = [known[0], *(d * ahead**j / (1, 1, 2)[j] for j, d in enumerate(known[1:], start=1))]
                cache.replace({"up.1.2:in": torch.stack(terms).sum(0)})
            maps = small_unet(state[:, None], small_unet.embed_time([timestep]), conditions, cache=cache, **how)[:, 0]
            if step in (0, 1, 4):
                fresh = [cache.read("up.1.2:in")]
                for older in known[:order]:
                    fresh.append((fresh[-1] - older) / (step - last))
                known, last = fresh, step
            guided = maps[-1:] if branches == 1 else maps[:1] + 3.5 * (maps[1:] - maps[:1])
            state = scheduler.apply(state, guided, step)
    torch.testing.assert_close(got.latents, state, rtol=1e-4, atol=1e-4)
    assert got.cache_bytes == (order + 1) * branches * 4 * 32 * 8 * 8 * 4
    assert (got.latents - denoise(small_unet, taylor(order=0), branches=branches).latents).abs().max() > 1e-4


# ------------------------------------------------------------------ decisions at run time


@both_guidances
def test_a_fork_reads_or_goes_on(branches: int, small_unet: UNet) -> None:
    """Either way the layers in front of the fork run once."""
    conditions, time = random_conditions(small_unet, branches=branches), small_unet.embed_time([400.0])
    strategy = DBCache(DBCache.Config(warmup=1))
    scope, probe = strategy.follower_scope(1, strategy.plan(9), SMALL), strategy.probe(SMALL)
    record, key, other = (*scope.reads(SMALL), probe), Draw(1)(1, 1, 4, 4, 8, 8), Draw(3)(1, 1, 4, 4, 8, 8)
    for reuse in (True, False):
        with torch.inference_mode(), FeatureCache() as cache:
            small_unet(key, time, conditions, cache=cache, record=record)
            kept, seen = {name: cache.read(name) for name in record}, Engagement()
            fork = Fork(probe, scope, lambda now, then, reuse=reuse: reuse)  # type: ignore[misc]
            got = small_unet(other, time, conditions, cache=cache, record=record, fork=fork, engagement=seen)
            assert fork.reused is reuse
            same = [torch.equal(cache.read(name), kept[name]) for name in record]
            assert all(same) if reuse else not any(same)
            cache.replace(kept)
            chosen = scope if reuse else full_scope(SMALL)
            assert torch.equal(got, small_unet(other, time, conditions, cache=cache, scope=chosen))
        assert seen.computed == {(0, layer): 1 for layer in chosen.evaluated}
        assert seen.reused == {(0, feature): 1 for feature in chosen.reads(SMALL)}


@both_guidances
def test_dbcache_decides_by_the_change_of_the_first_layers(branches: int, small_unet: UNet) -> None:
    """The decided plan, replayed as a fixed one, gives the same bits; the measured values explain it."""
    measured = dict(denoise_open(small_unet, DBCache.Config(warmup=1, threshold=1e-9), branches).measured)
    assert list(measured) == list(range(1, STEPS)), "below no threshold: every step is asked and computed"
    threshold = sorted(measured.values())[len(measured) // 2]
    strategy = DBCache(DBCache.Config(warmup=1, threshold=threshold))
    result = denoise(small_unet, strategy, branches=branches)
    assert result.decisions is not None
    plan = result.decisions.plan
    assert 1 < len(plan.key_steps) < STEPS
    assert not plan.open
    assert {step for step, value in result.decisions.measured if value >= threshold} | {0} == set(plan.key_steps)
    assert torch.equal(result.latents, denoise(small_unet, Replay(plan, strategy), branches=branches).latents)


def denoise_open(unet: UNet, options: DBCache.Config, branches: int) -> Any:
    """Decisions of one segment."""
    return denoise(unet, DBCache(options), branches=branches).decisions


class Replay(Strategy):
    """A decided plan as a fixed one."""

    def __init__(self, decided: Plan, strategy: Strategy) -> None:
        super().__init__(None)
        self.decided, self.strategy = decided, strategy

    def plan(self, num_steps: int) -> Plan:
        """What was decided."""
        return self.decided

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """As decided."""
        return self.strategy.follower_scope(step, plan, topology)


def test_always_reusing_is_a_fixed_plan(small_unet: UNet) -> None:
    """A threshold that nothing reaches decides what the fixed plan says."""
    gated = denoise(small_unet, DBCache(DBCache.Config(warmup=3, max_in_row=2, threshold=0.999)))
    fixed = denoise(small_unet, DBCache(DBCache.Config(warmup=3, max_in_row=2, threshold=1.0)))
    assert gated.decisions is not None
    assert fixed.decisions is None
    assert gated.decisions.plan.key_steps == (0, 1, 2, 5)
    assert torch.equal(gated.latents, fixed.latents)


@both_guidances
def test_adacache_decides_by_the_change_of_the_probe(branches: int, small_unet: UNet) -> None:
    """Gaps follow from the measured changes; the probe is the mid block's residual."""
    steps, book = 12, ((0.1, 4), (0.3, 3), (1.0, 2))
    strategy = AdaCache(AdaCache.Config(codebook=book, last_site="up.1.1"))
    result = denoise(small_unet, strategy, branches=branches, steps=steps)
    assert result.decisions is not None
    plan, measured = result.decisions.plan, dict(result.decisions.measured)
    gaps = {1: next((gap for below, gap in book if measured[1] < below), 2)}
    assert plan.key_steps[:3] == (0, 1, min(1 + gaps[1], steps - 2))
    assert plan.key_steps[-2:] == (steps - 2, steps - 1)
    assert set(measured) == set(plan.key_steps) - {0, steps - 1}
    replayed = denoise(small_unet, Replay(plan, strategy), branches=branches, steps=steps)
    assert torch.equal(result.latents, replayed.latents)
    with torch.inference_mode(), FeatureCache() as cache:
        probes = [probe_at(small_unet, cache, branches, steps, step) for step in (0, 1)]
    assert measured[1] == pytest.approx(relative_change(probes[1], probes[0]), rel=1e-4)


def probe_at(unet: UNet, cache: FeatureCache, branches: int, steps: int, step: int) -> Tensor:
    """The mid block's residual at one of the first steps of the unaccelerated run."""
    conditions: Conditions = random_conditions(unet, branches=branches)
    scheduler, state = DDIM(steps), Draw(2)(*SHAPE)
    for index in range(step + 1):
        time = unet.embed_time([scheduler.timesteps[index]])
        maps = unet(state[:, None], time, conditions, cache=cache, record=("mid..mid:delta",))[:, 0]
        guided = maps[-1:] if branches == 1 else maps[:1] + 3.5 * (maps[1:] - maps[:1])
        state = scheduler.apply(state, guided, index)
    return cache.read("mid..mid:delta")


def test_motion_changes_the_pace(small_unet: UNet) -> None:
    options = {"codebook": ((0.1, 4), (1.0, 1)), "last_site": "up.1.1"}
    plain, moved = (
        denoise(small_unet, AdaCache(AdaCache.Config(motion=motion, **options)), steps=12).decisions  # type: ignore[arg-type]
        for motion in (False, True)
    )
    assert plain is not None
    assert moved is not None
    assert dict(plain.measured)[2] != dict(moved.measured)[2]


def test_segments_decide_for_themselves(small_unet: UNet) -> None:
    """A gate dies with its segment: the same segment again gives the same decisions."""
    strategy = AdaCache(AdaCache.Config(last_site="up.1.1"))
    plan = strategy.check(SMALL, num_steps=STEPS, eta=0.0)
    sampler = Sampler(small_unet, strategy, plan, DDIM(STEPS), 3.5)
    first, second, again = (
        sampler.denoise(Draw(seed)(*SHAPE), random_conditions(small_unet, seed=seed)) for seed in (2, 9, 2)
    )
    assert first.decisions == again.decisions
    assert torch.equal(first.latents, again.latents)
    assert second.decisions is not None
    assert second.decisions.plan.key_steps[0] == 0


def test_an_open_plan_without_a_gate_is_refused(small_unet: UNet) -> None:
    class Gateless(Replay):
        """Forgot its gate."""

    opened = Plan(4, plan_of_keys([0], 4).groups, open=True)
    with pytest.raises(ConfigError, match="Gateless made an open plan but has no gate"):
        denoise(small_unet, Gateless(opened, DeepCache(DeepCache.Config(schedule=KEYS, branch=0))), steps=4)
