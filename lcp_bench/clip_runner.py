"""One clip through one model and one strategy, with its stage times, memory and counters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lcp_bench.accel.gate import Decisions
from lcp_bench.accel.schedule import Plan
from lcp_bench.accel.strategy import Strategy
from lcp_bench.config import RunConfig
from lcp_bench.data.face_parsing import FaceParser
from lcp_bench.data.inputs import ClipInputs, ModelInputSpec, prepare_clip
from lcp_bench.data.manifest import Clip
from lcp_bench.errors import ClipError
from lcp_bench.generate import generate_segments
from lcp_bench.measure.clock import Stopwatch, synchronize
from lcp_bench.models.features import Engagement
from lcp_bench.models.foreground import foreground_levels
from lcp_bench.models.talking_head import ClipConstants, TalkingHead
from lcp_bench.parallel import Ranks
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import draw_noise

GENERATION_STAGES = ("encode", "reference", "denoise", "decode")


@dataclass(frozen=True, slots=True)
class PreparedClip:
    """A clip's inputs with everything that needs the model's small networks, on the device."""

    inputs: ClipInputs
    constants: ClipConstants


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """Measurements of one generation; the frames went to whoever took them.

    Attributes:
        frames: Number of frames, the clip's own.
        frames_sha256: Hash of the raw frames: equal for equal pictures, whatever the video codec does.
        seconds: Stage name to its total, for the stages of `GENERATION_STAGES`.
        segments: Number of segments.
        passes: How often the denoising network saw a segment's number of frames in each step; differs from `segments`
            where windows move over one long segment.
        engagement: Counters over all segments.
        cache_bytes: Largest feature cache.
        decisions: What the strategy decided at run time, per segment; empty for a fixed plan.
    """

    frames: int
    frames_sha256: str
    seconds: dict[str, float]
    segments: int
    passes: float
    engagement: Engagement
    cache_bytes: int
    decisions: tuple[Decisions, ...] = ()


class ClipRunner:
    """Generates clips with one strategy; two of them on one model make a fair pair.

    Args:
        config: The run's configuration.
        model: The model, shared between runners.
        strategy: The strategy.
        plan: Its checked plan.
        ranks: The processes that share parallel followers; by default this one alone.
        parser: Finds the foreground of portraits without one; None takes the face region.
    """

    def __init__(
        self,
        config: RunConfig,
        model: TalkingHead,
        strategy: Strategy,
        plan: Plan,
        ranks: Ranks | None = None,
        parser: FaceParser | None = None,
    ) -> None:
        self.config, self.model, self.plan, self.ranks = config, model, plan, ranks or Ranks()
        self.parser = parser
        scheduler = model.scheduler(plan.num_steps)
        with torch.inference_mode():
            self.sampler = Sampler(model.denoiser, strategy, plan, scheduler, config.sampler.guidance_scale, self.ranks)

    def input_spec(self) -> ModelInputSpec:
        """What the data side must deliver."""
        model, dataset = self.config.model, self.config.dataset
        return ModelInputSpec(
            image_size=model.image_size,
            latent_size=model.image_size // self.model.latent_stride,
            fps=model.fps,
            frames_per_segment=model.frames_per_segment,
            face_expand_ratio=model.face_expand_ratio,
            levels=len(self.model.unet.config.channels),
            max_seconds=dataset.max_seconds,
            face_detector=dataset.face_detector,
            insightface_root=dataset.insightface_root,
            face_crop=model.face_crop,
            face_parser=self.parser,
        )

    @torch.inference_mode()
    def prepare(self, clip: Clip) -> PreparedClip:
        """Read a clip and run the networks that precede the segments.

        Raises:
            ClipError: The clip cannot be used, or public weights need an identity embedding that nobody gave.
        """
        inputs = prepare_clip(clip, self.input_spec())
        if inputs.face_embedding is None and needs_embedding(self.config):
            raise ClipError(
                "no identity embedding, and public weights depend on it; use dataset.face_detector=insightface, or "
                "give an embedding file in pairs.csv",
                clip=clip.id,
                stage="face",
            )
        model = self.model
        guided = self.config.sampler.guidance_scale > 1
        constants = model.prepare(inputs, guided=guided, fps=self.config.model.fps)
        inputs = replace(inputs, notes={**inputs.notes, **constants.notes})
        inputs, constants = self._with_foreground(inputs, constants)
        synchronize(model.device)  # so that whoever times the preparation times all of it
        return PreparedClip(inputs, constants)

    def _with_foreground(self, inputs: ClipInputs, constants: ClipConstants) -> tuple[ClipInputs, ClipConstants]:
        """The clip's foreground at every level, if the strategy asks for it, and its share for the record."""
        wanted = self.sampler.strategy.foreground()
        if wanted is None:
            return inputs, constants
        side, count = self.input_spec().latent_size, self.input_spec().levels
        levels = foreground_levels(
            inputs.foreground, (side, side), count, coverage=wanted.coverage, dilation=wanted.dilation
        )
        ratios = [level.ratio for level in levels]
        notes = {**inputs.notes, "foreground_ratio": ratios}
        on_device = [level.to(self.model.device) for level in levels]
        return replace(inputs, notes=notes), replace(constants, foreground=on_device)

    def generate(
        self,
        prepared: PreparedClip,
        on_segment: Callable[[int, int], None] | None = None,
        on_frames: Callable[[NDArray[np.uint8]], None] | None = None,
    ) -> GeneratedClip:
        """Generate the clip's frames.

        The noise generator is seeded per clip, so that neither the order of clips nor a resumed run changes a frame.

        Args:
            prepared: See `prepare`.
            on_segment: Called with (segments done, segments in all).
            on_frames: Takes decoded frames, uint8 (frames, H, W, 3), as they come and outside of all timed stages; no
                more than a few lie in memory at once, however long the clip is.
        """
        config, model = self.config, self.model
        self.ranks.meet(model.device)
        generator = torch.Generator().manual_seed(config.sampler.seed)
        watch, constants = Stopwatch(model.device), prepared.constants
        engagement, cache_bytes = Engagement(), 0
        decisions: list[Decisions] = []
        spans, taken = model.spans(constants), _Frames(prepared.inputs.frame_count, on_frames)
        segments = generate_segments(
            model,
            self.sampler,
            constants,
            lambda shape: draw_noise(shape, generator, model.dtype),
            watch.stage,
            taken.take,
        )
        for number, segment in enumerate(segments, start=1):
            engagement.merge(segment.engagement)
            cache_bytes = max(cache_bytes, segment.cache_bytes)
            if segment.decisions is not None:
                decisions.append(segment.decisions)
            if on_segment is not None:
                on_segment(number, len(spans))
        passes = model.passes(constants)
        return GeneratedClip(
            frames=taken.count,
            frames_sha256=taken.hash.hexdigest(),
            seconds=watch.totals(),
            segments=len(spans),
            passes=passes,
            engagement=engagement,
            cache_bytes=cache_bytes,
            decisions=tuple(decisions),
        )


