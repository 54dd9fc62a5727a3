"""Training of `mini` in the family's order: codec, single frames, then sequences; and the codec's repair.

Every stage starts from the averaged weights of the one before, goes on from its own checkpoint if it was interrupted,
and is skipped once it is finished. At the end the weights are written as safetensors in float16.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from lcp_bench.config import require
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.mini import COMPONENTS, SIZE, build_modules, unet_configs
from lcp_bench.models.motion_codec import MotionCodec
from lcp_bench.models.shipped import write_shipped
from lcp_bench.models.temporal import TemporalModule
from lcp_bench.models.unet import UNet
from lcp_bench.train.loop import LossFunction, Processes, Progress, Recipe, Trainer, first_process_first
from lcp_bench.train.mini_codec import CodecLoss, example_pairs
from lcp_bench.train.mini_data import ClipsConfig, load_clips
from lcp_bench.train.mini_denoiser import DenoiserLoss, DenoiserOptions
from lcp_bench.train.mini_repair import RepairLoss

log = logging.getLogger(__name__)

DENOISER = ("denoising_unet", "reference_unet", "portrait_guide", "audio_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniTraining:
    """The whole training.

    Attributes:
        seed: Seed of initial weights and batches.
        folder: Rendered clips, latents, checkpoints and logs.
        export: Folder that takes the finished weights.
        clips: What is rendered.
        codec: Stage 1, the autoencoder.
        frames: Stage 2, single frames.
        frames_options: Samples of stage 2.
        sequences: Stage 3, sequences with the temporal modules.
        sequences_options: Samples of stages 3 and 4.
        repair: Stage 4, what the codec paints, on predicted latents.
        max_minutes: Minutes of training in this start; None trains to the end.
        max_steps: Optimiser steps of this start; None trains to the end.
    """

    seed: int
    folder: str
    export: str
    clips: ClipsConfig
    codec: Recipe
    frames: Recipe
    frames_options: DenoiserOptions
    sequences: Recipe
    sequences_options: DenoiserOptions
    repair: Recipe
    max_minutes: float | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        require(bool(self.folder), "folder", "a folder", self.folder)
        require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", "more than 0", self.max_minutes)
        require(self.max_steps is None or self.max_steps > 0, "max_steps", "more than 0", self.max_steps)


def train_mini(config: MiniTraining) -> str:
    """Train what is not trained yet, and export when everything is.

    Returns:
        What to tell the user.

    Raises:
        WeightsError: A checkpoint in the folder belongs to another training.
    """
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with first_process_first():
        arrays = load_clips(config.clips, folder)
    codec, progress = _train_codec(config, arrays)
    if not progress.finished:
        return _stopped("codec", progress, config.codec)
    state: dict[str, torch.Tensor] = {}
    for stage in ("frames", "sequences"):
        recipe: Recipe = getattr(config, stage)
        networks = denoiser_networks(config.seed, temporal=stage == "sequences")
        networks.load_state_dict(state, strict=False)
        options: DenoiserOptions = getattr(config, f"{stage}_options")
        batch = Processes.running().share(recipe.batch)
        loss = DenoiserLoss(dict(networks.items()), codec, arrays, config.clips.reference_frames, batch, options)
        progress = _train(stage, networks, loss, recipe, config)
        if not progress.finished:
            return _stopped(stage, progress, recipe)
        state = networks.state_dict()
    progress = _train_repair(config, codec, networks, arrays)
    if not progress.finished:
        return _stopped("repair", progress, config.repair)
    if Processes.running().rank:
        return ""
    files = export(config, state, codec)
    return "\n".join(["finished; wrote", *(f"  {file}" for file in files)])


def denoiser_networks(seed: int, *, temporal: bool) -> nn.ModuleDict:
    """The networks of stages 2 and 3 with their initial weights; stage 2 has no temporal modules.

    The denoising UNet starts by predicting nothing, a temporal module as the identity, so that stage 3 begins with what
    stage 2 has learnt.
    """
    torch.manual_seed(seed)
    modules = build_modules(device="cpu")
    if not temporal:
        denoising, _ = unet_configs(SIZE)
        modules["denoising_unet"] = UNet(_without_temporal(denoising))
    networks = nn.ModuleDict({name: modules[name] for name in DENOISER}).requires_grad_(True)
    unet = networks["denoising_unet"]
    assert isinstance(unet, UNet)
    nn.init.zeros_(unet.conv_out.weight)
    assert unet.conv_out.bias is not None
    nn.init.zeros_(unet.conv_out.bias)
    for module in networks.modules():
        if isinstance(module, TemporalModule):
            nn.init.zeros_(module.temporal_transformer.proj_out.weight)
            nn.init.zeros_(module.temporal_transformer.proj_out.bias)
    # What no feature depends on gets no gradient either.
    for name, parameter in networks["reference_unet"].named_parameters():
        parameter.requires_grad_(not _after_last_feature(name))
    return networks


def _after_last_feature(name: str) -> bool:
    """Weights of the reference UNet's last transformer behind its normed input."""
    last = "up_blocks.3.attentions.2."
    return name.startswith(last) and not name.startswith(
        (f"{last}norm.", f"{last}proj_in.", f"{last}transformer_blocks.0.norm1.")
    )


