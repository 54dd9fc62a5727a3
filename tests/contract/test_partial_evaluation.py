"""A scope on the latents and features of its own key step is the full network; nothing outside the scope runs."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from family import Draw, counted_calls, random_conditions
from lcp_bench.accel.scope import Scope, decoder_scope, delta_scope, full_scope, shell_scope
from lcp_bench.errors import EngagementError
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.hallo import Hallo
from lcp_bench.models.topology import unet_topology
from lcp_bench.models.unet import UNet

SMALL, LARGE = unet_topology(2, 2), unet_topology(4, 2)
FULL_AT = 400.0

# Ranges whose ends have the same width; the first five lie around or beside skips in different ways.
DELTAS = [
    ("mid", "mid"), ("down.0.0", "down.0.1"), ("down.1.1", "mid"), ("up.0.0", "up.0.2"), ("down.1.1", "down.1.1"),
    ("up.1.1", "up.1.2"), ("down.0.1", "down.0.1"), ("mid", "up.0.0"), ("down.1.1", "up.0.1"), ("down.0.0", "up.1.1"),
]  # fmt: skip


def shells(names: list[str]) -> list[Scope]:
    """Shells of the small network."""
    return [shell_scope(SMALL, name) for name in names]


SCOPES = [
    *shells([layer.name for layer in SMALL.layers if layer.pops]),
    decoder_scope(SMALL),
    *(delta_scope(SMALL, first, last) for first, last in DELTAS),
]
by_name = pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)


class Key(NamedTuple):
    """A key step and what it leaves behind."""

    latents: Tensor
    conditions: Conditions
    prediction: Tensor


def run_key(unet: UNet, cache: FeatureCache, scope: Scope, *, branches: int = 2, size: tuple[int, int] = (8, 8)) -> Key:
    """Full network, recording what the scope reads."""
    latents = Draw(1)(1, 1, 4, 4, *size)
    conditions = random_conditions(unet, branches=branches, size=size)
    record = scope.reads(unet.topology)
    prediction = unet(latents, unet.embed_time([FULL_AT]), conditions, cache=cache, record=record)
    assert len(cache) == len(record)
    return Key(latents, conditions, prediction)


def follow(unet: UNet, cache: FeatureCache, scope: Scope, key: Key, **changes: Tensor) -> Tensor:
    """The scope alone."""
    latents, time = changes.get("latents", key.latents), changes.get("time", unet.embed_time([FULL_AT]))
    return unet(latents, time, key.conditions, scope=scope, cache=cache)


@by_name
@pytest.mark.parametrize("branches", [1, 2])
@torch.inference_mode()
def test_same_inputs_give_the_full_prediction(scope: Scope, branches: int, small_unet: UNet) -> None:
    with FeatureCache() as cache:
        key = run_key(small_unet, cache, scope, branches=branches)
        again = follow(small_unet, cache, scope, key)
    if scope.deltas:  # (x + f(x)) - x is not f(x) in floating point
        torch.testing.assert_close(again, key.prediction, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(again, key.prediction)


@pytest.mark.parametrize("site", [layer.name for layer in LARGE.layers if layer.pops])
@torch.inference_mode()
def test_every_up_site_of_hallo(site: str, tiny_hallo: Hallo) -> None:
    unet, scope = tiny_hallo.unet, shell_scope(LARGE, site)
    with FeatureCache() as cache, counted_calls(unet) as calls:
        key = run_key(unet, cache, scope)
        calls.clear()
        assert torch.equal(follow(unet, cache, scope, key), key.prediction)
    assert calls == dict.fromkeys(scope.evaluated, 1)


@pytest.mark.parametrize(
    "scope", [decoder_scope(LARGE), delta_scope(LARGE, "down.2.1", "up.1.0")], ids=lambda scope: scope.name
)
@torch.inference_mode()
def test_other_scopes_of_hallo(scope: Scope, tiny_hallo: Hallo) -> None:
    with FeatureCache() as cache:
        key = run_key(tiny_hallo.unet, cache, scope)
        again = follow(tiny_hallo.unet, cache, scope, key)
    torch.testing.assert_close(again, key.prediction, rtol=1e-5, atol=1e-5)


@by_name
@torch.inference_mode()
def test_what_runs_and_what_is_read(scope: Scope, small_unet: UNet) -> None:
    """Counted by hooks on the modules, not by the network's own counters; those agree."""
    seen = Engagement()
    with FeatureCache() as cache:
        key = run_key(small_unet, cache, scope)
        with counted_calls(small_unet) as calls:
            small_unet(key.latents, small_unet.embed_time([1.0]), key.conditions, steps=(7,), scope=scope, cache=cache,
                       engagement=seen)  # fmt: skip
    assert calls == dict.fromkeys(scope.evaluated, 1)
    assert seen.computed == {(7, layer): 1 for layer in scope.evaluated}
    assert seen.reused == {(7, feature): 1 for feature in scope.reads(SMALL)}


