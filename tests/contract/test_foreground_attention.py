"""Foreground attention: what is computed, what comes from the key step, and when it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cover import combinations
from family import Draw, counted_calls, random_conditions
from lcp_bench.accel.dfa import PARTS, ForegroundConfig, ForegroundRule
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.errors import ConfigError, EngagementError
from lcp_bench.models.attention import Attention, KeysValues, ReferenceContext, TransformerBlock
from lcp_bench.models.audio import MaskedAudioBlock
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import TemporalConfig
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.foreground import Foreground, KeptRows, MergedRows, foreground_of
from lcp_bench.models.hallo import SIZES, Hallo, build_modules
from lcp_bench.models.temporal import TemporalTransformer
from lcp_bench.models.topology import unet_topology
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1
from lcp_bench.sampling import Sampler, SegmentResult
from lcp_bench.schedulers import DDIM

SMALL, SHAPE = unet_topology(2, 2), (1, 4, 4, 8, 8)
KEYS, STEPS = [0, 1, 4], 6
MASKS = {
    "everything": torch.ones(8, 8, dtype=torch.bool),
    "nothing": torch.zeros(8, 8, dtype=torch.bool),
    "one cell": torch.arange(64).reshape(8, 8) == 27,
    "some": Draw(40)(8, 8) > 0.3,
}
every_mask = pytest.mark.parametrize("mask", MASKS)
both_guidances = pytest.mark.parametrize("branches", [1, 2])


def strategy(attention: ForegroundConfig | None, **options: Any) -> LightningCP:
    """LightningCP at the last up layer of the small network; by default one by one, so that nothing is estimated."""
    options = {"site": "up.1.2", "parallel": False, **options}
    return LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=KEYS), attention=attention, **options))


def with_foreground(conditions: Conditions, mask: Tensor) -> Conditions:
    """Foreground of both levels; only the finer one has attention with reference there."""
    return replace(conditions, foreground=[foreground_of(mask), foreground_of(mask[::2, ::2])])


def run(unet: UNet, plan: LightningCP, conditions: Conditions, steps: int = STEPS) -> SegmentResult:
    """Denoise a segment."""
    checked = plan.check(SMALL, num_steps=steps, eta=0.0)
    with torch.inference_mode():
        return Sampler(unet, plan, checked, DDIM(steps), 3.5).denoise(Draw(2)(*SHAPE), conditions)


# ------------------------------------------------------------------ nothing restricted


@both_guidances
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("site", ["up.1.2", "up.1.0"])
def test_a_mask_of_ones_is_no_mask(
    branches: int, parallel: bool, feed_forward: bool, site: str, small_unet: UNet
) -> None:
    """Bit for bit; only the counters show that something would have been read."""
    conditions = with_foreground(random_conditions(small_unet, branches=branches), MASKS["everything"])
    config = ForegroundConfig(feed_forward=feed_forward)
    plain, masked = (
        run(small_unet, strategy(attention, parallel=parallel, site=site), conditions) for attention in (None, config)
    )
    assert torch.equal(plain.latents, masked.latents)
    assert plain.engagement.computed == masked.engagement.computed
    assert masked.engagement.reused > plain.engagement.reused
    assert masked.cache_bytes == plain.cache_bytes


@both_guidances
@every_mask
def test_recording_the_background_changes_no_key_step(branches: int, mask: str, small_unet: UNet) -> None:
    conditions = with_foreground(random_conditions(small_unet, branches=branches), MASKS[mask])
    latents, time = Draw(1)(1, 1, 4, 4, 8, 8), small_unet.embed_time([400.0])
    rule = strategy(ForegroundConfig(feed_forward=True))
    scope = rule.follower_scope(2, rule.plan(STEPS), SMALL)
    with torch.inference_mode(), FeatureCache() as cache:
        plain = small_unet(latents, time, conditions)
        recorded = small_unet(latents, time, conditions, cache=cache, record=scope.reads(SMALL))
    assert torch.equal(plain, recorded)


# ------------------------------------------------------------------ the equation


def naive(attention: Attention, queries: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
    """Dense attention under an explicit mask, with everything written out; what is not seen has weight zero."""
    q, k, v = attention.to_q(queries), attention.to_k(keys), attention.to_v(keys)
    heads = [tensor.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for tensor in (q, k, v)]
    scores = heads[0] @ heads[1].transpose(-1, -2) / heads[0].shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return attention.to_out[0]((weights @ heads[2]).transpose(1, 2).flatten(2))


def kept_and_merged(cells: Foreground, rule: ForegroundRule) -> tuple[KeptRows, MergedRows, dict[str, Tensor]]:
    """Rows of a key step, and of a follower that reads what it kept."""
    kept: dict[str, Tensor] = {}
    keep = KeptRows(cells, rule.operations, kept.__setitem__)
    return keep, MergedRows(cells, rule, kept.__getitem__), kept


def rule_of(**options: bool) -> ForegroundRule:
    """A rule for single modules."""
    return ForegroundRule(frozenset(), frozenset(PARTS), **options)


@every_mask
@pytest.mark.parametrize("projections", [True, False])
@pytest.mark.parametrize("reference_keys", [True, False])
@pytest.mark.parametrize("feed_forward", [True, False])
@torch.inference_mode()
def test_gathered_attention_is_masked_attention(
    mask: str, projections: bool, reference_keys: bool, feed_forward: bool
) -> None:
    """A_F = softmax(Q_F K_F^T / sqrt(d)) V_F inside, the key step's rows outside; six rows, of which two are plain."""
    block, draw = TransformerBlock(16, 2, None), Draw(5)
    apply_seeded_v1(block, 7)
    before, now, portrait = draw(6, 64, 16), draw(6, 64, 16), draw(2, 64, 16)
    cells, flat = foreground_of(MASKS[mask]), MASKS[mask].flatten()
    rule = rule_of(projections=projections, reference_keys=reference_keys, feed_forward=feed_forward)
    keep, merge, kept = kept_and_merged(cells, rule)
    reference = ReferenceContext(block.attn1.project(portrait), 2)
    block(before, reference, None, None, keep)
    got = block(now, reference, None, None, merge)
    assert set(kept) == set(rule.operations)
    assert kept["attention"].shape == (6, int((~flat).sum()), 16)

    def attended(x: Tensor, own: Tensor, ref: Tensor) -> Tensor:
        normed = block.norm1(x)
        both = torch.cat([normed[2:], portrait.repeat(2, 1, 1)], dim=1)
        first = naive(block.attn1, normed[:2], normed[:2], own)
        return torch.cat([first, naive(block.attn1, normed[2:], both, torch.cat([own, ref]))])

    everything = torch.ones(64, dtype=torch.bool)
    old = attended(before, everything, everything)
    new = old
    if flat.any():
        new = attended(now, flat, flat if reference_keys else everything)
    inside = flat[None, :, None]
    x = now + torch.where(inside, new, old)
    fed, fed_before = block.ff(block.norm3(x)), block.ff(block.norm3(before + old))
    want = x + (torch.where(inside, fed, fed_before) if feed_forward else fed)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@every_mask
