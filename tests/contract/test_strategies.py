"""What every strategy must hold on every skeleton; strategies are found in conf/accel, skeletons in `SKELETONS`.

By default every strategy meets every skeleton once, with and without guidance in turn (`cover`), but for those of
`IN_BRIEF`; the rest is slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cover import combinations, covering
from family import Draw, counted_calls
from lcp_bench.accel.schedule import Plan
from lcp_bench.accel.strategy import Strategy
from lcp_bench.config import RunConfig, build_strategy
from lcp_bench.errors import ConfigError, EngagementError
from lcp_bench.generate import ClipConstants, Segment, generate_segments
from lcp_bench.models.echomimic import EchoMimic
from lcp_bench.models.foreground import foreground_levels
from lcp_bench.models.hallo import Hallo
from lcp_bench.models.talking_head import TalkingHead
from lcp_bench.preflight import load_run_config
from lcp_bench.sampling import Sampler

STEPS = 5
FRAMES = 2
BASE = (
    "+model=hallo", "model.size=tiny", "model.weights=seeded", f"sampler.steps={STEPS}",
    f"model.frames_per_segment={FRAMES}", "model.presets.key_steps=2", "model.presets.equal_cost_steps=3",
)  # fmt: skip

ECHOMIMIC = (
    *(word.replace("=hallo", "=echomimic") for word in BASE), "model.window.overlap=0", "model.window.shift=1",
)  # fmt: skip
MEMO = (*(word.replace("=hallo", "=memo") for word in BASE), f"model.motion_frames={FRAMES}")
SKELETONS = {"hallo": BASE, "echomimic": ECHOMIMIC, "memo": MEMO}
"""Tiny model to the words of its command. The fixture `tiny_NAME` is the model, `NAME_clip` its clips by branches."""

IN_BRIEF = {"memo": ("lcp_dfa_rm", "dbcache")}
"""Skeleton to the few strategies that the default suite runs on it: for those that cost too much to run them all."""

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
    "lcp_rm": (f"accel.schedule.key_steps={STEPS}", "accel.reference.sites=[]"),
    "lcp_no_estimation": (f"accel.schedule.key_steps={STEPS}",),
    "lcp_sequential": (f"accel.schedule.key_steps={STEPS}",),
}
"""One line per strategy: the options with which it must be bit-equal to `none`."""

IN_FEW_STEPS = {
    "dbcache": ("accel.warmup=1", "accel.threshold=0.99"),
    "adacache": ("accel.codebook=[[1.0,3]]",),
}
"""Options with which a strategy skips something in five steps, where its defaults would not."""

STRATEGIES = Path(__file__).parents[2] / "conf/accel"
FOUND = sorted(path.stem for path in STRATEGIES.glob("*.yaml"))


def target_of(name: str) -> str:
    """Class of a strategy, as its file names it; that of the file it is made of, where it names none."""
    content = OmegaConf.load(STRATEGIES / f"{name}.yaml")
    return str(content["_target_"]) if "_target_" in content else target_of(str(content["defaults"][0]))


every_strategy = pytest.mark.parametrize("name", FOUND)
OF_A_CLASS = {target_of(name): name for name in reversed(FOUND)}.values()
"""One strategy per class: what only the class decides is shown on it by default, on its variants in the slow tests."""
CAUGHT = ("none", "lcp", "dbcache")
"""Strategies on which the default suite shows that miscounting is caught: no followers, a fixed plan, a gate."""


def test_every_strategy_has_its_line() -> None:
    assert set(FOUND) == set(NEVER_SKIP), "add a line to NEVER_SKIP for a new conf/accel/NAME.yaml"


@cache
def configured(*words: str, skeleton: str = "hallo") -> RunConfig:
    """A configuration, by the way of a user's command."""
    return load_run_config([*SKELETONS[skeleton], *words])


def make_sampler(model: TalkingHead, *words: str, skeleton: str = "hallo") -> Sampler:
    """The sampler of a command."""
    config = configured(*words, skeleton=skeleton)
    strategy = build_strategy(config)
    plan = strategy.check(model.unet.topology, num_steps=config.sampler.steps, eta=config.sampler.eta)
    with torch.inference_mode():
        scheduler = model.scheduler(plan.num_steps)
        return Sampler(model.denoiser, strategy, plan, scheduler, config.sampler.guidance_scale)