@by_name
@torch.inference_mode()
def test_every_read_is_needed(scope: Scope, small_unet: UNet) -> None:
    reads = scope.reads(SMALL)
    assert reads
    latents, conditions, time = Draw(1)(1, 1, 4, 4, 8, 8), random_conditions(small_unet), small_unet.embed_time([1.0])
    for missing in reads:
        with FeatureCache() as cache:
            record = [feature for feature in reads if feature != missing]
            small_unet(latents, time, conditions, cache=cache, record=record)
            with pytest.raises(EngagementError, match=f"'{missing}' was not recorded"):
                small_unet(latents, time, conditions, scope=scope, cache=cache)


@by_name
@torch.inference_mode()
def test_recording_changes_nothing(scope: Scope, small_unet: UNet) -> None:
    latents, conditions, time = Draw(1)(1, 1, 4, 4, 8, 8), random_conditions(small_unet), small_unet.embed_time([9.0])
    plain = small_unet(latents, time, conditions)
    with FeatureCache() as cache:
        recorded = small_unet(latents, time, conditions, cache=cache, record=scope.reads(SMALL))
    assert torch.equal(plain, recorded)


@by_name
@torch.inference_mode()
def test_following_leaves_the_features_alone(scope: Scope, small_unet: UNet) -> None:
    """Two followers in turn see the same features: nothing is changed in place."""
    with FeatureCache() as cache:
        key = run_key(small_unet, cache, scope)
        kept = {name: cache.read(name).clone() for name in scope.reads(SMALL)}
        other = Draw(2)(1, 1, 4, 4, 8, 8)
        follow(small_unet, cache, scope, key, latents=other, time=small_unet.embed_time([3.0]))
        for name, feature in kept.items():
            assert torch.equal(cache.read(name), feature)


@pytest.mark.parametrize("scope", shells(["up.1.2", "up.1.1", "up.0.1"]), ids=lambda scope: scope.name)
@torch.inference_mode()
def test_a_follower_uses_its_own_latents_its_own_time_and_the_feature(scope: Scope, small_unet: UNet) -> None:
    with FeatureCache() as cache:
        key = run_key(small_unet, cache, scope)
        same = follow(small_unet, cache, scope, key)
        later = follow(small_unet, cache, scope, key, time=small_unet.embed_time([FULL_AT - 100]))
        moved = follow(small_unet, cache, scope, key, latents=key.latents + 0.1)
        cache.replace({name: cache.read(name) * 1.1 for name in scope.reads(SMALL)})
        other = follow(small_unet, cache, scope, key)
    for changed in (later, moved, other):
        assert (changed - same).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(7, 5), (5, 8), (3, 1)])
@pytest.mark.parametrize("name", ["up.1.2", "up.1.0", "up.0.0", "decoder"])
@torch.inference_mode()
def test_odd_sizes(size: tuple[int, int], name: str, small_unet: UNet) -> None:
    scope = decoder_scope(SMALL) if name == "decoder" else shell_scope(SMALL, name)
    with FeatureCache() as cache:
        key = run_key(small_unet, cache, scope, size=size)
        assert torch.equal(follow(small_unet, cache, scope, key), key.prediction)
    assert key.prediction.shape == (2, 1, 4, 4, *size)


@pytest.mark.parametrize("scope", [shell_scope(LARGE, "up.0.1"), decoder_scope(LARGE)], ids=lambda scope: scope.name)
@torch.inference_mode()
def test_sizes_that_are_odd_at_every_level(scope: Scope, tiny_hallo: Hallo) -> None:
    """9 x 5, 5 x 3, 3 x 2, 2 x 1: upsamplers must go back to the size that came, not to twice their own."""
    with FeatureCache() as cache:
        key = run_key(tiny_hallo.unet, cache, scope, size=(9, 5))
        assert torch.equal(follow(tiny_hallo.unet, cache, scope, key), key.prediction)


