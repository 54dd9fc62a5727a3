"""What every strategy must hold, on the tiny Hallo; strategies are found in conf/accel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from family import Draw, counted_calls
from lcp_bench.accel.schedule import Plan
from lcp_bench.accel.strategy import Strategy
from lcp_bench.config import RunConfig, build_strategy
from lcp_bench.errors import ConfigError, EngagementError
from lcp_bench.generate import ClipConstants, Segment, generate_segments
from lcp_bench.models.foreground import foreground_levels
from lcp_bench.models.hallo import Hallo
from lcp_bench.preflight import load_run_config
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM

STEPS = 5
FRAMES = 2
BASE = (
    "+model=hallo", "model.size=tiny", "model.weights=seeded", f"sampler.steps={STEPS}",
    f"model.frames_per_segment={FRAMES}", "model.presets.key_steps=2", "model.presets.equal_cost_steps=3",
)  # fmt: skip

NEVER_SKIP = {
    "none": (),
    "fewer_steps": (f"accel.steps={STEPS}",),
    "deepcache": (f"accel.schedule.key_steps={STEPS}",),
    "faster_diffusion": (f"accel.schedule.key_steps={STEPS}", "accel.prior_noise=0"),
    "delta_dit": (f"accel.schedule.key_steps={STEPS}",),
    "taylorseer": (f"accel.schedule.key_steps={STEPS}",),
    "dbcache": ("accel.threshold=0",),
    "adacache": ("accel.codebook=[[1.0,1]]",),
    "lcp": (f"accel.schedule.key_steps={STEPS}",),
    "lcp_dfa": (f"accel.schedule.key_steps={STEPS}",),
    "lcp_dfa_rm": (f"accel.schedule.key_steps={STEPS}", "accel.reference.sites=[]"),
    "lcp_no_estimation": (f"accel.schedule.key_steps={STEPS}",),
    "lcp_sequential": (f"accel.schedule.key_steps={STEPS}",),
}
"""One line per strategy: the options with which it must be bit-equal to `none`."""

IN_FEW_STEPS = {
    "dbcache": ("accel.warmup=1", "accel.threshold=0.99"),
    "adacache": ("accel.codebook=[[1.0,3]]",),
}
"""Options with which a strategy skips something in five steps, where its defaults would not."""

FOUND = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/accel").glob("*.yaml"))
every_strategy = pytest.mark.parametrize("name", FOUND)
ALSO_WITHOUT_GUIDANCE = ("lcp", "dbcache")
"""Strategies that the default suite takes without guidance too: a fixed plan and a gate; the others are slow."""


def test_every_strategy_has_its_line() -> None:
    assert set(FOUND) == set(NEVER_SKIP), "add a line to NEVER_SKIP for a new conf/accel/NAME.yaml"


@cache
def configured(*words: str) -> RunConfig:
    """A configuration, by the way of a user's command."""
    return load_run_config([*BASE, *words])


def make_sampler(model: Hallo, *words: str) -> Sampler:
    """The sampler of a command."""
    config = configured(*words)
    strategy = build_strategy(config)
    plan = strategy.check(model.unet.topology, num_steps=config.sampler.steps, eta=config.sampler.eta)
    with torch.inference_mode():
        return Sampler(model.unet, strategy, plan, DDIM(plan.num_steps), config.sampler.guidance_scale)


@pytest.fixture(scope="module")
def constants(tiny_hallo: Hallo) -> dict[int, ClipConstants]:
    """A clip of two segments, without and with guidance."""
    draw = Draw(11)
    embedding, windows = draw(512), draw(2 * FRAMES, 5, 3, 32)
    portrait, region = draw(3, 64, 64).clamp(-1, 1), draw(3, 64, 64).sigmoid()
    with torch.inference_mode():
        tokens = tiny_hallo.identity_tokens(embedding)
        audio, face = tiny_hallo.audio_tokens(windows), tiny_hallo.face_feature(region)
    masks = [draw(3, 1, count, 1).sigmoid() for count in (64, 16, 4, 1)]
    picture = torch.zeros(64, 64)
    picture[16:56, 8:48] = 1
    cells = foreground_levels(picture, (8, 8), 4)
    return {n: ClipConstants(portrait, tokens[-n:], audio, masks, face, n, cells) for n in (1, 2)}