@pytest.mark.parametrize("projections", [True, False])
@torch.inference_mode()
def test_audio_self_attention(mask: str, projections: bool) -> None:
    """The same for the audio module; its cross-attentions hear everywhere."""
    block, draw = MaskedAudioBlock(16, 2, 8, ("full",)), Draw(6)
    apply_seeded_v1(block, 7)
    before, now = draw(3, 64, 16), draw(3, 64, 16)
    audio, ears = [block.cross_attention(0).project(draw(3, 5, 8))], draw(1, 1, 64, 1).sigmoid()
    cells, flat = foreground_of(MASKS[mask]), MASKS[mask].flatten()
    keep, merge, _ = kept_and_merged(cells, rule_of(projections=projections))
    block(before, audio, ears, (1.0,), keep)
    got = block(now, audio, ears, (1.0,), merge)
    old = block.attn1(block.norm1(before))
    new = naive(block.attn1, block.norm1(now), block.norm1(now), flat) if flat.any() else old
    x = now + torch.where(flat[None, :, None], new, old)
    heard = block.cross_attention(0)(block.norm2(x), audio[0]) * ears[0]
    x = x + block.zero_conv_full(heard.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    torch.testing.assert_close(got, x + block.ff(block.norm3(x)), rtol=1e-4, atol=1e-5)


@every_mask
@pytest.mark.parametrize("projections", [True, False])
@pytest.mark.parametrize("motion", [True, False])
@torch.inference_mode()
def test_temporal_attention(mask: str, projections: bool, motion: bool) -> None:
    """Foreground cells see all frames of their own place; the others get the sum of what both attentions added."""
    module, draw = TemporalTransformer(32, TemporalConfig(heads=2)), Draw(7)
    apply_seeded_v1(module, 7, [name for name, _ in module.named_buffers()])
    before, now = draw(2 * 4, 32, 8, 8), draw(2 * 4, 32, 8, 8)
    ahead = module.project_motion(draw(2, 3, 64, 32)) if motion else None
    cells, inside = foreground_of(MASKS[mask]), MASKS[mask]
    keep, merge, _ = kept_and_merged(cells, rule_of(projections=projections))
    plain = module(before, 4, ahead)
    assert torch.equal(module(before, 4, ahead, keep), plain)
    got = module(now, 4, ahead, merge)
    torch.testing.assert_close(got[..., inside], module(now, 4, ahead)[..., inside], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[..., ~inside], background(module, before, now, ahead)[..., ~inside])


def background(module: TemporalTransformer, before: Tensor, now: Tensor, ahead: Tensor | None) -> Tensor:
    """The module on `now` with the attentions' additions of `before`."""

    def tokens(x: Tensor) -> Tensor:
        return (
            module.proj_in(module.norm(x).flatten(2).transpose(1, 2)).unflatten(0, (2, 4)).transpose(1, 2).flatten(0, 1)
        )

    old, added = tokens(before), []
    if ahead is not None:
        old = torch.cat([ahead.transpose(1, 2).flatten(0, 1), old], dim=1)
    module.block.attend(old, 4, added)
    y = tokens(now) + added[0] + added[1]
    y = module.proj_out(y + module.block.ff(module.block.ff_norm(y)))
    return now + y.unflatten(0, (2, 64)).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (8, 8))


