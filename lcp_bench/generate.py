"""From a clip's inputs to its frames: segments in order, each handing its last frames to the next.

The portrait passes through the reference network together with the motion frames, once per segment; the sampler then
denoises the segment, and the decoder turns it into frames before the next segment starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lcp_bench.models.features import Engagement
from lcp_bench.models.hallo import Hallo
from lcp_bench.sampling import Sampler

StageTimer = Callable[[str], AbstractContextManager[object]]
"""Opens a named stage: `encode`, `reference`, `denoise` or `decode`."""


@dataclass(frozen=True, slots=True)
class ClipConstants:
    """What is constant over a clip, on the model's device.

    Attributes:
        portrait: (3, H, W) in [-1, 1].
        image_tokens: (branches, tokens, dim).
        audio_tokens: (frames, tokens, dim), frames a multiple of the segment length.
        masks: Per level, (3, 1, L, 1) in [0, 1]: full, face, lip.
        face_feature: (1, C, h, w).
    """

    portrait: Tensor
    image_tokens: Tensor
    audio_tokens: Tensor
    masks: Sequence[Tensor]
    face_feature: Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """One finished segment.

    Attributes:
        frames: (frames, 3, H, W) in [0, 1], float32.
        latents: Final latents (1, C, frames, h, w).
        engagement: Counters of the segment.
        cache_bytes: Largest size of its feature cache.
    """

    frames: Tensor
    latents: Tensor
    engagement: Engagement
    cache_bytes: int


def generate_segments(
    model: Hallo,
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
    model: Hallo,
    sampler: Sampler,
    constants: ClipConstants,
    number: int,
    reference_latents: Tensor,
    draw: Callable[[tuple[int, ...]], Tensor],
    stage: StageTimer,
) -> Segment:
    with stage("reference"):
        audio = constants.audio_tokens[number * model.frames : (number + 1) * model.frames]
        bank = model.reference_bank(reference_latents, constants.image_tokens)
        conditions = model.conditions(bank, constants.image_tokens, audio, constants.masks, constants.face_feature)
    with stage("denoise"):
        channels, height, width = reference_latents.shape[1:]
        noise = draw((1, channels, model.frames, height, width)).to(model.device)
        result = sampler.denoise(noise, conditions)
    with stage("decode"):
        frames = model.decode(result.latents)
    return Segment(frames, result.latents, result.engagement, result.cache_bytes)