def noise_source() -> Callable[[tuple[int, ...]], Tensor]:
    """One generator per clip."""
    draw = Draw(12)
    return lambda shape: draw(*shape)


def generate(model: Hallo, sampler: Sampler, constants: ClipConstants) -> list[Segment]:
    """Both segments."""
    return list(generate_segments(model, sampler, constants, noise_source()))


@pytest.fixture(scope="module")
def unaccelerated(tiny_hallo: Hallo, constants: dict[int, ClipConstants]) -> dict[int, list[Segment]]:
    """The baseline's segments by number of branches."""
    return {n: generate(tiny_hallo, make_sampler(tiny_hallo, "+accel=none"), constants[n]) for n in (1, 2)}


class Made(NamedTuple):
    """What a strategy made of the clip, once for all tests of it."""

    name: str
    branches: int
    sampler: Sampler
    segments: list[Segment]
    calls: Counter[str]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (name, branches),
            id=f"{name}-{branches}",
            marks=() if branches == 2 or name in ALSO_WITHOUT_GUIDANCE else pytest.mark.slow,
        )
        for name in FOUND
        for branches in (1, 2)
    ],
)
def made(
    request: pytest.FixtureRequest,
    tiny_hallo: Hallo,
    constants: dict[int, ClipConstants],
    unaccelerated: dict[int, list[Segment]],
) -> Made:
    """Both segments, with and without guidance, the calls of all layers counted; after the baseline was made."""
    name, branches = request.param
    sampler = make_sampler(tiny_hallo, f"+accel={name}", *IN_FEW_STEPS.get(name, ()))
    with counted_calls(tiny_hallo.unet) as calls:
        segments = generate(tiny_hallo, sampler, constants[branches])
    return Made(name, branches, sampler, segments, calls)


def test_a_clip_of_two_segments(made: Made, tiny_hallo: Hallo, unaccelerated: dict[int, list[Segment]]) -> None:
    """Finite, as planned by counts from outside, and different from the baseline if it skips anything."""
    expected: Counter[str] = Counter()
    for segment in made.segments:
        assert (segment.decisions is not None) == made.sampler.plan.open
        plan = segment.decisions.plan if segment.decisions else made.sampler.plan
        expected.update(tiny_hallo.unet.topology.names * len(plan.key_steps))
        for group in plan.groups:
            # followers of a parallel group share one call
            for step in group.followers[:1] if group.parallel else group.followers:
                expected.update(made.sampler.scopes[step].evaluated)
    assert made.calls == expected
    for segment, baseline in zip(made.segments, unaccelerated[made.branches], strict=True):
        assert torch.isfinite(segment.latents).all()
        assert segment.frames.shape == (FRAMES, 3, 64, 64)
        assert segment.frames.aminmax().min >= 0
        assert segment.frames.aminmax().max <= 1
        assert torch.equal(segment.latents, baseline.latents) == (made.name == "none")


def test_a_second_run_is_the_same_and_does_not_change_the_network(
    made: Made, tiny_hallo: Hallo, constants: dict[int, ClipConstants]
) -> None:
    """The same modules with the same forwards and no hooks; the first segment bit for bit."""
    modules = dict(tiny_hallo.unet.named_modules())
    attached = {key: dict(module.__dict__) for key, module in modules.items()}
    clip = constants[made.branches]
    (again,) = generate(tiny_hallo, made.sampler, replace(clip, audio_tokens=clip.audio_tokens[:FRAMES]))
    assert torch.equal(again.latents, made.segments[0].latents)
    assert dict(tiny_hallo.unet.named_modules()) == modules
    for key, module in modules.items():
        assert set(module.__dict__) == set(attached[key])
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in module.__dict__