def _without_temporal(config: UNetConfig) -> UNetConfig:
    return replace(config, temporal=None)


def _train_codec(config: MiniTraining, arrays: Mapping[str, NDArray[Any]]) -> tuple[MotionCodec, Progress]:
    torch.manual_seed(config.seed)
    codec = MotionCodec(SIZE.latent_channels, SIZE.appearance_channels, SIZE.codec_width)
    examples, portraits = example_pairs(arrays["pixels"])
    codec.fit(examples)
    loss = CodecLoss(codec, arrays, Processes.running().share(config.codec.batch))
    progress = _train("codec", codec, loss, config.codec, config)
    codec.standardise(examples, portraits)
    return codec.eval().requires_grad_(False), progress


def _train_repair(
    config: MiniTraining, codec: MotionCodec, networks: nn.ModuleDict, arrays: Mapping[str, NDArray[Any]]
) -> Progress:
    """Nothing else changes: neither latents nor warps, nor the denoiser."""
    networks.eval().requires_grad_(False)
    codec.repair.requires_grad_(True)
    batch = Processes.running().share(config.repair.batch)
    options = replace(config.sequences_options, drop=0.0)
    denoiser = DenoiserLoss(dict(networks.items()), codec, arrays, config.clips.reference_frames, batch, options)
    progress = _train("repair", codec, RepairLoss(codec, denoiser, arrays), config.repair, config)
    codec.eval().requires_grad_(False)
    return progress


def _train(name: str, module: nn.Module, loss: LossFunction, recipe: Recipe, config: MiniTraining) -> Progress:
    trainer = Trainer(name, module, loss, recipe, seed=config.seed, folder=Path(config.folder))
    progress = trainer.run(max_steps=config.max_steps, max_minutes=config.max_minutes)
    trainer.use_average()
    return progress


def _stopped(stage: str, progress: Progress, recipe: Recipe) -> str:
    return f"{stage}: {progress.step} of {recipe.steps} steps done; the same command goes on from here"


def export(config: MiniTraining, state: Mapping[str, torch.Tensor], codec: MotionCodec) -> list[Path]:
    """Write the weights, one file per component, and the recipe beside them."""
    folder = Path(config.export)
    tensors: dict[str, dict[str, torch.Tensor]] = {name: {} for name in COMPONENTS}
    for key, tensor in state.items():
        component, _, name = key.partition(".")
        tensors[component][name] = tensor
    tensors["codec"] = dict(codec.state_dict())
    # The reference network is read once per segment and its features are normed: it stands rounding best.
    files = [write_shipped(folder, name, tensors[name], small=name == "reference_unet") for name in COMPONENTS]
    recipe = {key: value for key, value in asdict(config).items() if key not in ("folder", "export")}
    (folder / "training.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    return [*files, folder / "training.json"]
