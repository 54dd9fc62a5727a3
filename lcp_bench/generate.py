"""From a clip's inputs to its frames: segments in order, each handing its last frames to the next.

A model that moves windows over the whole video has one segment of all frames.

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
from lcp_bench.models.talking_head import ClipConstants, Past, TalkingHead
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
    on_frames: Callable[[Tensor], None] | None = None,
) -> Iterator[Segment]:
    """Generate a clip segment by segment.

    Args:
        model: The assembled model.
        sampler: Sampler with its strategy and plan.
        constants: The clip's constants.
        draw: Noise source, called once per segment in order with (1, C, frames, h, w).
        stage: Timer of the stages.
        on_frames: Takes decoded frames (frames, 3, H, W) as they come; of those the segments then keep no more than the
            motion frames, so that a long video never lies in memory as floating-point numbers.

    Yields:
        The segments in order.
    """
    spans = model.spans(constants)
    with torch.inference_mode(), stage("encode"):
        portrait = model.encode(constants.portrait[None])
    motion = portrait.expand(model.motion_frames, -1, -1, -1)
    past: Past = {}
    for span in spans:
        latents = torch.cat([portrait, motion])
        segment = _generate_segment(model, sampler, constants, span, latents, past, draw, stage, on_frames)
        yield segment
        if span is not spans[-1] and model.motion_frames:
            with torch.inference_mode(), stage("encode"):
                motion = model.encode(segment.frames[-model.motion_frames :] * 2 - 1)


@torch.inference_mode()
def _generate_segment(
    model: TalkingHead,
    sampler: Sampler,
    constants: ClipConstants,
    span: range,
    reference_latents: Tensor,
    past: Past,
    draw: Callable[[tuple[int, ...]], Tensor],
    stage: StageTimer,
    on_frames: Callable[[Tensor], None] | None,
) -> Segment:
    with stage("reference"):
        unread = sampler.unread_references
        bank = model.write_reference(constants, reference_latents, unread)
        conditions = model.conditions_after(constants, bank, span.start, past, unread)
        conditions = replace(conditions, foreground=constants.foreground)
    with stage("denoise"):
        channels, cells = model.unet.config.latent_channels, reference_latents.shape[2:]
        noise = model.initial_noise(draw, (1, channels, len(span), *cells)).to(model.device)
        result = sampler.denoise(noise, conditions)
    pieces = list(_decoded(model, constants, result.latents, stage, on_frames))
    return Segment(torch.cat(pieces), result.latents, result.engagement, result.cache_bytes, result.decisions)


def _decoded(
    model: TalkingHead,
    constants: ClipConstants,
    latents: Tensor,
    stage: StageTimer,
    on_frames: Callable[[Tensor], None] | None,
) -> Iterator[Tensor]:
    """A segment's frames piece by piece, or what is left of each piece that `on_frames` took."""
    pieces = model.decode_pieces(latents, constants)
    while True:
        with stage("decode"):
            piece = next(pieces, None)
        if piece is None:
            return
        if on_frames is not None:
            on_frames(piece)
            piece = piece[len(piece) - model.motion_frames :].clone()
        yield piece