def test_the_second_segment_knows_nothing_of_the_firsts_cache(
    made: Made, tiny_hallo: Hallo, constants: dict[int, ClipConstants]
) -> None:
    """Given the motion frames, a sampler that never saw the first segment makes the same second one."""
    first, second = made.segments
    clip, draw = constants[made.branches], Draw(12)
    draw(*first.latents.shape)
    with torch.inference_mode():
        motion = tiny_hallo.encode(first.frames[-1:] * 2 - 1)
        reference = torch.cat([tiny_hallo.encode(clip.portrait[None]), motion])
        bank = tiny_hallo.reference_bank(reference, clip.image_tokens)
        conditions = tiny_hallo.conditions(
            bank, clip.image_tokens, clip.audio_tokens[FRAMES:], clip.masks, clip.face_feature
        )
    conditions = replace(conditions, foreground=clip.foreground)
    fresh = make_sampler(tiny_hallo, f"+accel={made.name}", *IN_FEW_STEPS.get(made.name, ()))
    alone = fresh.denoise(draw(*first.latents.shape), conditions)
    assert torch.equal(alone.latents, second.latents)


def test_never_skip_is_no_acceleration(
    made: Made, tiny_hallo: Hallo, constants: dict[int, ClipConstants], unaccelerated: dict[int, list[Segment]]
) -> None:
    """Bit-equal to the baseline made before, on a network that the strategy has skipped parts of in the meantime."""
    sampler = make_sampler(tiny_hallo, f"+accel={made.name}", *NEVER_SKIP[made.name])
    segments = generate(tiny_hallo, sampler, constants[made.branches])
    for segment, wanted in zip(segments, unaccelerated[made.branches], strict=True):
        assert torch.equal(segment.latents, wanted.latents)
        assert torch.equal(segment.frames, wanted.frames)
        assert segment.engagement.computed == wanted.engagement.computed
        assert not segment.engagement.reused
        assert segment.cache_bytes == 0


def test_motion_frames_reach_the_second_segment(tiny_hallo: Hallo, constants: dict[int, ClipConstants]) -> None:
    """Swapping the first segment's speech changes the second segment, though its own speech is the same."""
    sampler, clip = make_sampler(tiny_hallo, "+accel=lcp"), constants[2]
    audio = clip.audio_tokens.clone()
    audio[:FRAMES] = audio[:FRAMES].flip(0) * 2
    other = replace(clip, audio_tokens=audio)
    (_, usual), (_, changed) = generate(tiny_hallo, sampler, clip), generate(tiny_hallo, sampler, other)
    assert (usual.latents - changed.latents).abs().max() > 1e-4


def test_no_motion_frames(tiny_hallo: Hallo, constants: dict[int, ClipConstants]) -> None:
    """Segments then differ by speech and noise alone: the second one does not see the first."""
    still = Hallo(tiny_hallo.modules, frames=FRAMES, motion_frames=0)
    sampler, clip = make_sampler(still, "+accel=lcp"), constants[2]
    other = replace(clip, audio_tokens=clip.audio_tokens.flip(0))
    other.audio_tokens[FRAMES:] = clip.audio_tokens[FRAMES:]
    (first, second), (changed, same) = generate(still, sampler, clip), generate(still, sampler, other)
    assert not torch.equal(first.latents, changed.latents)
    assert torch.equal(second.latents, same.latents)


