"""From a clip's inputs to its frames: segments in order, each handing its last frames to the next.

The portrait passes through the reference network together with the motion frames, once per segment; the sampler then
denoises the segment, and the decoder turns it into frames before the next segment starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lcp_bench.accel.gate import Decisions
from lcp_bench.models.features import Engagement
from lcp_bench.models.talking_head import ClipConstants, TalkingHead
from lcp_bench.sampling import Sampler

StageTimer = Callable[[str], AbstractContextManager[object]]
"""Opens a named stage: `encode`, `reference`, `denoise` or `decode`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One finished segment.

    Attributes:
        frames: (frames, 3, H, W) in [0, 1], float32.
        latents: Final latents (1, C, frames, h, w).
        engagement: Counters of the segment.
        cache_bytes: Largest size of its feature cache.
        decisions: What a strategy decided at run time, or None.
    """

    frames: Tensor
    latents: Tensor
    engagement: Engagement
    cache_bytes: int
    decisions: Decisions | None = None


def generate_segments(
    model: TalkingHead,
    sampler: Sampler,
    constants: ClipConstants,
    draw: Callable[[tuple[int, ...]], Tensor],
    stage: StageTimer = lambda _name: nullcontext(),
) -> Iterator[Segment]:
    """Generate a clip segment by segment.

    Args:
        model: The assembled model.
        sampler: Sampler with its strategy and plan.
        constants: The clip's constants.
        draw: Noise source, called once per segment in order with (1, C, frames, h, w).
        stage: Timer of the stages.

    Yields:
        The segments in order.
    """
    count = constants.audio_tokens.shape[0] // model.frames
    with torch.inference_mode(), stage("encode"):
        portrait = model.encode(constants.portrait[None])
    motion = portrait.expand(model.motion_frames, -1, -1, -1)
    for number in range(count):
        segment = _generate_segment(model, sampler, constants, number, torch.cat([portrait, motion]), draw, stage)
        yield segment
        if number + 1 < count and model.motion_frames:
            with torch.inference_mode(), stage("encode"):
                motion = model.encode(segment.frames[-model.motion_frames :] * 2 - 1)


@torch.inference_mode()
def _generate_segment(
    model: TalkingHead,
    sampler: Sampler,
    constants: ClipConstants,
    number: int,
    reference_latents: Tensor,
    draw: Callable[[tuple[int, ...]], Tensor],
    stage: StageTimer,
) -> Segment:
    with stage("reference"):
        unread = sampler.unread_references
        bank = model.write_reference(constants, reference_latents, unread)
        conditions = model.segment_conditions(constants, bank, number * model.frames, unread)
        conditions = replace(conditions, foreground=constants.foreground)
    with stage("denoise"):
        channels, height, width = reference_latents.shape[1:]
        shape = (1, channels, model.frames, height, width)
        noise = model.initial_noise(draw, shape).to(model.device)
        result = sampler.denoise(noise, conditions)
    with stage("decode"):
        frames = model.decode(result.latents)
    return Segment(frames, result.latents, result.engagement, result.cache_bytes, result.decisions)
