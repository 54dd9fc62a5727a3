"""The configuration of a run, as dataclasses.

YAML under `conf/` holds the values, these classes hold the truth: a key that is not here is an error. OmegaConf ends
at `to_run_config`; everything below receives a `RunConfig`. Nothing here imports torch, so that a wrong command is
answered at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from lcp_bench.errors import ConfigError
from lcp_bench.metric_config import MetricConfig
from lcp_bench.synthetic_config import SyntheticConfig
from lcp_bench.typed import build, check_choices, dotted_keys, unknown_key

if TYPE_CHECKING:
    from lcp_bench.accel.strategy import Strategy

Dtype = Literal["float32", "bfloat16", "float16"]

# Keys of the accel group that belong to the harness and not to the strategy's own Config.
_ACCEL_RESERVED = ("name", "_target_")


def require(condition: bool, key: str, expected: str, value: object) -> None:
    """Raise `ConfigError` "KEY must be EXPECTED, got VALUE" unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} must be {expected}, got {value!r}")


def _require_range(key: str, value: float | None, low: float, high: float) -> None:
    if value is not None:
        require(low <= value <= high, key, f"in {low}..{high}", value)


MODEL_SIZES = {"hallo": ("full", "tiny"), "mini": ("full",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPresets:
    """Values of a model that other groups refer to.

    Attributes:
        key_steps: Key steps of LightningCP's published operating point.
        equal_cost_steps: Plain steps that cost as much as that operating point.
        image_size: Width and height of the video in pixels, by model size.
        dtype: Number format of the networks, by model size.
    """

    key_steps: int
    equal_cost_steps: int
    image_size: dict[str, int]
    dtype: dict[str, str]


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
        motion_scale: Weights of the full, face and lip branches of the audio attention, 0 or more.
        face_expand_ratio: Factor by which the face box is widened before it becomes a mask.
        presets: Values that other groups refer to.
    """

    name: Literal["hallo", "mini"]
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
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        _require_range("model.weights_seed", self.weights_seed, 0, 2**63 - 1)
        _require_range("model.frames_per_segment", self.frames_per_segment, 1, 32)
        _require_range("model.motion_frames", self.motion_frames, 0, self.frames_per_segment)
        _require_range("model.fps", self.fps, 1, 120)
        _require_range("model.image_size", self.image_size, 64, 1024)
        require(self.image_size % 64 == 0, "model.image_size", "a multiple of 64", self.image_size)
        _require_range("model.steps", self.steps, 1, 1000)
        require(all(scale >= 0 for scale in self.motion_scale), "model.motion_scale", "0 or more", self.motion_scale)
        _require_range("model.face_expand_ratio", self.face_expand_ratio, 1.0, 4.0)
        if self.checkpoint is not None:
            require(self.name == "mini", "model.checkpoint", "absent, only mini has one", self.checkpoint)
            object.__setattr__(self, "checkpoint", _expand("model.checkpoint", self.checkpoint))


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """How the diffusion is sampled.

    Attributes:
        steps: Denoising steps, 1 to 1000 (the training schedule has 1000).
        guidance_scale: Classifier-free guidance; 1 means none.
        eta: Fresh noise per step, 0 (deterministic DDIM) to 1.
        seed: Seed of the initial noise.
    """

    steps: int
    guidance_scale: float
    eta: float = 0.0
    seed: int = 42

    def __post_init__(self) -> None:
        _require_range("sampler.steps", self.steps, 1, 1000)
        _require_range("sampler.guidance_scale", self.guidance_scale, 1.0, 100.0)
        _require_range("sampler.eta", self.eta, 0.0, 1.0)
        _require_range("sampler.seed", self.seed, 0, 2**63 - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """Which clips are generated.

    Attributes:
        name: Name in tables and records.
        root: Folder with the portraits, speech and clips.
        pairing: How portraits and speech become clips: `auto`, same `stem`, `zip` in sorted order, or every `product`.
        kind: Take `pairs` of portrait and speech, talking `clips`, or `all`.
        max_seconds: Cut the speech after so many seconds; None uses all of it.
        vocal_separation: Separation of the voice from the background before the audio features.
        face_detector: Where boxes and landmarks come from: a cascade, the data set's manifest, or insightface.
        insightface_root: Folder of the user's own insightface files; only that detector reads it.
        synthetic: What the procedural data sets draw; None for all others.
    """

    name: str
    root: str
    pairing: Literal["auto", "stem", "zip", "product"] = "auto"
    kind: Literal["all", "pairs", "clips"] = "all"
    max_seconds: float | None = None
    vocal_separation: Literal["none"] = "none"
    face_detector: Literal["cascade", "manifest", "insightface"] = "cascade"
    insightface_root: str | None = None
    synthetic: SyntheticConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", _expand("dataset.root", self.root))
        if self.insightface_root is not None:
            object.__setattr__(self, "insightface_root", _expand("dataset.insightface_root", self.insightface_root))
        if self.max_seconds is not None:
            require(self.max_seconds > 0, "dataset.max_seconds", "more than 0", self.max_seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureConfig:
    """What is timed, and how often.

    Attributes:
        warmup_clips: Untimed clips, at the full number of steps, before the first timed one.
        repeats: Timed generations of each clip.
        pair: `none` times the unaccelerated strategy too, interleaved in the same process; None does not.
        pair_clips: Clips of the paired measurement.
        pair_repeats: Repetitions of each of them, per side.
        bootstrap: Resamples behind an interval.
    """

    warmup_clips: int = 1
    repeats: int = 1
    pair: Literal["none"] | None = None
    pair_clips: int = 2
    pair_repeats: int = 5
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        _require_range("measure.warmup_clips", self.warmup_clips, 0, 100)
        _require_range("measure.repeats", self.repeats, 1, 1000)
        _require_range("measure.pair_clips", self.pair_clips, 1, 1000)
        _require_range("measure.pair_repeats", self.pair_repeats, 1, 1000)
        _require_range("measure.bootstrap", self.bootstrap, 100, 1_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackerConfig:
    """Where records are mirrored to.

    Attributes:
        name: `none`, or `wandb` (an optional package).
        mode: `offline` writes files for a later upload, `online` uploads, `disabled` does nothing.
        project: The tracker's project name.
    """

    name: Literal["none", "wandb"]
    mode: Literal["offline", "online", "disabled"]
    project: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PathsConfig:
    """Folders; `~` is expanded, relative ones start at the current folder. They never change a number.

    Attributes:
        runs: One folder per run.
        weights: Public model files.
        data: Data sets.
        cache: Files that can be made again.
    """

    runs: str
    weights: str
    data: str
    cache: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _expand(f"paths.{field.name}", getattr(self, field.name)))


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What to do, and how to say it. Nothing here changes a result except through `limit`.

    Attributes:
        action: `run` generates and measures; `plan` prints what would be computed.
        format: `text` for people, `json` for programs.
        device: `auto` takes a GPU if there is one.
        dry: Stop before anything is computed and say what would be.
        debug: Show tracebacks.
        limit: Number of clips; None means all.
        retry_failed: Try the failed clips of a finished run again.
        threads: CPU threads; None leaves torch's choice.
        ranks_timeout_s: Under torchrun, how long a process waits for another one that does not come.
    """

    action: Literal["run", "plan"] = "run"
    format: Literal["text", "json"] = "text"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dry: bool = False
    debug: bool = False
    limit: int | None = None
    retry_failed: bool = False
    threads: int | None = None
    ranks_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        _require_range("run.limit", self.limit, 1, 10**9)
        _require_range("run.threads", self.threads, 1, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run, complete and checked.

    Attributes:
        model: The network.
        accel: The strategy as plain data: `name`, `_target_` (its class) and every field of the class' `Config`,
            defaults included, so that a changed default changes the run's identity. `build_strategy` makes the object.
        sampler: How the diffusion is sampled.
        dataset: The clips.
        measure: What is timed.
        metric: What is scored; no part of the run's identity.
        tracker: Where records are mirrored to.
        paths: Folders.
        run: What to do.
    """

    model: ModelConfig
    accel: dict[str, Any]
    sampler: SamplerConfig
    dataset: DatasetConfig
    measure: MeasureConfig
    metric: MetricConfig
    tracker: TrackerConfig
    paths: PathsConfig
    run: RunOptions

    def __post_init__(self) -> None:
        sizes = MODEL_SIZES[self.model.name]
        require(self.model.size in sizes, f"model.size of {self.model.name}", " or ".join(sizes), self.model.size)
        if self.run.action == "run" and self.model.size == "tiny" and self.model.weights == "checkpoint":
            raise ConfigError(
                "model.size=tiny has no public checkpoint; add model.weights=seeded, or use model.size=full"
            )

    @property
    def accel_name(self) -> str:
        """Display name of the strategy, as its YAML gives it."""
        return str(self.accel["name"])


def to_run_config(config: DictConfig) -> RunConfig:
    """Resolve, check and convert a composed configuration.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type or is out of range, an interpolation points
            to nothing, or `accel._target_` does not name a strategy.
    """
    data = _plain(config)
    accel = data.get("accel")
    if isinstance(accel, dict):
        data = {**data, "accel": _complete_accel(accel)}
    return build(RunConfig, data, "", tuple(dotted_keys(RunConfig)))


def build_strategy(config: RunConfig) -> Strategy:
    """The strategy object that `config.accel` describes."""
    cls = _strategy_class(config.accel)
    strategy: Strategy = cls(_strategy_config(cls, config.accel))
    return strategy


def baseline_of(config: RunConfig) -> RunConfig:
    """The same run without acceleration: the other side of a paired measurement."""
    accel = {"name": "none", "_target_": "lcp_bench.accel.strategy.NoAcceleration"}
    return dataclasses.replace(config, accel=accel)


def _expand(key: str, folder: str) -> str:
    require(bool(folder.strip()), key, "a folder", folder)
    return str(Path(folder).expanduser())


def _plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved dicts and lists."""
    try:
        data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{key} is missing; set it with {key}=VALUE") from error
    except InterpolationKeyError as error:
        check_choices(RunConfig, OmegaConf.to_container(config, resolve=False), "")
        reason = str(error.msg).splitlines()[0]
        raise ConfigError(f"{error.full_key} refers to a key that does not exist: {reason}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"the configuration must be a group of keys, got {type(data).__name__}")
    return {str(key): value for key, value in data.items()}


def _strategy_class(accel: Mapping[str, Any]) -> Any:
    """The class named by `_target_`, imported now."""
    target = accel.get("_target_")
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+)+", target):
        raise ConfigError(f"accel._target_ must name a strategy class as package.module.Class, got {target!r}")
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"accel._target_={target} cannot be imported ({error}); is its package installed?") from error
    if not isinstance(cls, type) or not dataclasses.is_dataclass(getattr(cls, "Config", None)):
        raise ConfigError(f"accel._target_={target} must be a strategy class with a nested dataclass Config")
    return cls


def _strategy_config(cls: Any, accel: Mapping[str, Any]) -> Any:
    """The strategy's own Config object."""
    options = {key: value for key, value in accel.items() if key not in _ACCEL_RESERVED}
    names = [field.name for field in dataclasses.fields(cls.Config)]
    for key in options:
        if key not in names:
            label = accel.get("name", cls.__name__)
            raise ConfigError(f"accel={label}: {unknown_key('accel', str(key), names)}")
    known = tuple(dotted_keys(cls.Config, "accel."))
    return build(cls.Config, options, "accel", known)


def _complete_accel(accel: dict[str, Any]) -> dict[str, Any]:
    """The accel part with the strategy's defaults filled in, as plain data."""
    cls = _strategy_class(accel)
    options = dataclasses.asdict(_strategy_config(cls, accel))
    name = accel.get("name", cls.__name__)
    require(isinstance(name, str) and bool(name), "accel.name", "text", name)
    return {"name": name, "_target_": accel["_target_"], **options}
