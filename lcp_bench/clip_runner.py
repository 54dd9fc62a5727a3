"""One clip through one model and one strategy, with its stage times, memory and counters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lcp_bench.accel.schedule import Plan
from lcp_bench.accel.strategy import Strategy
from lcp_bench.config import RunConfig
from lcp_bench.data.audio_features import wav2vec_features, window_frames
from lcp_bench.data.inputs import ClipInputs, ModelInputSpec, prepare_clip
from lcp_bench.data.manifest import Clip
from lcp_bench.errors import ClipError
from lcp_bench.generate import ClipConstants, generate_segments
from lcp_bench.measure.clock import Stopwatch, synchronize
from lcp_bench.models.features import Engagement
from lcp_bench.models.hallo import Hallo
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM, draw_noise

GENERATION_STAGES = ("encode", "reference", "denoise", "decode")
MASK_ORDER = ("full", "face", "lip")


@dataclass(frozen=True, slots=True)
class PreparedClip:
    """A clip's inputs with everything that needs the model's small networks, on the device."""

    inputs: ClipInputs
    constants: ClipConstants


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """Frames and measurements of one generation.

    Attributes:
        frames: uint8 (frames, H, W, 3), cut to the clip's own number of frames.
        seconds: Stage name to its total, for the stages of `GENERATION_STAGES`.
        segments: Number of segments.
        engagement: Counters over all segments.
        cache_bytes: Largest feature cache.
    """

    frames: NDArray[np.uint8]
    seconds: dict[str, float]
    segments: int
    engagement: Engagement
    cache_bytes: int

    @property
    def frames_sha256(self) -> str:
        """Hash of the raw frames: equal for equal pictures, whatever the video codec does."""
        return hashlib.sha256(np.ascontiguousarray(self.frames).tobytes()).hexdigest()


class ClipRunner:
    """Generates clips with one strategy; two of them on one model make a fair pair.

    Args:
        config: The run's configuration.
        model: The model, shared between runners.
        strategy: The strategy.
        plan: Its checked plan.
    """

    def __init__(self, config: RunConfig, model: Hallo, strategy: Strategy, plan: Plan) -> None:
        self.config, self.model, self.plan = config, model, plan
        with torch.inference_mode():
            self.sampler = Sampler(model.unet, strategy, plan, DDIM(plan.num_steps), config.sampler.guidance_scale)

    def input_spec(self) -> ModelInputSpec:
        """What the data side must deliver."""
        model, dataset = self.config.model, self.config.dataset
        return ModelInputSpec(
            image_size=model.image_size,
            latent_size=model.image_size // 8,
            fps=model.fps,
            frames_per_segment=model.frames_per_segment,
            face_expand_ratio=model.face_expand_ratio,
            levels=len(self.model.unet.config.channels),
            max_seconds=dataset.max_seconds,
            face_detector=dataset.face_detector,
            insightface_root=dataset.insightface_root,
        )

    @torch.inference_mode()
    def prepare(self, clip: Clip) -> PreparedClip:
        """Read a clip and run the networks that precede the segments.

        Raises:
            ClipError: The clip cannot be used, or public weights need an identity embedding that nobody gave.
        """
        inputs = prepare_clip(clip, self.input_spec())
        if inputs.face_embedding is None and self.config.model.weights == "checkpoint":
            raise ClipError(
                "no identity embedding, and public weights depend on it; use dataset.face_detector=insightface, or "
                "give an embedding file in pairs.csv",
                clip=clip.id,
                stage="face",
            )
        model = self.model
        embedding = torch.zeros(model.embedding_dim) if inputs.face_embedding is None else inputs.face_embedding
        features, _ = wav2vec_features(
            model.modules["wav2vec"],  # type: ignore[arg-type]
            inputs.waveform,
            self.config.model.fps,
            model.frames,
        )
        tokens = model.identity_tokens(embedding)
        guided = self.config.sampler.guidance_scale > 1
        levels = [torch.stack(level)[..., None] for level in zip(*(inputs.masks[k] for k in MASK_ORDER), strict=True)]
        constants = ClipConstants(
            portrait=inputs.portrait.to(model.device),
            image_tokens=tokens if guided else tokens[1:],
            audio_tokens=model.audio_tokens(window_frames(features)),
            masks=[level.to(model.device, model.dtype) for level in levels],
            face_feature=model.face_feature(inputs.face_region),
        )
        synchronize(model.device)  # so that whoever times the preparation times all of it
        return PreparedClip(inputs, constants)

    def generate(self, prepared: PreparedClip, on_segment: Callable[[int, int], None] | None = None) -> GeneratedClip:
        """Generate the clip's frames.

        The noise generator is seeded per clip, so that neither the order of clips nor a resumed run changes a frame.

        Args:
            prepared: See `prepare`.
            on_segment: Called with (segments done, segments in all).
        """
        config, model = self.config, self.model
        generator = torch.Generator().manual_seed(config.sampler.seed)
        watch = Stopwatch(model.device)
        engagement, cache_bytes, pieces = Engagement(), 0, []
        total = prepared.constants.audio_tokens.shape[0] // model.frames
        segments = generate_segments(
            model,
            self.sampler,
            prepared.constants,
            lambda shape: draw_noise(shape, generator, model.dtype),
            watch.stage,
        )
        for number, segment in enumerate(segments, start=1):
            pieces.append(to_uint8(segment.frames))
            engagement.merge(segment.engagement)
            cache_bytes = max(cache_bytes, segment.cache_bytes)
            if on_segment is not None:
                on_segment(number, total)
        frames = np.concatenate(pieces)[: prepared.inputs.frame_count]
        return GeneratedClip(frames, watch.totals(), total, engagement, cache_bytes)


def to_uint8(frames: torch.Tensor) -> NDArray[np.uint8]:
    """(frames, 3, H, W) in [0, 1] to uint8 (frames, H, W, 3), truncated as upstream does."""
    return (frames * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def generation_seconds(samples: Sequence[GeneratedClip]) -> list[float]:
    """Seconds of all generation stages, per sample."""
    return [sum(sample.seconds.get(stage, 0.0) for stage in GENERATION_STAGES) for sample in samples]
