"""MEMO's two peculiarities under acceleration: an audio stream beside the hidden map, and a memory of past frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from baselines.deepcache import DeepCache
from baselines.delta_dit import DeltaDiT
from baselines.faster_diffusion import FasterDiffusion
from baselines.taylorseer import TaylorSeer
from family import TOKEN_DIM, Draw, seeded_unet
from lcp_bench.accel.dfa import ForegroundConfig, with_foreground
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.scope import Scope, decoder_scope, delta_scope, shell_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import JointAudioConfig, TemporalConfig, UNetConfig
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.foreground import foreground_of
from lcp_bench.models.memo import branch_audio, branch_emotions, segment_conditions
from lcp_bench.models.memory import DECAY
from lcp_bench.models.unet import UNet
from lcp_bench.models.walk import stream_of
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import FlowMatching

FRAMES, PAST, SIDE = 4, 3, 8
KEYS = ScheduleConfig(key_steps=[0, 2])


@pytest.fixture(scope="module")
def unet() -> UNet:
    """Two levels of MEMO."""
    config = UNetConfig(
        norm_groups=8,
        channels=(32, 64),
        attention_levels=(True, False),
        heads=2,
        image_token_dim=TOKEN_DIM,
        joint_audio=JointAudioConfig(token_dim=TOKEN_DIM),
        temporal=TemporalConfig(heads=2, memory=True),
    )
    return seeded_unet(config)


def conditions_of(unet: UNet, seed: int = 5, previous: Conditions | None = None, branches: int = 2) -> Conditions:
    """Conditions of a segment whose past, sound and emotion are random."""
    draw, bank = Draw(seed), {}
    for layer in unet.topology.layers:
        if layer.name == "mid" or layer.name.rpartition(".")[2].isdecimal():
            length = (SIDE // 2**layer.level) ** 2
            bank[layer.name] = draw(branches * (1 + PAST), length, unet.config.channels[layer.level])
    audio = branch_audio(draw(FRAMES, 3, TOKEN_DIM), branches)
    emotions = branch_emotions(4, branches)
    past = None if previous is None else {name: site.memory for name, site in previous.sites.items()}
    return segment_conditions(unet, bank, draw(branches, 4, TOKEN_DIM), audio, emotions, past)


def latents(seed: int = 2, members: int = 1) -> Tensor:
    """Random latents (1, members, C, frames, h, w)."""
    return Draw(seed)(1, members, 4, FRAMES, SIDE, SIDE)


SMALL = UNetConfig(channels=(32, 64), attention_levels=(True, False)).topology
SCOPES = (
    shell_scope(SMALL, "up.1.2"),
    shell_scope(SMALL, "up.1.0"),
    shell_scope(SMALL, "up.0.1"),
    decoder_scope(SMALL),
    delta_scope(SMALL, "down.0.1", "up.1.1"),
)


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)
@torch.inference_mode()
def test_a_follower_on_its_own_key_step_is_the_full_pass(scope: Scope, unet: UNet) -> None:
    conditions, time = conditions_of(unet), unet.embed_time([600.0])
    with FeatureCache() as cache:
        full = unet(latents(), time, conditions, cache=cache, record=scope.reads(unet.topology))
        again = unet(latents(), time, conditions, cache=cache, scope=scope)
    torch.testing.assert_close(again, full, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_audio_stream_is_a_part_of_the_feature(unet: UNet) -> None:
    """Another stream beside the same hidden map makes another prediction."""
    conditions, time, scope = conditions_of(unet), unet.embed_time([600.0]), shell_scope(SMALL, "up.1.1")
    with FeatureCache() as cache:
        unet(latents(), time, conditions, cache=cache, record=["up.1.1:in"])
        kept = {name: cache.read(name) for name in ("up.1.1:in", stream_of("up.1.1:in"))}
        assert kept[stream_of("up.1.1:in")].shape == (2 * FRAMES, 3, TOKEN_DIM)
        full = unet(latents(), time, conditions, cache=cache, scope=scope)
        cache.replace(kept | {stream_of("up.1.1:in"): torch.zeros(2 * FRAMES, 3, TOKEN_DIM)})
        silent = unet(latents(), time, conditions, cache=cache, scope=scope)
    assert (silent - full).abs().max() > 1e-3


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)
@torch.inference_mode()
def test_followers_together_are_followers_one_by_one(scope: Scope, unet: UNet) -> None:
    """The memory serves every member."""
    conditions, times = conditions_of(unet), unet.embed_time([500.0, 400.0, 300.0])
    inputs = latents(7, members=3)
    with FeatureCache() as cache:
        unet(latents(), unet.embed_time([600.0]), conditions, cache=cache, record=scope.reads(unet.topology))
        together = unet(inputs, times, conditions, cache=cache, scope=scope, steps=(1, 2, 3))
        for member in range(3):
            one = (inputs[:, member : member + 1], times[member : member + 1])
            alone = unet(*one, conditions, cache=cache, scope=scope)
            torch.testing.assert_close(together[:, member : member + 1], alone, rtol=1e-5, atol=1e-5)


def strategies() -> list[Strategy]:
    """Strategies that re-enter the network in different ways."""
    return [
        LightningCP(LightningCP.Config(schedule=KEYS, site="up.1.2")),
        DeepCache(DeepCache.Config(schedule=KEYS, branch=1)),
        FasterDiffusion(FasterDiffusion.Config(schedule=KEYS, prior_noise=0.0)),
        DeltaDiT(DeltaDiT.Config(schedule=KEYS, cut="outer")),
        TaylorSeer(TaylorSeer.Config(schedule=KEYS, site="up.1.2")),
    ]


@pytest.mark.parametrize("strategy", strategies(), ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("branches", [1, 2])
def test_the_sampler_runs_every_strategy(strategy: Strategy, branches: int, unet: UNet) -> None:
    """The counters agree with the plan, and the caches leave the memory as it was."""
    plan = strategy.check(unet.topology, num_steps=5, eta=0.0)
    with torch.inference_mode():
        conditions = conditions_of(unet, branches=branches)
        before = {name: [m.values.clone() for m in site.memory] for name, site in conditions.sites.items()}
    result = Sampler(unet, strategy, plan, FlowMatching(5), 3.5).denoise(latents()[0], conditions)
    assert torch.isfinite(result.latents).all()
    for name, values in before.items():
        kept = conditions.sites[name].memory
        assert len(kept) == 2
        assert all(torch.equal(memory.values, value) for memory, value in zip(kept, values, strict=True))


@torch.inference_mode()
def test_memory_fades_and_grows(unet: UNet) -> None:
    """By the constant per past frame, in every layer with a temporal module, plain ones included."""
    first, alone = conditions_of(unet, 1), conditions_of(unet, 2)
    second = conditions_of(unet, 2, previous=first)
    assert set(second.sites) == {"down.0.0", "down.0.1", "down.1.0", "down.1.1", "mid"} | {
        f"up.{block}.{layer}" for block in range(2) for layer in range(3)
    }
    for name, site in second.sites.items():
        for now, before, new in zip(site.memory, first.sites[name].memory, alone.sites[name].memory, strict=True):
            torch.testing.assert_close(now.values, DECAY**PAST * before.values + new.values)
            torch.testing.assert_close(now.weights, DECAY**PAST * before.weights + new.weights)
    time = unet.embed_time([500.0])
    assert (unet(latents(), time, second) - unet(latents(), time, alone)).abs().max() > 1e-3


@torch.inference_mode()
def test_the_emotion_and_the_sound_reach_the_conditional_branch_only(unet: UNet) -> None:
    draw, time = Draw(3), unet.embed_time([500.0])
    conditions = conditions_of(unet)
    assert conditions.audio_stream is not None
    louder = conditions.audio_stream.clone()
    louder[FRAMES:] = draw(FRAMES, 3, TOKEN_DIM)
    plain = unet(latents(), time, conditions)
    changed = unet(latents(), time, replace(conditions, audio_stream=louder))
    assert torch.equal(plain[0], changed[0])
    assert (plain[1] - changed[1]).abs().max() > 1e-3
    assert float(conditions.audio_stream[:FRAMES].abs().max()) == 0


@torch.inference_mode()
def test_a_foreground_takes_its_own_cells_of_the_memory(unet: UNet) -> None:
    """Attention over time is per cell: with the key step's own inputs, some cells and the kept rest are all cells."""
    mask = Draw(40)(SIDE, SIDE) > 0.3
    conditions = replace(conditions_of(unet), foreground=[foreground_of(mask), foreground_of(mask[::2, ::2])])
    scope = with_foreground(SCOPES[0], ForegroundConfig(parts=("temporal",)), unet.topology)
    time = unet.embed_time([600.0])
    with FeatureCache() as cache:
        full = unet(latents(), time, conditions, cache=cache, record=scope.reads(unet.topology))
        again = unet(latents(), time, conditions, cache=cache, scope=scope)
    assert any("temporal" in feature for feature in scope.reads(unet.topology))
    torch.testing.assert_close(again, full, rtol=1e-5, atol=1e-5)
