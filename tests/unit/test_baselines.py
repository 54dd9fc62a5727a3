"""Rival strategies as data: key steps, scopes, refused options, published work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.adacache import AdaCache, gap_for, motion, motion_factor, next_key
from baselines.dbcache import ChangeGate, DBCache, Limits, step_mask
from baselines.deepcache import DeepCache, quad_center_keys, quad_keys, site_of_branch
from baselines.delta_dit import DeltaDiT, front_scope, rear_scope, whole_scope
from baselines.faster_diffusion import FasterDiffusion, key_steps
from baselines.taylorseer import TaylorForecast, TaylorSeer, every_keys
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.scope import full_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError, EngagementError
from lcp_bench.measure.flops import StepShape, published_scope_macs
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.hallo import size_of, unet_configs
from lcp_bench.models.topology import LayerSpec, Topology, unet_topology

SD = unet_topology(levels=4, layers_per_block=2)
SHARED = ScheduleConfig(key_steps=11)
TRANSFORMER = Topology(
    (
        LayerSpec("conv_in", 0, (0, 1)),
        *(LayerSpec(f"block.{number}", 0, (0, 1)) for number in range(28)),
        LayerSpec("out", 0, (0, 1)),
    )
)
"""A network of equal layers without skips, as the papers on diffusion transformers have it."""

RIVALS: dict[str, type[Strategy]] = {
    "deepcache": DeepCache, "faster_diffusion": FasterDiffusion, "delta_dit": DeltaDiT, "taylorseer": TaylorSeer,
}  # fmt: skip


def make(name: str, **options: Any) -> Strategy:
    """A rival with the shared schedule."""
    cls: Any = RIVALS[name]
    return cls(cls.Config(schedule=options.pop("schedule", SHARED), **options))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", RIVALS)
def test_shared_key_steps_are_the_same_for_every_method(name: str) -> None:
    """arXiv 2509.00052 compares all methods on the same key steps."""
    assert make(name).plan(40).key_steps == (0, 1, 2, 4, 9, 16, 23, 30, 35, 38, 39)
    listed = ScheduleConfig(key_steps=[0, 1, 7])
    assert make(name, schedule=listed).plan(9).key_steps == (0, 1, 7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deepcache", {"timing": "uniform", "interval": 1}),
        ("faster_diffusion", {"timing": "every", "interval": 1}),
        ("delta_dit", {"timing": "every", "interval": 1}),
        ("taylorseer", {"timing": "every", "interval": 1}),
        ("taylorseer", {"timing": "every", "warmup": 20}),
    ],
)
def test_an_interval_of_one_skips_nothing(name: str, options: dict[str, Any]) -> None:
    assert make(name, **options).plan(20).followers == ()


# Table 1 of arXiv 2509.00052, Hallo: 40 steps, 11 of them key, 1e12 FLOP per clip.
@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("deepcache", {}, 1041.28),
        ("deepcache", {"branch": 0}, 745.72),  # what LightningCP's scope costs
        ("faster_diffusion", {}, 1561.64),
        ("delta_dit", {"cut": "outer"}, 745.72),
    ],
)
def test_published_work(name: str, options: dict[str, Any], published: float) -> None:
    config = unet_configs(size_of("full"))[0]
    shape = StepShape(branches=2, frames=16, motion_frames=2, latent_size=64, image_tokens=4, audio_tokens=32)
    strategy = make(name, **options)
    plan = strategy.plan(40)
    scopes = [strategy.follower_scope(step, plan, config.topology) for step in plan.followers]
    scopes += [full_scope(config.topology)] * len(plan.key_steps)
    work = 2 * sum(published_scope_macs(config, shape, scope) for scope in scopes) / 1e12
    assert work == pytest.approx(published, rel=3e-5)


# ------------------------------------------------------------------ DeepCache


def test_branches_are_the_helpers() -> None:
    assert [site_of_branch(SD, branch) for branch in range(5)] == ["up.3.2", "up.3.1", "up.3.0", "up.2.2", "up.2.1"]
    assert site_of_branch(SD, 11) == "up.0.0"
    with pytest.raises(ConfigError, match=r"accel\.branch must be in 0\.\.11 for this model, got 12"):
        make("deepcache", branch=12).check(SD, num_steps=20, eta=0.0)


def test_quad_center_lowers_its_exponent_or_gives_up() -> None:
    keys, power = quad_center_keys(50, 5, 1.4, 15)
    assert keys == (0, 5, 9, 13, 17, 21, 26, 31, 37, 43)
    assert power == 1.4
    assert quad_center_keys(10, 2, 1.8, 2) == ((0, 2, 3, 4, 7), 1.46)
    with pytest.raises(ConfigError, match=r"no quad_center schedule of 10 key steps in 10"):
        quad_center_keys(10, 1, 1.01, 5)


def test_quad_may_merge_steps() -> None:
    assert quad_keys(20, 2, 1.5) == (0, 1, 3, 5, 7, 9, 11, 14, 17)


@pytest.mark.parametrize(
    ("options", "message"), [({"interval": 0}, "interval"), ({"power": 1.0}, "power"), ({"center": -1}, "center")]
)
def test_deepcache_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"accel\.{message} must be"):
        make("deepcache", **options)


# ------------------------------------------------------------------ Faster Diffusion


def test_lists_are_cut_off_not_stretched() -> None:
    assert key_steps("50ls", 20, 1) == (0, 1, 2, 3, 5, 10, 15)
    assert key_steps("pro", 50, 1) == (0, 2, 5, 9, 14, 20, 27, 35, 44)
    assert key_steps("every", 7, 3) == (0, 3, 6)


def test_noise_is_seen_by_the_encoder_in_the_sequential_form_only() -> None:
    parallel, sequential = (make("faster_diffusion", parallel=parallel).injection() for parallel in (True, False))
    assert parallel is not None
    assert sequential is not None
    assert (parallel.weight, parallel.below, parallel.before_network) == (0.003, 500, False)
    assert sequential.before_network
    assert make("faster_diffusion", prior_noise=0.0).injection() is None


@pytest.mark.parametrize("options", [{"interval": 0}, {"decoder_batch": 0}, {"prior_noise": -0.1}])
def test_faster_diffusion_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"accel\.{next(iter(options))} must be"):
        make("faster_diffusion", **options)


# ------------------------------------------------------------------ Delta-DiT


def test_stages_of_a_transformer_are_the_papers() -> None:
    """Rear blocks before the boundary, front blocks from it on; 4 of 28 skipped at every other step: 1.077 times."""
    strategy = make("delta_dit", timing="every", skipped=4)
    plan = strategy.check(TRANSFORMER, num_steps=20, eta=0.0)
    assert plan.key_steps == tuple(range(0, 20, 2))
    blocks = [f"block.{number}" for number in range(28)]
    for step, skipped in ((1, blocks[-4:]), (11, blocks[-4:]), (13, blocks[:4]), (19, blocks[:4])):
        scope = strategy.follower_scope(step, plan, TRANSFORMER)
        assert set(TRANSFORMER.names) - scope.evaluated == set(skipped)
        assert scope.reads(TRANSFORMER) == (f"{skipped[0]}..{skipped[-1]}:delta",)
    skipped_share = sum(4 for _ in plan.followers) / (28 * 20)
    assert 1 / (1 - skipped_share) == pytest.approx(1.077, abs=1e-3)


def test_the_front_of_a_unet_keeps_its_skips_current() -> None:
    assert front_scope(SD, 2).reads(SD) == ("down.0.0..down.0.0:delta", "down.0.1..down.0.1:delta")
    assert front_scope(SD, 1).reads(SD) == ("down.0.0..down.0.0:delta",)
    assert rear_scope(SD, 2).reads(SD) == ("up.3.1..up.3.2:delta",)


@pytest.mark.parametrize(
    ("cut", "reads"),
    [
        ("outer", "down.0.0..up.3.1:delta"), ("level_0", "down.0.ds..up.3.0:delta"),
        ("level_1", "down.1.ds..up.2.0:delta"), ("level_2", "down.2.ds..up.1.0:delta"),
    ],
)  # fmt: skip
def test_one_delta_over_everything_inside(cut: str, reads: str) -> None:
    assert whole_scope(SD, cut).reads(SD) == (reads,)


def test_outer_evaluates_what_lightningcp_does() -> None:
    assert whole_scope(SD, "outer").evaluated == {"conv_in", "up.3.2", "out"}


@pytest.mark.parametrize(
    ("topology", "options", "message"),
    [
        (SD, {"skipped": 3}, "changes the size or width"),
        (SD, {"skipped": 99}, "more than this model's"),
        (TRANSFORMER, {"cut": "outer"}, "needs a model with skips"),
        (unet_topology(2, 2), {"cut": "level_1"}, r"this model has levels 0\.\.1"),
    ],
)
def test_cuts_that_do_not_exist(topology: Topology, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("delta_dit", **options).check(topology, num_steps=20, eta=0.0)


def test_the_boundary_moves() -> None:
    plan = make("delta_dit").plan(40)
    names = {
        boundary: [make("delta_dit", boundary=boundary).follower_scope(step, plan, SD).name for step in (5, 25)]
        for boundary in (None, 0, 40)
    }
    rear, front = "delta:up.3.1..up.3.2", "deltas:down.0.0..down.0.1"
    assert names == {None: [rear, front], 0: [front, front], 40: [rear, rear]}


# ------------------------------------------------------------------ TaylorSeer


def test_key_steps_as_published() -> None:
    assert every_keys(24, 3, 5) == (0, 1, 2, 4, 9, 14, 19)
    assert every_keys(24, 5, 3, 20) == (0, 1, 2, 3, 4, 6, 9, 12, 15, 18, 20, 21, 22, 23)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_line_is_forecast_exactly_from_order_one_on(order: int) -> None:
    """Order 0 stays at the newest feature."""
    rule, held = TaylorForecast(order), ()
    for step in (0, 4, 8, 12):
        held = rule.keep(held, torch.tensor([3.0 + 2.0 * step]), 4)
    assert len(held) == order + 1
    forecast = rule.read(held, 3)
    assert forecast.item() == pytest.approx(3.0 + 2.0 * (12 if order == 0 else 15))


def test_second_differences_by_hand() -> None:
    rule, held = TaylorForecast(2), ()
    for step, gap in ((0, 0), (2, 2), (5, 3)):
        held = rule.keep(held, torch.tensor([float(step**2)]), gap)
    # D1: 4/2 = 2, then 21/3 = 7; D2: (7 - 2)/3
    assert [difference.item() for difference in held] == pytest.approx([25.0, 7.0, 5 / 3])
    assert rule.read(held, 2).item() == pytest.approx(25 + 7 * 2 + 5 / 3 * 4 / 2)


def test_a_forecast_is_for_one_step_at_a_time_and_its_history_survives_a_key_step() -> None:
    with FeatureCache(TaylorForecast(1)) as cache:
        cache.replace({"f": torch.tensor([0.0])}, 0)
        assert cache.peak_bytes == 4
        cache.make_room()
        cache.replace({"f": torch.tensor([2.0])}, 2)
        assert cache.peak_bytes == 8
        assert cache.read("f", (5,)).item() == 5.0
        with pytest.raises(EngagementError, match=r"differs for each of the steps \[3, 4\]"):
            cache.read("f", (3, 4))


def test_the_light_form_evaluates_the_projection_only() -> None:
    strategy = make("taylorseer", site="out")
    scope = strategy.follower_scope(5, strategy.plan(40), SD)
    assert scope.evaluated == {"out"}
    assert scope.reads(SD) == ("out:in",)


@pytest.mark.parametrize("options", [{"warmup": 0}, {"interval": 0}, {"order": 5}])
def test_taylorseer_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"accel\.{next(iter(options))} must be"):
        make("taylorseer", **options)


# ------------------------------------------------------------------ DBCache


def dbcache(**options: Any) -> DBCache:
    """DBCache with options."""
    return DBCache(DBCache.Config(**options))


def test_a_dynamic_plan_is_open_and_its_groups_are_the_cheapest_case() -> None:
    plan = dbcache(warmup=3).check(SD, num_steps=10, eta=0.0)
    assert plan.open
    assert plan.key_steps == (0, 1, 2)
    assert dbcache(warmup=3, max_in_row=2).plan(10).key_steps == (0, 1, 2, 5, 8)
    assert dbcache(warmup=3, max_reused=2).plan(10).key_steps == (0, 1, 2, 5, 6, 7, 8, 9)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"threshold": 0.0}, tuple(range(28))),
        ({"threshold": 1.0}, tuple(range(8))),
        ({"warmup": 28}, tuple(range(28))),
        ({"mask": "ultra", "mask_policy": "static"}, (0, 1, 2, 3, 6, 12, 19, 27)),
        ({"mask": (10, 17, 1), "mask_policy": "static"}, (*range(10), 27)),
    ],
)
def test_what_measures_nothing_is_a_fixed_plan(options: dict[str, Any], keys: tuple[int, ...]) -> None:
    plan = dbcache(**options).plan(28)
    assert not plan.open
    assert plan.key_steps == keys


def test_scope_and_probe() -> None:
    strategy = dbcache(first=2, last=2)
    assert strategy.probe(SD) == "down.0.0..down.0.1:delta"
    scope = strategy.follower_scope(9, strategy.plan(20), SD)
    assert scope.evaluated == {"conv_in", "down.0.0", "down.0.1", "up.3.1", "up.3.2", "out"}
    assert scope.reads(SD) == ("down.0.ds..up.3.0:delta",)


def test_a_gate_counts_what_it_lets_pass() -> None:
    gate = ChangeGate(DBCache.Config(warmup=1, max_in_row=1, threshold=0.5), 5, "probe")
    assert gate.move(0) == "compute"
    gate.computed(0, None)
    assert gate.move(1) == "ask"
    then = torch.ones(4)
    assert gate.reuses(1, then * 1.25, then)
    gate.reused(1)
    assert gate.move(2) == "compute", "one in a row is the limit"
    gate.computed(2, None)
    assert gate.move(3) == "ask"
    assert not gate.reuses(3, then * 1.5, then), "0.5 is not below 0.5"
    gate.computed(3, None)
    gate.reused(4)
    decisions = gate.decisions()
    assert decisions.plan.key_steps == (0, 2, 3)
    assert decisions.measured == ((1, 0.25), (3, 0.5))


def test_masks() -> None:
    assert sum(step_mask("slow", 28)) == 18
    assert step_mask([2, 2], 4) == [True, True, False, True], "the last step is always computed"
    with pytest.raises(ConfigError, match="covers 3 of 5 steps"):
        step_mask([2, 1], 5)
    with pytest.raises(ConfigError, match="exists for 4, 6, 8 and more steps, got 5"):
        step_mask("fast", 5)
    assert Limits(DBCache.Config(mask="fast"), 28).allow(6), "a mask replaces the warm-up"


@pytest.mark.parametrize(
    "options",
    [
        {"first": 0}, {"last": -1}, {"threshold": -1.0}, {"warmup": 0}, {"max_reused": -1}, {"max_in_row": -1},
        {"mask_policy": "static"}, {"mask": (0, 3)}, {"mask": ()},
    ],
)  # fmt: skip
def test_dbcache_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"accel\.(\w+) ?(must be|and|=static needs)"):
        dbcache(**options)


@pytest.mark.parametrize(("options", "message"), [({"first": 3}, "size or width"), ({"last": 30}, "leave nothing")])
def test_dbcache_needs_a_middle_that_keeps_the_shape(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dbcache(**options).check(SD, num_steps=20, eta=0.0)


# ------------------------------------------------------------------ AdaCache


def test_gaps_by_change() -> None:
    book = AdaCache.Config().codebook
    assert [gap_for(change, book) for change in (0.0, 0.079, 0.08, 0.3, 0.5, 2.0)] == [6, 6, 5, 3, 1, 1]
    assert gap_for(9.0, [(0.03, 12), (1.0, 3)]) == 3


def test_the_last_steps_are_always_computed() -> None:
    assert [next_key(step, 6, 10) for step in (0, 1, 5, 7, 8, 9)] == [6, 7, 8, 8, 9, 10]
    plan = AdaCache(AdaCache.Config()).check(SD, num_steps=30, eta=0.0)
    assert plan.open
    assert plan.key_steps == (0, 1, 7, 13, 19, 25, 28, 29)
    never = AdaCache(AdaCache.Config(codebook=((1.0, 1),))).plan(9)
    assert (never.open, never.followers) == (False, ())


def test_motion_of_known_residuals() -> None:
    still = torch.ones(2, 4, 3)
    assert motion(still) == 0.0
    flipping = still * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    assert motion(flipping) == pytest.approx((1 / 0.385) ** 8)
    assert motion(still[:, :1]) == 1.0
    assert motion_factor(0.5, 1.0, 2) == 0.5 + 10 * 0.5 / 2


@pytest.mark.parametrize(
    "options", [{"codebook": ()}, {"codebook": ((0.2, 3), (0.1, 2))}, {"codebook": ((0.2, 0),)}, {"motion_from": 0.9}]
)
def test_adacache_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"accel\.\w+ "):
        AdaCache(AdaCache.Config(**options))


def test_adacache_needs_runs_that_keep_the_shape() -> None:
    with pytest.raises(ConfigError, match="size or width"):
        AdaCache(AdaCache.Config(probe="down.0.ds")).check(SD, num_steps=20, eta=0.0)