class _Frames:
    """Counts, hashes and hands on decoded frames as bytes, those beyond the clip's own number excepted."""

    def __init__(self, wanted: int, on_frames: Callable[[NDArray[np.uint8]], None] | None) -> None:
        self._wanted, self._on_frames = wanted, on_frames
        self.count, self.hash = 0, hashlib.sha256()

    def take(self, frames: torch.Tensor) -> None:
        """Frames (frames, 3, H, W) in [0, 1]."""
        pixels = np.ascontiguousarray(to_uint8(frames[: self._wanted - self.count]))
        if not len(pixels):
            return
        self.count += len(pixels)
        self.hash.update(pixels.data)
        if self._on_frames is not None:
            self._on_frames(pixels)


def needs_embedding(config: RunConfig) -> bool:
    """Whether the weights depend on an identity embedding that must be given; random ones do not care."""
    return config.model.name in ("hallo", "memo") and config.model.weights == "checkpoint"


def to_uint8(frames: torch.Tensor) -> NDArray[np.uint8]:
    """(frames, 3, H, W) in [0, 1] to uint8 (frames, H, W, 3), truncated as upstream does."""
    return (frames * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def generation_seconds(samples: Sequence[GeneratedClip]) -> list[float]:
    """Seconds of all generation stages, per sample."""
    return [sum(sample.seconds.get(stage, 0.0) for stage in GENERATION_STAGES) for sample in samples]