@every_strategy
def test_a_network_that_computes_more_than_planned_is_caught(
    name: str, tiny_hallo: Hallo, constants: dict[int, ClipConstants], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = make_sampler(tiny_hallo, f"+accel={name}")
    inner = sampler.unet.forward

    def twice(*args: object, **told: object) -> Tensor:
        inner(*args, **told)
        return inner(*args, **told)

    monkeypatch.setattr(sampler.unet, "forward", twice)
    with pytest.raises(EngagementError, match=r"was computed 2 times, the plan says [01]"):
        generate(tiny_hallo, sampler, constants[1])


@every_strategy
def test_a_plan_needs_no_tensor_and_does_not_change(name: str) -> None:
    first, second = (build_strategy(configured(f"+accel={name}")).plan(STEPS) for _ in range(2))
    assert first == second
    assert isinstance(first, Plan)
    assert first.num_steps <= STEPS
    assert all(a.key < b.key for a, b in pairwise(first.groups))


@every_strategy
def test_a_stochastic_sampler_is_refused(name: str) -> None:
    """The scheduler has no eta: a run that asks for it must not silently get none of it, `none` included."""
    with pytest.raises(ConfigError, match=r"sampler\.eta"):
        load_run_config([*BASE, f"+accel={name}", "sampler.eta=0.5"])


def words_for_lcp(*words: str) -> Strategy:
    """LightningCP from a command."""
    return build_strategy(load_run_config([*BASE, "+accel=lcp", *words]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("accel.site=up.4.0",), r"unknown site 'up\.4\.0'.*This model has: conv_in"),
        (("accel.site=mid",), r"site 'mid' has no skip to resume with; expected one of: up\.0\.0"),
        (("accel.site=up.4.0", f"accel.schedule.key_steps={STEPS}"), r"unknown site 'up\.4\.0'"),
        (("accel.schedule.key_steps=6",), r"key_steps must be in 1\.\.5 \(sampler\.steps=5\), got 6"),
        (("accel.schedule.key_steps=[0,5]",), r"stay within 0\.\.4"),
        (("accel.schedule.key_steps=[1,2]",), "must rise from 0"),
        (("accel.schedule.key_steps=2", "accel.schedule.max_followers=1"), r"leave a group with \d followers"),
        (("accel.hold=speed",), r"accel\.hold must be one of noise, output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_lightningcp_refuses(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        words_for_lcp(*words)


def test_fewer_steps_refuses_more_steps() -> None:
    with pytest.raises(ConfigError, match=r"accel\.steps=6 is more than sampler\.steps=5"):
        load_run_config([*BASE, "+accel=fewer_steps", "accel.steps=6"])
    with pytest.raises(ConfigError, match=r"accel\.steps must be 1 or more, got 0"):
        load_run_config([*BASE, "+accel=fewer_steps", "accel.steps=0"])


def test_fewer_steps_is_the_shorter_run(tiny_hallo: Hallo, constants: dict[int, ClipConstants]) -> None:
    """Not a subset of the long run's timesteps: the same as asking the sampler for fewer."""
    fewer = generate(tiny_hallo, make_sampler(tiny_hallo, "+accel=fewer_steps"), constants[2])
    short = generate(tiny_hallo, make_sampler(tiny_hallo, "+accel=none", "sampler.steps=3"), constants[2])
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(fewer, short, strict=True))


OPTIONS = (
    "accel.parallel=false", "accel.estimate=false", "accel.hold=output", "accel.estimate_from_step=0",
    "accel.estimate_from_step=3", "accel.site=up.3.1", "accel.schedule.key_steps=[0,1,3]",
    "accel.attention.dilation=0", "accel.attention.feed_forward=true", "accel.reference.sites=[up.3.1]",
)  # fmt: skip


def test_every_option_of_lightningcp_does_something(tiny_hallo: Hallo, constants: dict[int, ClipConstants]) -> None:
    """Groups of key 0 (followers 1, 2) and key 3 (4, 5, 6); by default, from 7 // 4 on, only the second estimates."""
    clip = constants[1]
    one = replace(clip, audio_tokens=clip.audio_tokens[:FRAMES])
    fixed = ("+accel=lcp", "sampler.steps=7", "accel.schedule.key_steps=[0,3]")
    results = {
        option: generate(tiny_hallo, make_sampler(tiny_hallo, *fixed, *filter(None, [option])), one)[0].latents
        for option in ("", *OPTIONS)
    }
    same = {(a, b) for a in results for b in results if a < b and torch.equal(results[a], results[b])}
    # a threshold of 3 lets the group of key 3 estimate, as the default does
    assert same == {("", "accel.estimate_from_step=3")}
