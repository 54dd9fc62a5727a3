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
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from lcp_bench.budget import with_budget
from lcp_bench.errors import ConfigError
from lcp_bench.metric_config import MetricConfig
from lcp_bench.model_config import MODEL_SIZES, ModelConfig
from lcp_bench.synthetic_config import SyntheticConfig
from lcp_bench.typed import build, check_choices, dotted_keys, expand, require_range, unknown_key
from lcp_bench.typed import require as require

if TYPE_CHECKING:
    from lcp_bench.accel.strategy import Strategy

# Keys of the accel group that belong to the harness and not to the strategy's own Config.
_ACCEL_RESERVED = ("name", "_target_")


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
        require_range("sampler.steps", self.steps, 1, 1000)
        require_range("sampler.guidance_scale", self.guidance_scale, 1.0, 100.0)
        require_range("sampler.eta", self.eta, 0.0, 1.0)
        require_range("sampler.seed", self.seed, 0, 2**63 - 1)


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
        face_parser: What finds the foreground of portraits without a given one, for strategies that restrict attention
            to it: `auto` takes a published parser whose file is in paths.weights/metrics, else the face region; `none`
            the face region; or a parser's name. What was used is in the run's identity and in its rows.
        foreground_classes: Which of the parser's classes are foreground.
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
    face_parser: Literal["auto", "none", "bisenet", "bisenet_yakhyo_resnet18", "bisenet_yakhyo_resnet34"] = "auto"
    foreground_classes: Literal["face_hair_neck", "not_background", "face_only"] = "face_hair_neck"
    synthetic: SyntheticConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", expand("dataset.root", self.root))
        if self.insightface_root is not None:
            object.__setattr__(self, "insightface_root", expand("dataset.insightface_root", self.insightface_root))
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
        require_range("measure.warmup_clips", self.warmup_clips, 0, 100)
        require_range("measure.repeats", self.repeats, 1, 1000)
        require_range("measure.pair_clips", self.pair_clips, 1, 1000)
        require_range("measure.pair_repeats", self.pair_repeats, 1, 1000)
        require_range("measure.bootstrap", self.bootstrap, 100, 1_000_000)


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
            object.__setattr__(self, field.name, expand(f"paths.{field.name}", getattr(self, field.name)))


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
        fail_fast: End a run after so many clips in a row fail for the same reason, and a sweep after so many runs do;
            a portrait or sound that cannot be used does not count; None tries everything.
        wait_s: How long to wait for a run that another process makes; 0 leaves it to that process.
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
    fail_fast: int | None = 3
    wait_s: float = 0.0
    threads: int | None = None
    ranks_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        require_range("run.limit", self.limit, 1, 10**9)
        require_range("run.fail_fast", self.fail_fast, 1, 10**9)
        require_range("run.wait_s", self.wait_s, 0, 10**9)
        require_range("run.threads", self.threads, 1, 1024)


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
    data = _plain(with_budget(config))
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
