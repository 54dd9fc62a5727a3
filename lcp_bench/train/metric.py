"""Training of the networks behind the `mini` metrics: expression regressor and sync network, in minutes on a CPU.

Both learn from drawn people after the codec. The regressor sees independent frames with evenly drawn parameters, since
every clip shows one emotion and a network would learn the people instead. The sync network tells the sound of a window
from that of other people and of other moments of the same take.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lcp_bench.config import require
from lcp_bench.train.loop import LossFunction, Progress, Recipe, Trainer
from lcp_bench.train.metric_data import MFCC_PER_FRAME, MetricData, Stills, Talking, load_stills, load_talking
from metrics.cache import file_sha256
from metrics.mini_frames import lower_face
from metrics.nets.mini import LIP_FRAMES, MFCC_COLUMNS, MOUTH_AND_EXPRESSION, OUTPUTS, ExpressionNet, MiniSyncNet

log = logging.getLogger(__name__)

MIRRORED = np.array([9, 11, 12])
"""Outputs that change sign when a picture is mirrored: yaw, roll, x."""
FEATURE_FRAMES = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What happens to training pictures, so that a metric answers its own question and not the codec's.

    Attributes:
        gain: Largest factor of brightness, either way, as its logarithm.
        tint: Standard deviation of the factors per colour.
        noise: Largest standard deviation of noise, of the full range; half of the batches get some.
        blur: Largest standard deviation of blur, px; half of the batches get some.
        jitter: Largest shift of the lip window, px.
        loudness: Largest change of the sound's log energy.
        mfcc_noise: Standard deviation of noise on the coefficients, in their own.
    """

    gain: float = 0.2
    tint: float = 0.04
    noise: float = 0.04
    blur: float = 0.9
    jitter: int = 2
    loudness: float = 1.5
    mfcc_noise: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricTraining:
    """The whole training.

    Attributes:
        seed: Seed of initial weights and batches.
        folder: Drawn frames, checkpoints and logs.
        export: Folder that takes the finished weights.
        data: What is drawn.
        augmentation: What happens to it.
        expression: The regressor; `batch` counts frames.
        sync: The sync network; `batch` counts takes.
        pose_weight: Weight of the pose in the regressor's loss; it is easier to see than mouth and expression.
        windows: Windows of each take in a batch of the sync network.
        logit_scale: Factor on the cosines in the sync network's loss.
        check_people: New people per family that the finished networks are tried on.
        max_minutes: Minutes of training in this start, per network; None trains to the end.
        max_steps: Optimiser steps of this start, per network; None trains to the end.
    """

    seed: int
    folder: str
    export: str
    data: MetricData
    augmentation: Augmentation
    expression: Recipe
    sync: Recipe
    pose_weight: float = 0.3
    windows: int = 12
    logit_scale: float = 12.0
    check_people: int = 16
    max_minutes: float | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        require(bool(self.folder), "folder", "a folder", self.folder)
        require(bool(self.export), "export", "a folder", self.export)
        windows = self.data.frames - LIP_FRAMES
        require(2 <= self.windows <= windows, "windows", f"in 2..{windows}", self.windows)
        require(0 <= self.check_people <= 32, "check_people", "in 0..32", self.check_people)
        require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", "more than 0", self.max_minutes)
        require(self.max_steps is None or self.max_steps > 0, "max_steps", "more than 0", self.max_steps)


def train_metrics(config: MetricTraining) -> str:
    """Train what is not trained yet, export when everything is, and try the networks on new people.

    Returns:
        What to tell the user.

    Raises:
        WeightsError: A checkpoint in the folder belongs to another training.
    """
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    regressor, sync = ExpressionNet(), MiniSyncNet()
    stills = load_stills(config.data, folder)
    _standardise_outputs(regressor, stills)
    progress = _train("expression", regressor, ExpressionLoss(regressor, stills, config), config.expression, config)
    if not progress.finished:
        return _stopped("expression", progress, config.expression)
    _scale_features(regressor, stills)
    talking = load_talking(config.data, folder)
    _standardise_sound(sync, talking)
    progress = _train("sync", sync, SyncLoss(sync, talking, config), config.sync, config)
    if not progress.finished:
        return _stopped("sync", progress, config.sync)
    files = export(config, {"expression": regressor, "sync": sync})
    return "\n".join(["finished; wrote", *(f"  {file}" for file in files)])