# ------------------------------------------------------------------ in the sampler


@both_guidances
@every_mask
def test_every_mask_in_a_whole_segment(branches: int, mask: str, small_unet: UNet) -> None:
    """Finite, counted, and different from the unrestricted run unless everything is foreground."""
    conditions = with_foreground(random_conditions(small_unet, branches=branches), MASKS[mask])
    plain = run(small_unet, strategy(None), conditions)
    got = run(small_unet, strategy(ForegroundConfig()), conditions)
    assert torch.isfinite(got.latents).all()
    assert torch.equal(got.latents, plain.latents) == (mask == "everything")
    features = [f"up.1.2:{part}.attention" for part in ("reference", "audio", "temporal")]
    followers = [step for step in range(STEPS) if step not in KEYS]
    extra = got.engagement.reused - plain.engagement.reused
    assert extra == {(step, name): 1 for step in followers for name in features}
    outside = int((~MASKS[mask]).sum())
    assert got.cache_bytes - plain.cache_bytes == 3 * branches * 4 * outside * 32 * 4


@torch.inference_mode()
def test_an_empty_mask_repeats_the_key_steps_attention(small_unet: UNet) -> None:
    """On the key step's own latents and time a follower then predicts what the key step predicted."""
    conditions = with_foreground(random_conditions(small_unet), MASKS["nothing"])
    chosen = strategy(ForegroundConfig(feed_forward=True))
    scope = chosen.follower_scope(2, chosen.plan(STEPS), SMALL)
    latents, time = Draw(1)(1, 1, 4, 4, 8, 8), small_unet.embed_time([400.0])
    with FeatureCache() as cache:
        key = small_unet(latents, time, conditions, cache=cache, record=scope.reads(SMALL))
        again = small_unet(latents, time, conditions, scope=scope, cache=cache)
        other = small_unet(latents + 0.5, time, conditions, scope=scope, cache=cache)
    torch.testing.assert_close(again, key, rtol=1e-4, atol=1e-5)
    assert (other - key).abs().max() > 1e-2, "the rest of the layer still sees the new latents"


