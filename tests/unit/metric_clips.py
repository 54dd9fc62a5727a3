"""Stand-ins and synthetic videos for the tests of the metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcp_bench.video import write_video
from metrics.weights import Loaded

SIDE = 32


def loaded(net: nn.Module, identity: str = "stand-in:1") -> Loaded[Any]:
    return Loaded.of(net, "stand-in", identity, "stand-in")


def picture_video(seed: int, frames: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Smooth moving colours, which survive the codec."""
    generator = np.random.default_rng(seed)
    phase, speed = generator.uniform(0, 6, (2, 3)) * np.array([[1.0], [0.1]])
    y, x = np.mgrid[0:side, 0:side] / side
    time = np.arange(frames)[:, None, None, None]
    waves = np.sin(phase + speed * time + (3 * x + 2 * y)[None, ..., None])
    return np.asarray(127 + 90 * waves, dtype=np.uint8)


def writer(folder: Path) -> Callable[..., Path]:
    """Writes `<folder>/videos/<name>.mp4`."""

    def write(name: str, frames: NDArray[np.uint8], fps: float = 25.0, **options: Any) -> Path:
        path = folder / "videos" / f"{name}.mp4"
        write_video(path, frames, fps, **options)
        return path

    return write


class Levels(nn.Module):
    """Embeds blue and loudness of five frames; both carry one hidden curve in the test's videos."""

    def __init__(self, silence: float) -> None:
        super().__init__()
        self.silence = nn.Parameter(torch.tensor(silence))

    def lip(self, windows: Tensor) -> Tensor:
        return (windows[:, 0].mean(dim=(2, 3)) - 40.0) / 30.0  # the first channel of BGR

    def audio(self, windows: Tensor) -> Tensor:
        return windows[:, 0, 0].unflatten(1, (5, 4)).mean(dim=2) - self.silence
