"""Small networks behind the `mini` metrics: trained (expression regressor, sync network) and fixed (random features).

They see pictures of 64 x 64 pixels and are trained on drawn people only (`lcp_bench/train/metric.py`). Their numbers
order videos of such people; they are on no published scale.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.errors import MetricError

SIDE = 64
"""Side of the pictures that all of these networks see, px."""
WIDTHS = (24, 48, 64, 64)
FEATURES = 64
OUTPUTS = (
    *("open", "width", "round", "contact"),
    *("smile", "brow", "furrow", "lids", "blink"),
    *("yaw", "pitch", "roll", "x", "y"),
)
"""What the regressor predicts: mouth, expression, pose."""
MOUTH_AND_EXPRESSION = 9
"""The first so many of `OUTPUTS` are what E-FID compares."""

LIP_FRAMES, LIP_HEIGHT, LIP_WIDTH = 5, 32, 40
LIP_TOP, LIP_LEFT = 24, 12
"""The lower-face window in a picture of 64 x 64 pixels; it does not follow the head."""
MFCC_ROWS, MFCC_COLUMNS = 13, 20
EMBEDDING = 32

RANDOM_SEED = 20_250_131
WINDOW = 16
"""Frames that the random video features see at a time."""
MOTION_CLIP = 0.25
"""Differences of neighbouring frames beyond this share of the full range count as this much."""
ENERGY_FLOOR = 1e-5
"""Added to energies before the logarithm: about the square of one grey level of 255; keeps still pictures finite."""


class ExpressionNet(nn.Module):
    """Four convolutions of stride 2, a feature of 64 numbers, and what it says about mouth, expression and pose.

    Outputs are standardised: in standard deviations of the training frames, around their means.
    """

    centre: Tensor
    spread: Tensor
    feature_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, *WIDTHS)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in WIDTHS)
        self.feature = nn.Linear(WIDTHS[-1] * (SIDE // 2 ** len(WIDTHS)) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, len(OUTPUTS))
        self.register_buffer("centre", torch.zeros(len(OUTPUTS)))
        self.register_buffer("spread", torch.ones(len(OUTPUTS)))
        self.register_buffer("feature_scale", torch.ones(()))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Activations of the four convolutions: (B, 24, 32, 32) down to (B, 64, 4, 4).

        Args:
            images: float (B, 3, 64, 64), RGB in [0, 1].

        Raises:
            MetricError: wrong layout.
        """
        if images.shape[1:] != (3, SIDE, SIDE):
            raise MetricError(f"the expression regressor expects images (n, 3, 64, 64), got {tuple(images.shape)}")
        found, current = [], images * 2 - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            current = F.silu(norm(convolution(current)))
            found.append(current)
        return found

    def features(self, images: Tensor) -> Tensor:
        """(B, 64) features of unit mean variance over the training frames; `images` as for `maps`."""
        return self._hidden(images) * self.feature_scale

    def forward(self, images: Tensor) -> Tensor:
        """(B, 14) standardised `OUTPUTS`; `images` as for `maps`."""
        return self.head(self._hidden(images))

    def _hidden(self, images: Tensor) -> Tensor:
        return F.silu(self.feature(self.maps(images)[-1].flatten(1)))

    def natural(self, outputs: Tensor) -> Tensor:
        """Standardised outputs (B, 14) in the units of the renderer."""
        return outputs * self.spread + self.centre