@pytest.mark.parametrize(
    ("mask", "branches", "feed_forward"), combinations(["some", "one cell", "nothing"], [1, 2], [True, False])
)
def test_any_batch_gives_the_same(branches: int, mask: str, feed_forward: bool, small_unet: UNet) -> None:
    """Five followers at once, or at most `batch` at a time, and never more calls than that."""
    conditions = with_foreground(random_conditions(small_unet, branches=branches), MASKS[mask])
    options: dict[str, Any] = {"parallel": True, "estimate_from_step": 0}
    config = ForegroundConfig(feed_forward=feed_forward)
    results, calls = [], []
    for batch in (None, 1, 2, 3):
        with counted_calls(small_unet) as counted:
            results.append(run(small_unet, strategy(config, batch=batch, **options), conditions, steps=10))
        calls.append(counted["up.1.2"])
    whole, *limited = results
    for result in limited:
        torch.testing.assert_close(whole.latents, result.latents, rtol=1e-4, atol=1e-4)
        assert whole.engagement.reused == result.engagement.reused
    # keys 0, 1 and 4 leave groups of 0, 2 and 5 followers
    assert calls == [3 + 1 + 1, 3 + 2 + 5, 3 + 1 + 3, 3 + 1 + 2]


def test_the_reference_of_the_background_is_out_of_sight(small_unet: UNet) -> None:
    """Reference features outside of the mask matter only without `reference_keys`."""
    base = with_foreground(random_conditions(small_unet, branches=1), MASKS["some"])
    site = base.sites["up.1.2"]
    assert site.reference is not None
    outside = (~MASKS["some"]).flatten()[None, :, None]
    other = KeysValues(*(torch.where(outside, -tensor, tensor) for tensor in site.reference))
    moved = replace(base, sites={**base.sites, "up.1.2": replace(site, reference=other)}, _by_members={})
    for sees_all, equal in ((False, True), (True, False)):
        chosen = strategy(ForegroundConfig(reference_keys=not sees_all, sites=("up.1.2",), parts=("reference",)))
        scope = chosen.follower_scope(2, chosen.plan(STEPS), SMALL)
        results = [one_follower(small_unet, scope, base, follower) for follower in (base, moved)]
        assert torch.equal(*results) is equal


def one_follower(unet: UNet, scope: Any, key: Conditions, follower: Conditions) -> Tensor:
    """A follower's prediction, its key step having had other conditions."""
    latents, time = Draw(1)(1, 1, 4, 4, 8, 8), unet.embed_time([400.0])
    with torch.inference_mode(), FeatureCache() as cache:
        unet(latents, time, key, cache=cache, record=scope.reads(SMALL))
        return unet(latents, time, follower, scope=scope, cache=cache)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone(part: Any, small_unet: UNet) -> None:
    conditions = with_foreground(random_conditions(small_unet), MASKS["some"])
    alone, all_parts, none = (
        run(small_unet, strategy(attention), conditions).latents
        for attention in (ForegroundConfig(parts=(part,)), ForegroundConfig(), None)
    )
    assert not torch.equal(alone, none) and not torch.equal(alone, all_parts)


