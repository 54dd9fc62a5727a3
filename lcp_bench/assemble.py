"""From the configuration to a model with weights, and to the label that its numbers carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcp_bench.config import RunConfig, build_strategy
from lcp_bench.data.face_parsing import FaceParser, find_parser
from lcp_bench.data.manifest import Clip
from lcp_bench.errors import ConfigError
from lcp_bench.models.memo import EMOTION_ENCODER
from lcp_bench.models.mini import COMPONENTS as MINI_COMPONENTS
from lcp_bench.models.registry import PublicWeights, assemble, kind_of
from lcp_bench.models.shipped import SHIPPED, load_shipped, shipped_hash
from lcp_bench.models.talking_head import TalkingHead
from lcp_bench.models.weights.emotion2vec import describe_emotion2vec, load_emotion2vec
from lcp_bench.models.weights.report import WeightsReport
from lcp_bench.models.weights.seeded import apply_seeded_v1, draw_on_device, weights_identity
from metrics.weights import FOLDER


@dataclass(frozen=True, slots=True)
class WeightsLabel:
    """What the weights are.

    Attributes:
        label: `public`, `mini` (trained here) or `seeded`; rows with different labels never share a table.
        identity: Text that changes whenever a weight changes; part of the run's identity.
        files: Files read, as the record lists them.
    """

    label: str
    identity: str
    files: tuple[dict[str, Any], ...] = ()


def resolve_device(config: RunConfig) -> torch.device:
    """The device of a run; asking for an absent GPU is a `ConfigError`."""
    wanted = config.run.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "run.device=cuda, but torch sees no GPU; use run.device=cpu, or install a CUDA build of torch"
        )
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def set_precision(config: RunConfig) -> None:
    """Fix what float32 arithmetic means on a GPU, for matrix products and convolutions alike."""
    torch.backends.cuda.matmul.allow_tf32 = config.model.tf32
    torch.backends.cudnn.allow_tf32 = config.model.tf32


def describe_weights(config: RunConfig, device: torch.device) -> WeightsLabel:
    """The weights' label without loading them; public files are hashed (once per file, the result is kept).

    Raises:
        WeightsError: Public files are missing.
    """
    if config.model.weights == "seeded":
        rule = _seed_rule(config)
        return WeightsLabel("seeded", weights_identity(rule, config.model.weights_seed, device))
    if config.model.name == "mini":
        return _describe_mini(shipped_folder(config))
    root = Path(config.paths.weights)
    report = _public(config).describe(root)
    if config.model.emotion == "classified":
        report = WeightsReport(root=root, files=report.files + describe_emotion2vec(root).files)
    files = tuple({"file": file.place, "sha256": file.sha256, "bytes": file.size_bytes} for file in report.files)
    return WeightsLabel("public", report.identity, files)


def describe_parser(config: RunConfig, clips: Sequence[Clip]) -> FaceParser | None:
    """What parses the portraits, if the strategy restricts its attention to a foreground that not all clips bring.

    Raises:
        ConfigError: A parser is asked for whose file is missing.
    """
    if build_strategy(config).foreground() is None or all(clip.foreground is not None for clip in clips):
        return None
    folder = Path(config.paths.weights) / FOLDER
    return find_parser(config.dataset.face_parser, config.dataset.foreground_classes, folder)


def shipped_folder(config: RunConfig) -> Path:
    """Where mini's weights lie: where training puts them, or the folder that the user names."""
    return SHIPPED if config.model.checkpoint is None else Path(config.model.checkpoint)


def _describe_mini(folder: Path) -> WeightsLabel:
    found = [shipped_hash(folder, component) for component in MINI_COMPONENTS]
    files = tuple({"file": path.name, "sha256": digest, "bytes": path.stat().st_size} for path, digest in found)
    return WeightsLabel("mini", "mini:" + ",".join(digest for _, digest in found), files)


def load_model(config: RunConfig, device: torch.device) -> TalkingHead:
    """Build the model and give it weights.

    Raises:
        WeightsError: Files are missing, truncated, or do not fit.
    """
    dtype = getattr(torch, config.model.dtype)
    kind = kind_of(config.model.name, config.model.size)
    if config.model.weights == "checkpoint" and config.model.name == "mini":
        modules = kind.build_modules(config.model.size, "meta")
        load_shipped(modules, shipped_folder(config), device, dtype)
    elif config.model.weights == "checkpoint":
        modules = _public_modules(config, device, dtype)
    elif _seed_rule(config) == "seeded-v1":
        modules = _seeded_modules(config, device, dtype)
    else:
        modules = kind.build_modules(config.model.size, "meta")
        for name, module in modules.items():
            own = torch.float32 if name in kind.float32 else dtype
            draw_on_device(module, config.model.weights_seed, device, own, component=name)
    return assemble(modules, config.model)


def _public_modules(config: RunConfig, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    public, root, model = _public(config), Path(config.paths.weights), config.model
    built = public.build(root) if public.build else kind_of(model.name, model.size).build_modules(model.size, "meta")
    public.load(built, root, device, dtype)
    return built if model.emotion != "classified" else {**built, EMOTION_ENCODER: load_emotion2vec(root, device)}


def _public(config: RunConfig) -> PublicWeights:
    public = kind_of(config.model.name, config.model.size).public
    if public is None:
        raise ConfigError(f"{config.model.name} has no public weights; use model.weights=seeded")
    return public


def _seed_rule(config: RunConfig) -> str:
    """Tiny weights are drawn on the host, so that they are equal everywhere; full-size ones where they are needed."""
    small = config.model.size == "tiny" or config.model.name == "mini"
    return "seeded-v1" if small else "seeded-device"


def _seeded_modules(config: RunConfig, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    kind = kind_of(config.model.name, config.model.size)
    modules = kind.build_modules(config.model.size, "cpu")
    for number, (name, module) in enumerate(modules.items()):
        tables = [key for key, _ in module.named_buffers() if key.endswith((".pe", "positional_embedding"))]
        apply_seeded_v1(module, config.model.weights_seed * len(modules) + number, computed_buffers=tables)
        nn.Module.to(module, device, torch.float32 if name in kind.float32 else dtype)
    return modules