@pytest.fixture(scope="module")
def hallo_clip(constants: dict[int, ClipConstants]) -> dict[int, ClipConstants]:
    """See `SKELETONS`."""
    return constants


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


@pytest.fixture(scope="module")
def echomimic_clip(tiny_echomimic: EchoMimic) -> dict[int, ClipConstants]:
    """As many frames in one segment: two windows, which move by one frame per step and run over the video's end."""
    draw = Draw(13)
    tokens, region = draw(2 * FRAMES, 30, 32), draw(1, 64, 64).sigmoid()
    portrait, cells = draw(3, 64, 64).clamp(-1, 1), foreground_levels(torch.eye(64).cumsum(0), (8, 8), 4)
    with torch.inference_mode():
        face = tiny_echomimic.face_feature(region)
    return {n: ClipConstants(portrait, None, tokens, [], face, n, cells) for n in (1, 2)}


def first_segment(clip: ClipConstants) -> ClipConstants:
    """The clip without its second segment."""
    return replace(clip, audio_tokens=clip.audio_tokens[:FRAMES])


def generate(model: TalkingHead, sampler: Sampler, constants: ClipConstants) -> list[Segment]:
    """Both segments."""
    return list(generate_segments(model, sampler, constants, noise_source()))


Baselines = dict[tuple[str, int], list[Segment]]


@pytest.fixture(scope="module")
def baselines() -> Baselines:
    """The unaccelerated segments by skeleton and number of branches, each made when it is first asked for."""
    return {}


class Made(NamedTuple):
    """What a strategy made of the clip, once for all tests of it."""

    name: str
    skeleton: str
    model: TalkingHead
    clip: ClipConstants
    baseline: list[Segment]
    sampler: Sampler
    segments: list[Segment]
    calls: Counter[str]

    @property
    def beginning(self) -> ClipConstants:
        """The clip that has the first segment only."""
        return first_segment(self.clip) if len(self.segments) > 1 else self.clip

    def make_sampler(self, *options: str) -> Sampler:
        """Another sampler of the same strategy and model."""
        return make_sampler(self.model, f"+accel={self.name}", *options, skeleton=self.skeleton)


def in_brief(each: Any) -> Any:
    """A combination, slow if its skeleton is only run in brief and the strategy is not among those few."""
    name, skeleton, _ = each.values
    short = name in IN_BRIEF.get(skeleton, (name,)) or each.marks
    return pytest.param(each.values, id=each.id, marks=each.marks if short else pytest.mark.slow)


ALL = [in_brief(each) for each in combinations(FOUND, list(SKELETONS), (2, 1))]


def everywhere(default: Callable[[str, str], bool]) -> pytest.MarkDecorator:
    """A test of all combinations; slow where `default`, asked with strategy and skeleton, says no."""
    chosen = [
        each if default(*each.values[0][:2]) else pytest.param(*each.values, id=each.id, marks=pytest.mark.slow)
        for each in ALL
    ]
    return pytest.mark.parametrize("made", chosen, indirect=True, scope="module")


with_all = everywhere(lambda name, skeleton: True)
with_all_or_each_class = everywhere(lambda name, skeleton: skeleton == "hallo" or name in OF_A_CLASS)
with_each_class = everywhere(lambda name, skeleton: skeleton == "hallo" and name in OF_A_CLASS)


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, baselines: Baselines) -> Made:
    """Both segments, with and without guidance, the calls of all layers counted; after the baseline was made."""
    name, skeleton, branches = request.param
    model: TalkingHead = request.getfixturevalue(f"tiny_{skeleton}")
    clip: ClipConstants = request.getfixturevalue(f"{skeleton}_clip")[branches]
    if (skeleton, branches) not in baselines:
        plain = make_sampler(model, "+accel=none", skeleton=skeleton)
        baselines[skeleton, branches] = generate(model, plain, clip)
    sampler = make_sampler(model, f"+accel={name}", *IN_FEW_STEPS.get(name, ()), skeleton=skeleton)
    with counted_calls(model.unet) as calls:
        segments = generate(model, sampler, clip)
    return Made(name, skeleton, model, clip, baselines[skeleton, branches], sampler, segments, calls)