class ExpressionLoss:
    """Squared error of the standardised outputs; see `lcp_bench.train.loop.LossFunction`.

    Args:
        net: The regressor.
        stills: Its frames.
        config: Batch and augmentation.
    """

    def __init__(self, net: ExpressionNet, stills: Stills, config: MetricTraining) -> None:
        self.net, self.stills, self.batch, self.augmentation = net, stills, config.expression.batch, config.augmentation
        self.weight = torch.ones(len(OUTPUTS))
        self.weight[MOUTH_AND_EXPRESSION:] = config.pose_weight

    def __call__(self, generator: np.random.Generator) -> Tensor:
        """The loss of one random batch."""
        images, values = self.draw(generator)
        error: Tensor = (self.net(images) - (values - self.net.centre) / self.net.spread).square()
        return (error * self.weight).mean() / self.weight.mean()

    def draw(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Images (batch, 3, 64, 64) in [0, 1] and what they show, (batch, 14)."""
        chosen = generator.integers(0, len(self.stills.values), self.batch)
        pictures, values = self.stills.pictures[chosen], self.stills.values[chosen]
        mirrored = generator.random(self.batch) < 0.5
        pictures[mirrored] = pictures[mirrored, :, ::-1]
        values[np.ix_(mirrored, MIRRORED)] *= -1
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        return degraded(images, generator, self.augmentation), torch.from_numpy(values)


class SyncLoss:
    """InfoNCE both ways between the windows' lips and sounds; see `lcp_bench.train.loop.LossFunction`.

    Args:
        net: The sync network.
        talking: Its takes.
        config: Batch and augmentation.
    """

    def __init__(self, net: MiniSyncNet, talking: Talking, config: MetricTraining) -> None:
        self.net, self.talking, self.takes, self.windows = net, talking, config.sync.batch, config.windows
        self.augmentation, self.scale = config.augmentation, config.logit_scale

    def __call__(self, generator: np.random.Generator) -> Tensor:
        """The loss of one random batch."""
        lips, sounds = self.draw(generator)
        logits = self.scale * self.net.lip(lips) @ self.net.audio(sounds).T
        wanted = torch.arange(len(logits))
        return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2

    def draw(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Windows of lips (rows, 1, 5, 32, 40) and sound (rows, 1, 13, 20) that belong together."""
        talking, augmentation = self.talking, self.augmentation
        lips, sounds = [], []
        takes = generator.choice(len(talking.grey), self.takes, replace=len(talking.grey) < self.takes)
        for take in takes:
            down, right = generator.integers(-augmentation.jitter, augmentation.jitter + 1, 2)
            mouth = lower_face(talking.grey[take], down, right)[:, :, :: generator.choice([-1, 1])]
            coefficients = np.array(talking.mfcc[take])
            coefficients[:, 0] += generator.uniform(-augmentation.loudness, augmentation.loudness)
            for start in generator.choice(len(mouth) - LIP_FRAMES, self.windows, replace=False):
                lips.append(mouth[start : start + LIP_FRAMES])
                first = MFCC_PER_FRAME * start
                sounds.append(coefficients[first : first + MFCC_COLUMNS].T)
        pictures = torch.from_numpy(np.stack(lips)).float() / 255
        sound = torch.from_numpy(np.stack(sounds))
        noise = torch.from_numpy(generator.standard_normal(sound.shape, dtype=np.float32))
        sound = sound + augmentation.mfcc_noise * self.net.spread[:, None] * noise
        return 255 * degraded(pictures, generator, augmentation)[:, None], sound[:, None]


def degraded(images: Tensor, generator: np.random.Generator, augmentation: Augmentation) -> Tensor:
    """Images (B, C, H, W) in [0, 1] with another brightness and tint, and at times blurred and noisy."""
    rows, channels = images.shape[:2]
    if channels != 3:
        channels = 1  # the frames of a window change alike
    gain = generator.uniform(-augmentation.gain, augmentation.gain, (rows, 1, 1, 1))
    tint = generator.normal(0, augmentation.tint, (rows, channels, 1, 1))
    images = images * torch.from_numpy(np.exp(gain + tint).astype(np.float32))
    if generator.random() < 0.5:
        images = blurred(images, generator.uniform(0.2, augmentation.blur))
    if generator.random() < 0.5:
        noise = torch.from_numpy(generator.standard_normal(images.shape, dtype=np.float32))
        spread = generator.uniform(0, augmentation.noise, (rows, 1, 1, 1)).astype(np.float32)
        images = images + torch.from_numpy(spread) * noise
    return images.clamp(0, 1)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of images (B, C, H, W), edges reflected; `sigma` in px, up to about 1."""
    bell = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    bell = bell / bell.sum()
    planes = F.pad(images.flatten(0, 1)[:, None], (3, 3, 3, 3), mode="reflect")
    planes = F.conv2d(F.conv2d(planes, bell[None, None, :, None]), bell[None, None, None, :])
    return planes.view_as(images)


def export(config: MetricTraining, nets: Mapping[str, nn.Module]) -> list[Path]:
    """Write the weights as float16, and beside them how they were made and how they do on new people."""
    from lcp_bench.train.metric_check import check_networks

    folder = Path(config.export)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, net in nets.items():
        files.append(folder / f"{name}.safetensors")
        save_file({key: tensor.half().contiguous() for key, tensor in net.state_dict().items()}, files[-1])
    note: dict[str, Any] = {
        "training": {key: value for key, value in asdict(config).items() if key not in ("folder", "export")},
        "sha256": {file.name: file_sha256(file) for file in files},
    }
    if config.check_people:
        note["new_people"] = check_networks(folder, config.check_people)
    path = folder / "training.json"
    path.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return [*files, path]


def _train(name: str, net: nn.Module, loss: LossFunction, recipe: Recipe, config: MetricTraining) -> Progress:
    trainer = Trainer(name, net, loss, recipe, seed=config.seed, folder=Path(config.folder))
    progress = trainer.run(max_steps=config.max_steps, max_minutes=config.max_minutes)
    trainer.use_average()
    net.eval().requires_grad_(False)
    return progress


def _stopped(name: str, progress: Progress, recipe: Recipe) -> str:
    return f"{name}: {progress.step} of {recipe.steps} steps done; the same command goes on from here"


def _standardise_outputs(net: ExpressionNet, stills: Stills) -> None:
    net.centre.copy_(torch.from_numpy(stills.values.mean(axis=0)))
    net.spread.copy_(torch.from_numpy(stills.values.std(axis=0)))


def _standardise_sound(net: MiniSyncNet, talking: Talking) -> None:
    net.mean.copy_(torch.from_numpy(talking.mfcc.mean(axis=(0, 1))))
    net.spread.copy_(torch.from_numpy(talking.mfcc.std(axis=(0, 1))))


@torch.inference_mode()
def _scale_features(net: ExpressionNet, stills: Stills) -> None:
    """Make the features' mean variance 1: one factor for all, so that dead units stay dead."""
    net.feature_scale.fill_(1.0)
    frames = torch.from_numpy(np.asarray(stills.pictures[:FEATURE_FRAMES])).permute(0, 3, 1, 2).float() / 255
    features = torch.cat([net.features(part) for part in frames.split(128)])
    net.feature_scale.copy_(features.var(dim=0).mean().rsqrt())
