"""Which model runs and its public default values; no torch here, so that a wrong command is answered at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lcp_bench.typed import expand, require, require_range

Dtype = Literal["float32", "bfloat16", "float16"]

ModelName = Literal["hallo", "mini", "echomimic", "echomimic_acc", "memo"]
MODEL_SIZES: dict[str, tuple[str, ...]] = {
    "hallo": ("full", "tiny"),
    "mini": ("full",),
    "echomimic": ("full", "tiny"),
    "echomimic_acc": ("full", "tiny"),
    "memo": ("full", "tiny"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPresets:
    """Values of a model that other groups refer to.

    Attributes:
        key_steps: Key steps of LightningCP's published operating point.
        equal_cost_steps: Plain steps that cost as much as that operating point.
        image_size: Width and height of the video in pixels, by model size.
        dtype: Number format of the networks, by model size.
        budget: Factor on the key steps, which the plain steps of equal cost follow; see `lcp_bench.budget`.
        emotion: memo only: where its emotion comes from, by kind of weights.
    """

    key_steps: int
    equal_cost_steps: int
    image_size: dict[str, int]
    dtype: dict[str, str]
    budget: float = 1.0
    emotion: dict[str, int | Literal["classified"]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig:
    """Windows of `frames_per_segment` frames that move over the whole video, see `lcp_bench.windows`.

    Attributes:
        overlap: Frames that neighbouring windows share.
        shift: Frames by which all windows move from one step to the next.
        max_frames: Longer videos end there, as upstream's do.
    """

    overlap: int
    shift: int
    max_frames: int

    def __post_init__(self) -> None:
        require_range("model.window.overlap", self.overlap, 0, 31)
        require_range("model.window.shift", self.shift, 0, 32)
        require_range("model.window.max_frames", self.max_frames, 2, 100_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceCropConfig:
    """The square around the face that a model animates, see `lcp_bench.data.echomimic_crop`.

    Attributes:
        dilation: Growth of the face box on each side, in box sizes, before it becomes a square.
        mask_dilation: The same for the box of the face mask.
    """

    dilation: float
    mask_dilation: float

    def __post_init__(self) -> None:
        require_range("model.face_crop.dilation", self.dilation, 0.0, 4.0)
        require_range("model.face_crop.mask_dilation", self.mask_dilation, 0.0, 4.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which network runs, and its public default values.

    Attributes:
        name: The model.
        size: `full` is the published network, `tiny` the same code at laptop size; mini has one size, `full`.
        weights: `checkpoint` reads trained weights: public files below `paths.weights`, for mini those of
            its own training; `seeded` draws random ones, for speed only.
        checkpoint: mini only: folder with weights of `python -m lcp_bench.train`; None is where that puts them.
        weights_seed: Seed of seeded weights.
        dtype: Number format of the networks.
        reference_dtype: Format that the reference features are rounded to, as upstream does it.
        tf32: Let GPUs round float32 products to 10 bits of mantissa; off, so that float32 means float32.
        frames_per_segment: Frames denoised together.
        motion_frames: Last frames of a segment that the next segment sees.
        fps: Frames per second of the video.
        image_size: Width and height of the video in pixels, a multiple of 64 (the coarsest of 4 latent levels).
        steps: Denoising steps of the public release; the default of `sampler.steps`.
        guidance_scale: Classifier-free guidance of the public release; the default of `sampler.guidance_scale`.
        seed: Seed of the public release; the default of `sampler.seed`.
        motion_scale: Weights of the full, face and lip branches of the audio attention, 0 or more.
        face_expand_ratio: Factor by which the face box is widened before it becomes a mask.
        presets: Values that other groups refer to.
        window: How windows move over the whole video; None generates segment by segment.
        face_crop: The square around the face that is animated; None takes the whole portrait.
        emotion: memo only: label of all frames, 0..8, or 9 for none; `classified` hears it in the sound.
    """

    name: ModelName
    size: Literal["full", "tiny"]
    weights: Literal["checkpoint", "seeded"]
    weights_seed: int
    dtype: Dtype
    reference_dtype: Dtype
    tf32: bool
    frames_per_segment: int
    motion_frames: int
    fps: float
    image_size: int
    steps: int
    guidance_scale: float
    motion_scale: tuple[float, float, float]
    face_expand_ratio: float
    presets: ModelPresets
    seed: int = 42
    checkpoint: str | None = None
    window: WindowConfig | None = None
    face_crop: FaceCropConfig | None = None
    emotion: int | Literal["classified"] | None = None

    def __post_init__(self) -> None:
        require_range("model.weights_seed", self.weights_seed, 0, 2**63 - 1)
        require_range("model.seed", self.seed, 0, 2**63 - 1)
        require_range("model.frames_per_segment", self.frames_per_segment, 1, 32)
        require_range("model.motion_frames", self.motion_frames, 0, self.frames_per_segment)
        require_range("model.fps", self.fps, 1, 120)
        require_range("model.image_size", self.image_size, 64, 1024)
        require(self.image_size % 64 == 0, "model.image_size", "a multiple of 64", self.image_size)
        require_range("model.steps", self.steps, 1, 1000)
        require(all(scale >= 0 for scale in self.motion_scale), "model.motion_scale", "0 or more", self.motion_scale)
        require_range("model.face_expand_ratio", self.face_expand_ratio, 1.0, 4.0)
        if self.checkpoint is not None:
            require(self.name == "mini", "model.checkpoint", "absent, only mini has one", self.checkpoint)
            object.__setattr__(self, "checkpoint", expand("model.checkpoint", self.checkpoint))
        if self.window is not None:
            require(self.motion_frames == 0, "model.motion_frames", "0 with model.window", self.motion_frames)
            limit = self.frames_per_segment - 1
            require_range("model.window.overlap", self.window.overlap, 0, limit)
        self._check_emotion()

    def _check_emotion(self) -> None:
        if self.name != "memo":
            require(self.emotion is None, "model.emotion", "absent, only memo has one", self.emotion)
            return
        require(self.emotion is not None, "model.emotion", "a label in 0..9, or 'classified'", self.emotion)
        if isinstance(self.emotion, int):
            require_range("model.emotion", self.emotion, 0, 9)
            return
        seeded = self.weights == "seeded"
        require(not seeded, "model.emotion with seeded weights", "a label in 0..9, as none is trained", self.emotion)
