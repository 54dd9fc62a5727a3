"""Layers that stop reading the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from family import Draw, random_conditions
from lcp_bench.accel.dfa import ForegroundConfig
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.reference import RemovalConfig, unread_references
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.scope import full_scope
from lcp_bench.errors import ConfigError, EngagementError
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.foreground import foreground_of
from lcp_bench.models.hallo import Hallo
from lcp_bench.models.topology import unet_topology
from lcp_bench.models.unet import UNet
from lcp_bench.sampling import Sampler, SegmentResult, check_engagement
from lcp_bench.schedulers import DDIM

SMALL, SHAPE, KEYS, STEPS = unet_topology(2, 2), (1, 4, 4, 8, 8), [0, 1, 4], 6
both_guidances = pytest.mark.parametrize("branches", [1, 2])


def strategy(*sites: str, steps: Any = "all", keys: Any = KEYS, **options: Any) -> LightningCP:
    """LightningCP at the last up layer of the small network."""
    removal = RemovalConfig(sites=sites, steps=steps)
    schedule = ScheduleConfig(key_steps=keys)
    options.setdefault("site", "up.1.2")
    return LightningCP(LightningCP.Config(schedule=schedule, reference=removal, **options))


def sampler_of(unet: UNet, chosen: LightningCP) -> Sampler:
    """Its sampler."""
    with torch.inference_mode():
        return Sampler(unet, chosen, chosen.check(SMALL, num_steps=STEPS, eta=0.0), DDIM(STEPS), 3.5)


def run(unet: UNet, chosen: LightningCP, conditions: Conditions) -> SegmentResult:
    """Denoise a segment."""
    with torch.inference_mode():
        return sampler_of(unet, chosen).denoise(Draw(2)(*SHAPE), conditions)


def without(conditions: Conditions, *sites: str) -> Conditions:
    """The same conditions, as if the reference network had written nothing for these layers."""
    plain = {site: replace(conditions.sites[site], reference=None) for site in sites}
    return replace(conditions, sites={**conditions.sites, **plain}, _by_members={})


@both_guidances
@pytest.mark.parametrize("sites", [("up.1.2",), ("mid", "down.0.1", "up.1.0"), ("down.0.0", "up.1.2")])
def test_dropped_is_absent(branches: int, sites: tuple[str, ...], small_unet: UNet) -> None:
    """At every step: the same bits as without reference features, and different ones from reading them."""
    conditions = random_conditions(small_unet, branches=branches)
    dropped = run(small_unet, strategy(*sites), conditions)
    absent = run(small_unet, strategy(), without(conditions, *sites))
    usual = run(small_unet, strategy(), conditions)
    assert torch.equal(dropped.latents, absent.latents)
    assert not torch.equal(dropped.latents, usual.latents)


@torch.inference_mode()
def test_the_unconditional_half_is_not_touched(small_unet: UNet) -> None:
    conditions, time = random_conditions(small_unet), small_unet.embed_time([400.0])
    latents, scope = Draw(1)(1, 1, 4, 4, 8, 8), strategy("*").key_scope(SMALL)
    plain, dropped = small_unet(latents, time, conditions), small_unet(latents, time, conditions, scope=scope)
    torch.testing.assert_close(dropped[0], plain[0], rtol=1e-5, atol=1e-5)
    assert (dropped[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("sites", "steps", "key", "follower"),
    [
        (("up.1.*",), "all", ("up.1.0", "up.1.1", "up.1.2"), ("up.1.2",)),
        (("up.1.*",), "key", ("up.1.0", "up.1.1", "up.1.2"), ()),
        (("up.1.2",), "followers", (), ("up.1.2",)),
        (("mid", "down.0.?"), "all", ("down.0.0", "down.0.1", "mid"), ()),
        ((), "all", (), ()),
    ],
)
def test_counted_where_it_was_dropped(
    sites: tuple[str, ...], steps: Any, key: tuple[str, ...], follower: tuple[str, ...], small_unet: UNet
) -> None:
    result = run(small_unet, strategy(*sites, steps=steps), random_conditions(small_unet))
    wanted = {(step, f"{site}:reference"): 1 for step in range(STEPS) for site in (key if step in KEYS else follower)}
    assert result.engagement.dropped == wanted
    totals = result.engagement.per_layer()["dropped"]
    assert totals == {f"{site}:reference": 3 * (site in key) + 3 * (site in follower) for site in {*key, *follower}}


def test_a_reference_that_was_read_after_all_is_caught(small_unet: UNet) -> None:
    chosen = strategy("up.1.0")
    plan = chosen.check(SMALL, num_steps=STEPS, eta=0.0)
    result = run(small_unet, chosen, random_conditions(small_unet))
    scopes = {step: chosen.follower_scope(step, plan, SMALL) for step in plan.followers}
    check_engagement(result.engagement, plan, scopes, SMALL, chosen.key_scope(SMALL))
    del result.engagement.dropped[(1, "up.1.0:reference")]
    with pytest.raises(EngagementError, match=r"step 1: up\.1\.0:reference was dropped 0 times, the plan says 1"):
        check_engagement(result.engagement, plan, scopes, SMALL, chosen.key_scope(SMALL))


def test_no_site_is_the_full_network() -> None:
    assert strategy().key_scope(SMALL) is None
    assert strategy("up.1.2", steps="followers").key_scope(SMALL) is None


@both_guidances
def test_together_with_foreground_attention(branches: int, small_unet: UNet) -> None:
    """The foreground then attends to its own tokens only."""
    mask = Draw(40)(8, 8) > 0
    conditions = random_conditions(small_unet, branches=branches)
    conditions = replace(conditions, foreground=[foreground_of(mask), foreground_of(mask[::2, ::2])], _by_members={})
    for parallel in (True, False):
        options: dict[str, Any] = {"attention": ForegroundConfig(), "parallel": parallel}
        dropped = run(small_unet, strategy("up.1.2", **options), conditions)
        absent = run(small_unet, strategy(**options), without(conditions, "up.1.2"))
        assert torch.equal(dropped.latents, absent.latents)
        assert not torch.equal(dropped.latents, run(small_unet, strategy(**options), conditions).latents)


# ------------------------------------------------------------------ what nobody reads


def test_unread() -> None:
    follower = strategy("up.1.*", steps="key").follower_scope(2, strategy().plan(STEPS), SMALL)
    key = strategy("up.1.*", steps="key").key_scope(SMALL)
    assert unread_references([key, follower], SMALL) == {"up.1.0", "up.1.1"}, "followers still read up.1.2"
    assert unread_references([key], SMALL) == {"up.1.0", "up.1.1", "up.1.2"}
    assert unread_references([None, key], SMALL) == set()
    assert unread_references([full_scope(SMALL)], SMALL) == set()


def test_the_sampler_knows_what_nobody_reads(small_unet: UNet) -> None:
    assert sampler_of(small_unet, strategy("up.1.*")).unread_references == {"up.1.0", "up.1.1", "up.1.2"}
    assert sampler_of(small_unet, strategy("up.1.*", steps="key")).unread_references == {"up.1.0", "up.1.1"}
    assert sampler_of(small_unet, strategy("up.1.2", steps="followers")).unread_references == set()
    every = strategy("up.1.2", steps="key", keys=STEPS)
    assert sampler_of(small_unet, every).unread_references == {"up.1.2"}, "without followers nobody else reads it"


def hallo_inputs(model: Hallo, motion: int) -> tuple[Tensor, Tensor]:
    """Latents of the portrait and motion frames, and image tokens."""
    draw = Draw(3)
    return draw(1 + motion, 4, 8, 8), draw(2, 4, 32)


@torch.inference_mode()
def test_unread_references_are_not_projected_but_motion_frames_are(tiny_hallo: Hallo) -> None:
    unread, draw = {"up.3.2", "mid"}, Draw(4)
    latents, tokens = hallo_inputs(tiny_hallo, 1)
    bank = tiny_hallo.reference_bank(latents, tokens)
    masks = [draw(3, 1, count, 1).sigmoid() for count in (64, 16, 4, 1)]
    rest = (bank, tokens, draw(2, 8, 32), masks, draw(1, 32, 8, 8))
    whole, spared = tiny_hallo.conditions(*rest), tiny_hallo.conditions(*rest, unread)
    for site, full in whole.sites.items():
        assert (spared.sites[site].reference is None) == (site in unread)
        motion = spared.sites[site].motion
        assert motion is not None and full.motion is not None
        assert torch.equal(motion, full.motion)


@torch.inference_mode()
def test_the_reference_network_stops_after_its_last_reader(tiny_hallo: Hallo) -> None:
    latents, tokens = hallo_inputs(tiny_hallo, 0)
    unet = tiny_hallo.reference_unet
    whole, _ = unet.write_features(latents.repeat(2, 1, 1, 1), tokens)
    ran: list[str] = []
    handles = [
        resnet.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, resnet in unet.named_modules()
        if name.endswith("resnets.0") and name.startswith("up_blocks")
    ]
    some, _ = unet.write_features(latents.repeat(2, 1, 1, 1), tokens, unread={"up.3.0", "up.3.1", "up.3.2", "mid"})
    for handle in handles:
        handle.remove()
    assert set(whole) - set(some) == {"up.3.0", "up.3.1", "up.3.2", "mid"}
    assert all(torch.equal(some[site], whole[site]) for site in some)
    assert ran == [f"up_blocks.{block}.resnets.0" for block in range(3)]
    assert unet.write_features(latents, tokens[:1], unread=set(whole))[0] == {}


def test_motion_frames_keep_the_reference_network_whole(tiny_hallo: Hallo) -> None:
    assert tiny_hallo._left_out({"mid"}) == ()
    assert Hallo(tiny_hallo.modules, frames=2, motion_frames=0)._left_out({"mid"}) == {"mid"}


@pytest.mark.parametrize(
    ("sites", "steps", "message"),
    [
        (
            ("up.9.0",),
            "all",
            r"accel\.reference\.sites: 'up\.9\.0' matches no layer.*This model has: down\.0\.0, ",
        ),
        (("mid", "conv_in"), "all", "'conv_in' matches no layer with attention"),
        (("up.0.0",), "key", r"'up\.0\.0' matches no layer with attention; did you mean 'up\.1\.0'"),
        (("mid",), "followers", r"steps=followers drops nothing: followers evaluate attention in up\.1\.2"),
    ],
)
def test_refused(sites: tuple[str, ...], steps: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy(*sites, steps=steps).check(SMALL, num_steps=STEPS, eta=0.0)