def test_the_default_covers_every_strategy_with_every_skeleton() -> None:
    chosen = covering(FOUND, list(SKELETONS), (2, 1))
    assert {(name, skeleton) for name, skeleton, _ in chosen} == set(product(FOUND, SKELETONS))
    assert {(skeleton, branches) for _, skeleton, branches in chosen} == set(product(SKELETONS, (1, 2)))
    models = covering(FOUND, ["one", "two"], (2, 1))
    assert {(name, branches) for name, _, branches in models} == set(product(FOUND, (1, 2)))


@with_all
def test_a_clip_of_two_segments(made: Made) -> None:
    """Finite, as planned by counts from outside, and different from the baseline if it skips anything."""
    expected: Counter[str] = Counter()
    for segment in made.segments:
        assert (segment.decisions is not None) == made.sampler.plan.open
        plan = segment.decisions.plan if segment.decisions else made.sampler.plan
        expected.update(made.model.unet.topology.names * len(plan.key_steps))
        for group in plan.groups:
            # followers of a parallel group share one call, but not in windows that cover different frames
            together = group.parallel and made.sampler.unet is made.model.unet
            for step in group.followers[:1] if together else group.followers:
                expected.update(made.sampler.scopes[step].evaluated)
    windows = made.model.passes(made.clip) / len(made.segments)
    assert made.calls == {layer: windows * count for layer, count in expected.items()}
    for segment, baseline in zip(made.segments, made.baseline, strict=True):
        assert torch.isfinite(segment.latents).all()
        assert segment.frames.shape == (2 * FRAMES / len(made.segments), 3, 64, 64)
        assert segment.frames.aminmax().min >= 0
        assert segment.frames.aminmax().max <= 1
        assert torch.equal(segment.latents, baseline.latents) == (made.name == "none")


@with_each_class
def test_a_second_run_is_the_same_and_does_not_change_the_network(made: Made) -> None:
    """The same modules with the same forwards and no hooks; the first segment bit for bit."""
    modules = dict(made.model.unet.named_modules())
    attached = {key: dict(module.__dict__) for key, module in modules.items()}
    (again,) = generate(made.model, made.sampler, made.beginning)
    assert torch.equal(again.latents, made.segments[0].latents)
    assert dict(made.model.unet.named_modules()) == modules
    for key, module in modules.items():
        assert set(module.__dict__) == set(attached[key])
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in module.__dict__


@with_each_class
def test_the_second_segment_knows_nothing_of_the_firsts_cache(made: Made, tiny_hallo: Hallo) -> None:
    """Given the motion frames, a sampler that never saw the first segment makes the same second one."""
    if made.skeleton != "hallo":
        return  # other models hand more than motion frames on
    first, second = made.segments
    clip, draw = made.clip, Draw(12)
    draw(*first.latents.shape)
    with torch.inference_mode():
        motion = tiny_hallo.encode(first.frames[-1:] * 2 - 1)
        reference = torch.cat([tiny_hallo.encode(clip.portrait[None]), motion])
        bank = tiny_hallo.reference_bank(reference, clip.image_tokens)
        conditions = tiny_hallo.conditions(
            bank, clip.image_tokens, clip.audio_tokens[FRAMES:], clip.masks, clip.face_feature
        )
    conditions = replace(conditions, foreground=clip.foreground)
    fresh = made.make_sampler(*IN_FEW_STEPS.get(made.name, ()))
    alone = fresh.denoise(draw(*first.latents.shape), conditions)
    assert torch.equal(alone.latents, second.latents)


@with_all_or_each_class
@pytest.mark.parametrize("segments", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_never_skip_is_no_acceleration(made: Made, segments: int) -> None:
    """Bit-equal to the baseline made before, on a network that the strategy has skipped parts of in the meantime."""
    sampler = made.make_sampler(*NEVER_SKIP[made.name])
    clip = made.beginning if segments == 1 else made.clip
    for segment, wanted in zip(generate(made.model, sampler, clip), made.baseline[:segments], strict=True):
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


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in CAUGHT else pytest.mark.slow) for n in FOUND])
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
        generate(tiny_hallo, sampler, first_segment(constants[1]))


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
