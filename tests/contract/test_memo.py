"""What is MEMO's own: a memory that goes from segment to segment and dies with the clip, emotions, and its runs.

What every strategy must hold on it is in `test_strategies.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from family import Draw
from lcp_bench import runner
from lcp_bench.config import build_strategy
from lcp_bench.errors import ConfigError
from lcp_bench.generate import Segment, generate_segments
from lcp_bench.models import memo
from lcp_bench.models.memo import Memo
from lcp_bench.models.memory import Memory
from lcp_bench.models.talking_head import ClipConstants, Past
from lcp_bench.preflight import load_run_config
from lcp_bench.record import validate
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import FlowMatching
from lcp_bench.store import RunStore

STEPS, FRAMES, PAST = 5, 2, 2
BASE = (
    "+model=memo", "model.size=tiny", "model.weights=seeded", f"sampler.steps={STEPS}",
    f"model.frames_per_segment={FRAMES}", f"model.motion_frames={PAST}", "model.presets.key_steps=2",
    "model.presets.equal_cost_steps=3",
)  # fmt: skip


def make_sampler(model: Memo, *words: str) -> Sampler:
    """The sampler of a command."""
    config = load_run_config([*BASE, *words])
    strategy = build_strategy(config)
    plan = strategy.check(model.unet.topology, num_steps=config.sampler.steps, eta=config.sampler.eta)
    with torch.inference_mode():
        return Sampler(model.unet, strategy, plan, model.scheduler(plan.num_steps), config.sampler.guidance_scale)


def noise_source() -> Callable[[tuple[int, ...]], Tensor]:
    """One generator per clip."""
    draw = Draw(12)
    return lambda shape: draw(*shape)


def generate(model: Memo, sampler: Sampler, clip: ClipConstants) -> list[Segment]:
    """All segments."""
    return list(generate_segments(model, sampler, clip, noise_source()))


def test_the_second_segment_has_the_firsts_memory_and_nothing_of_its_cache(
    tiny_memo: Memo, memo_clip: dict[int, ClipConstants]
) -> None:
    """Motion frames and memory given, a sampler that never saw the first segment makes the same second one."""
    clip, sampler, draw = memo_clip[2], make_sampler(tiny_memo, "+accel=lcp"), Draw(12)
    first, second = generate(tiny_memo, sampler, clip)
    draw(*first.latents.shape)
    noise, past = draw(*first.latents.shape), Past()
    with torch.inference_mode():
        portrait = tiny_memo.encode(clip.portrait[None])
        motion = tiny_memo.encode(first.frames[-PAST:] * 2 - 1)
        for start, frames in ((0, portrait.expand(PAST, -1, -1, -1)), (FRAMES, motion)):
            bank = tiny_memo.write_reference(clip, torch.cat([portrait, frames]))
            conditions = tiny_memo.conditions_after(clip, bank, start, past)
        forgetful = tiny_memo.segment_conditions(clip, bank, FRAMES)
    assert set(past) == set(conditions.sites)
    fresh = make_sampler(tiny_memo, "+accel=lcp")
    assert torch.equal(fresh.denoise(noise, conditions).latents, second.latents)
    assert not torch.equal(fresh.denoise(noise, forgetful).latents, second.latents)


def test_memory_is_flat_in_the_number_of_segments(
    tiny_memo: Memo, memo_clip: dict[int, ClipConstants], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the clip: one memory per attention, and while it is renewed one layer's more."""
    alive: list[weakref.ref[Tensor]] = []
    most: list[int] = []
    grow = memo._grown

    def count() -> int:
        return sum(each() is not None for each in alive)

    def watched(memories: tuple[Memory, ...], before: tuple[Memory, ...] | None) -> tuple[Memory, ...]:
        grown = grow(memories, before)
        alive.extend(weakref.ref(memory.values) for memory in grown)
        most.append(count())
        return grown

    monkeypatch.setattr(memo, "_grown", watched)
    clip = memo_clip[1]
    sampler = make_sampler(tiny_memo, "+accel=fewer_steps", "accel.steps=1")
    long = replace(clip, audio_tokens=clip.audio_tokens.repeat(2, 1, 1), emotions=torch.tensor([3] * 4 * FRAMES))
    left = [count() for _ in generate_segments(tiny_memo, sampler, long, noise_source())]
    layers = [name for name in tiny_memo.unet.topology.names if name == "mid" or name.rpartition(".")[2].isdecimal()]
    assert left == [2 * len(layers)] * 4
    assert max(most) == 2 * len(layers) + 2


def test_the_emotion_of_a_segment_changes_it(tiny_memo: Memo, memo_clip: dict[int, ClipConstants]) -> None:
    """The unconditional branch has none; the conditional one has its segment's most frequent label."""
    clip, sampler = memo_clip[2], make_sampler(tiny_memo, "+accel=lcp")
    other = replace(clip, emotions=torch.tensor([3, 3, 6, 6]))
    (first, second), (same, changed) = generate(tiny_memo, sampler, clip), generate(tiny_memo, sampler, other)
    assert torch.equal(first.latents, same.latents)
    assert (second.latents - changed.latents).abs().max() > 1e-5


def test_it_flows(tiny_memo: Memo) -> None:
    scheduler = tiny_memo.scheduler(20)
    assert isinstance(scheduler, FlowMatching)
    assert scheduler.timesteps[:3] == pytest.approx((1000, 947.4211, 894.8421))


def test_without_a_label_somebody_has_to_hear_it(tiny_memo: Memo) -> None:
    deaf = Memo(tiny_memo.modules, frames=FRAMES, motion_frames=PAST)
    with pytest.raises(ConfigError, match=r"neither; give model\.emotion=0\.\.9"):
        deaf.emotions(None, 4)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run(demo_root: Path, tmp_path: Path) -> None:
    """From the words of a command to a record: the label is in the rows, and given ones change the frames."""
    hashes = []
    for emotion in (0, 4):
        words = [
            *BASE, "+accel=lcp", "sampler.steps=3", "model.presets.key_steps=1", "dataset.max_seconds=0.12",
            "run.device=cpu", "run.limit=1", "measure.warmup_clips=0", f"dataset.root={demo_root}",
            f"paths.runs={tmp_path}", f"model.emotion={emotion}",
        ]  # fmt: skip
        config = load_run_config(words)
        summary = runner.run(config, words)
        assert summary.status == "complete"
        store = RunStore(tmp_path, summary.record.parent.name)
        (row,), record = store.rows(), store.read_record()
        validate(record)
        assert row["inputs"]["emotion_source"] == "given"
        assert row["inputs"]["emotions"] == [emotion] * row["segments"]
        assert record["notes"]["inputs"]["emotion"] == {"given": 1}
        assert record["flops"]["as_coded"]["tflops_per_clip"] > record["flops"]["tflops_per_clip"]["as_published"]
        hashes.append(row["frames_sha256"])
    assert hashes[0] != hashes[1]