class MiniSyncNet(nn.Module):
    """Two towers that embed five grey lip frames and their 200 ms of sound as unit vectors of 32 numbers."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lip_tower = nn.Sequential(
            *(nn.Conv2d(LIP_FRAMES, 32, 3, 2, 1), nn.GroupNorm(8, 32), nn.SiLU()),
            *(nn.Conv2d(32, 48, 3, 2, 1), nn.GroupNorm(8, 48), nn.SiLU()),
            *(nn.Conv2d(48, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU(), nn.Flatten()),
            *(nn.Linear(64 * (LIP_HEIGHT // 8) * (LIP_WIDTH // 8), 64), nn.SiLU(), nn.Linear(64, EMBEDDING)),
        )
        self.audio_tower = nn.Sequential(
            *(nn.Conv1d(MFCC_ROWS, 48, 5, 1, 2), nn.GroupNorm(8, 48), nn.SiLU()),
            *(nn.Conv1d(48, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU()),
            *(nn.Conv1d(64, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU(), nn.Flatten()),
            *(nn.Linear(64 * MFCC_COLUMNS // 4, 64), nn.SiLU(), nn.Linear(64, EMBEDDING)),
        )
        self.register_buffer("mean", torch.zeros(MFCC_ROWS))
        self.register_buffer("spread", torch.ones(MFCC_ROWS))

    def audio(self, windows: Tensor) -> Tensor:
        """Sound to unit vectors.

        Args:
            windows: float (N, 1, 13, 20), 200 ms of `metrics.mfcc.mfcc` of 16-bit sample values.

        Returns:
            (N, 32).

        Raises:
            MetricError: wrong layout.
        """
        if windows.shape[1:] != (1, MFCC_ROWS, MFCC_COLUMNS):
            raise MetricError(f"the mini SyncNet expects MFCC windows (n, 1, 13, 20), got {tuple(windows.shape)}")
        normal = (windows[:, 0] - self.mean[:, None]) / self.spread[:, None]
        return F.normalize(self.audio_tower(normal), dim=1)

    def lip(self, windows: Tensor) -> Tensor:
        """Lower faces to unit vectors; brightness and contrast of a window do not count.

        Args:
            windows: float (N, 1, 5, 32, 40), grey in 0..255, five frames at 25 fps.

        Returns:
            (N, 32).

        Raises:
            MetricError: wrong layout.
        """
        if windows.shape[1:] != (1, LIP_FRAMES, LIP_HEIGHT, LIP_WIDTH):
            raise MetricError(f"the mini SyncNet expects lip windows (n, 1, 5, 32, 40), got {tuple(windows.shape)}")
        grey = windows[:, 0]
        spread, mean = torch.std_mean(grey, dim=(1, 2, 3), keepdim=True)
        return F.normalize(self.lip_tower((grey - mean) / (spread + 4)), dim=1)


class RandomVideo(nn.Module):
    """Energies of fixed random space-time filters in 16 frames, as logarithms, by quarter of the picture.

    Args:
        motion: look at differences of neighbouring frames instead of the frames; without it the features are nearly
            blind to time, with it nearly blind to everything that stands still.
    """

    def __init__(self, *, motion: bool) -> None:
        super().__init__()
        self.motion = motion
        generator = np.random.default_rng([RANDOM_SEED, int(motion)])
        self.first = _drawn(generator, 16, 3, (3, 5, 5))
        self.second = _drawn(generator, 16, 16, (3, 3, 3))

    def forward(self, frames: Tensor) -> Tensor:
        """Features of windows.

        Args:
            frames: float (B, 3, 16, 64, 64), RGB in [0, 1].

        Returns:
            (B, 64).

        Raises:
            MetricError: wrong layout.
        """
        if frames.shape[1:] != (3, WINDOW, SIDE, SIDE):
            raise MetricError(f"expected windows (n, 3, 16, 64, 64), got {tuple(frames.shape)}")
        signal = frames - 0.5
        if self.motion:
            signal = frames.diff(dim=2).clamp(-MOTION_CLIP, MOTION_CLIP)
        hidden = F.relu(F.conv3d(signal, self.first, stride=(1, 2, 2)))
        energy = F.conv3d(hidden, self.second, stride=(1, 2, 2)).square().mean(dim=2)
        pooled = F.adaptive_avg_pool2d(energy, 2).flatten(1)
        return torch.log(pooled + ENERGY_FLOOR)


class RandomFrames(nn.Module):
    """Energies of fixed random filters in single frames, as logarithms, by quarter of the picture: sees blur and noise.

    The regressor ignores both, since it was trained to.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = np.random.default_rng([RANDOM_SEED, 2])
        self.first = _drawn(generator, 16, 3, (5, 5))
        self.second = _drawn(generator, 16, 16, (3, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 64) features of images (B, 3, 64, 64), RGB in [0, 1]."""
        if images.shape[1:] != (3, SIDE, SIDE):
            raise MetricError(f"expected images (n, 3, 64, 64), got {tuple(images.shape)}")
        hidden = F.relu(F.conv2d(images - 0.5, self.first, stride=1))
        energy = F.conv2d(hidden, self.second, stride=2).square()
        return torch.log(F.adaptive_avg_pool2d(energy, 2).flatten(1) + ENERGY_FLOOR)


def _drawn(generator: np.random.Generator, outputs: int, inputs: int, size: tuple[int, ...]) -> nn.Parameter:
    """Gaussian filters of unit expected energy; the first half sums to zero and so sees no flat colour."""
    values = generator.standard_normal((outputs, inputs, *size))
    values[: outputs // 2] -= values[: outputs // 2].mean(axis=tuple(range(2, values.ndim)), keepdims=True)
    values /= np.sqrt(np.square(values).sum(axis=tuple(range(1, values.ndim)), keepdims=True))
    return nn.Parameter(torch.from_numpy(values.astype(np.float32)), requires_grad=False)


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over the values of all weights: the identity of a network that no file holds."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + b"\0" + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