def test_without_a_foreground_nothing_runs(small_unet: UNet) -> None:
    with pytest.raises(ConfigError, match=r"restricts the attention of up\.1\.2 to the foreground, but the conditions"):
        run(small_unet, strategy(ForegroundConfig()), random_conditions(small_unet))


def test_a_key_step_that_kept_nothing_is_caught(small_unet: UNet) -> None:
    conditions = with_foreground(random_conditions(small_unet), MASKS["some"])
    chosen = strategy(ForegroundConfig())
    scope = chosen.follower_scope(2, chosen.plan(STEPS), SMALL)
    latents, time = Draw(1)(1, 1, 4, 4, 8, 8), small_unet.embed_time([400.0])
    with torch.inference_mode(), FeatureCache() as cache:
        small_unet(latents, time, conditions, cache=cache, record=("up.1.2:in", "up.1.2:audio.attention"))
        with pytest.raises(EngagementError, match=r"'up\.1\.2:reference\.attention' was not recorded"):
            small_unet(latents, time, conditions, scope=scope, cache=cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": ("up.9.*",)}, r"accel\.attention\.sites: 'up\.9\.\*' matches no layer.*This model has: down\.0\.0"),
        ({"sites": ("conv_in",)}, "'conv_in' matches no layer with attention"),
        ({"sites": ("down.0.0",)}, r"restricts nothing: followers evaluate attention in up\.1\.2"),
        ({"sites": ()}, "needs at least one site"),
        ({"parts": ()}, "needs at least one site and one part"),
        ({"coverage": 0.0}, "coverage must be above 0"),
        ({"dilation": -1}, "dilation must be in 0..64"),
        ({"assumed_ratio": 1.5}, "assumed_ratio must be in 0..1"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy(ForegroundConfig(**options)).check(SMALL, num_steps=STEPS, eta=0.0)


@pytest.mark.parametrize("parallel", [True, False])
def test_no_value_is_looked_at(parallel: bool) -> None:
    """A whole segment on tensors without values."""
    size, frames = SIZES["tiny"], 4
    model = Hallo(build_modules("tiny", "meta"), frames=frames)
    schedule = ScheduleConfig(key_steps=2)
    chosen = LightningCP(LightningCP.Config(schedule=schedule, parallel=parallel, attention=ForegroundConfig()))
    plan = chosen.check(model.unet.topology, num_steps=6, eta=0.0)
    empty, scheduler = torch.empty, DDIM(6)
    with torch.device("meta"):
        sampler = Sampler(model.unet, chosen, plan, scheduler, 3.5)
        tokens, face = empty(2, 4, size.token_dim), empty(1, size.channels[0], 8, 8)
        masks = [empty(3, 1, count, 1) for count in (64, 16, 4, 1)]
        bank = model.reference_bank(empty(3, 4, 8, 8), tokens)
        conditions = model.conditions(bank, tokens, empty(frames, size.audio_tokens, size.token_dim), masks, face)
        halves = [empty(count, dtype=torch.int64) for count in (32, 8, 2, 0, 1)]
        levels = [Foreground(half, half) for half in halves[:3]] + [Foreground(halves[3], halves[4])]
        result = sampler.denoise(empty(1, 4, frames, 8, 8), replace(conditions, foreground=levels))
    assert result.latents.shape == (1, 4, frames, 8, 8)


def test_several_layers_at_once(small_unet: UNet) -> None:
    """A wider shell restricts every layer with attention in it."""
    conditions = with_foreground(random_conditions(small_unet), MASKS["some"])
    result = run(small_unet, strategy(ForegroundConfig(), site="up.1.0"), conditions)
    names = {feature for _, feature in result.engagement.reused}
    sites = ("down.0.0", "down.0.1", "up.1.0", "up.1.1", "up.1.2")
    layers = [f"{site}:{part}.attention" for site in sites for part in PARTS]
    assert names == {"up.1.0:in", *layers}