@torch.inference_mode()
def test_a_full_scope_is_no_scope(small_unet: UNet) -> None:
    latents, conditions, time = Draw(1)(1, 1, 4, 4, 8, 8), random_conditions(small_unet), small_unet.embed_time([9.0])
    assert torch.equal(
        small_unet(latents, time, conditions), small_unet(latents, time, conditions, scope=full_scope(SMALL))
    )


# ------------------------------------------------------------------ groups


def group_inputs(unet: UNet, members: int, frames: int, branches: int) -> tuple[Tensor, Tensor, Conditions]:
    """Different latents and times for every member."""
    latents = Draw(4)(1, members, 4, frames, 8, 8)
    time = unet.embed_time([900.0 - 100 * member for member in range(members)])
    return latents, time, random_conditions(unet, branches=branches, frames=frames)


@pytest.mark.parametrize("frames", [3, 4])
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize(
    "scope", [*shells(["up.1.2", "up.0.0"]), decoder_scope(SMALL), delta_scope(SMALL, "mid", "mid"), full_scope(SMALL)],
    ids=lambda scope: scope.name,
)  # fmt: skip
@torch.inference_mode()
def test_a_batch_of_followers_equals_a_loop(scope: Scope, branches: int, frames: int, small_unet: UNet) -> None:
    """Fails if rows were ordered (step, branch): half of the wrong rows would then read the reference."""
    latents, time, conditions = group_inputs(small_unet, 3, frames, branches)
    with FeatureCache() as cache:
        small_unet(latents[:, :1], time[:1], conditions, cache=cache, record=scope.reads(SMALL))
        together = small_unet(latents, time, conditions, scope=scope, cache=cache)
        for member in range(3):
            one = slice(member, member + 1)
            alone = small_unet(latents[:, one], time[one], conditions, scope=scope, cache=cache)
            torch.testing.assert_close(together[:, one], alone, rtol=1e-5, atol=1e-5)
    assert (together[:, 1] - together[:, 0]).abs().max() > 1e-2


@torch.inference_mode()
def test_rows_are_unconditional_for_all_members_then_conditional(small_unet: UNet) -> None:
    """What reaches the last layer's attention, row by row: (branch, member, frame)."""
    latents, time, conditions = group_inputs(small_unet, 3, 4, 2)
    scope = shell_scope(SMALL, "up.1.2")
    rows: list[Tensor] = []
    resnet = small_unet.up_blocks[1].resnets[2]
    with FeatureCache() as cache:
        small_unet(latents[:, :1], time[:1], conditions, cache=cache, record=scope.reads(SMALL))
        handle = resnet.register_forward_hook(lambda _m, _i, output: rows.append(output))
        small_unet(latents, time, conditions, scope=scope, cache=cache)
        for member in range(3):
            small_unet(latents[:, member : member + 1], time[member : member + 1], conditions, scope=scope, cache=cache)
        handle.remove()
    together, *alone = rows
    expected = torch.stack([each.unflatten(0, (2, 4)) for each in alone], dim=1).flatten(0, 2)
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_branches_may_bring_their_own_latents(small_unet: UNet) -> None:
    """One entry on the branch axis serves all branches, bit for bit."""
    latents, time, conditions = group_inputs(small_unet, 2, 4, 2)
    shared = small_unet(latents, time, conditions)
    torch.testing.assert_close(shared, small_unet(latents.expand(2, -1, -1, -1, -1, -1), time, conditions))


# ------------------------------------------------------------------ cache


def test_a_closed_cache_is_empty_and_refuses() -> None:
    with FeatureCache() as cache:
        cache.replace({"up.1.2:in": torch.zeros(3, 5)})
        assert len(cache) == 1
    assert len(cache) == 0
    assert cache.peak_bytes == 60
    with pytest.raises(EngagementError, match="after its segment ended"):
        cache.read("up.1.2:in")
    with pytest.raises(EngagementError, match="after its segment ended"):
        cache.replace({})


def test_a_cache_is_closed_by_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), FeatureCache() as cache:  # noqa: PT012
        cache.replace({"mid:in": torch.zeros(1)})
        raise ZeroDivisionError
    assert cache.closed
    assert len(cache) == 0


def test_replacing_drops_what_was_there() -> None:
    with FeatureCache() as cache:
        cache.replace({"a": torch.zeros(100)})
        cache.replace({"b": torch.zeros(10, dtype=torch.float16)})
        assert len(cache) == 1
        assert cache.peak_bytes == 400
        with pytest.raises(EngagementError, match="'a' was not recorded at the key step; recorded: b"):
            cache.read("a")
