"""Fréchet video distance (Unterthiner et al. 2018, arXiv 1812.01717)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from metrics.cache import Arrays
from metrics.errors import VideoGap
from metrics.frames import read_frames
from metrics.frechet import Array
from metrics.metric import FrechetMetric
from metrics.nets.i3d import I3d
from metrics.protocol import FvdProtocol
from metrics.resize import i3d_input
from metrics.weights import Loaded


class Fvd(FrechetMetric):
    """Distance of I3D logits of non-overlapping windows; both sets give the same windows of the same clips.

    Args:
        net: maps (B, 3, T, 224, 224) in [-1, 1] to (B, D).
        protocol: windows, resize, frame rate.
        batch: windows per forward pass; does not change numbers.
    """

    def __init__(self, net: Loaded[I3d], protocol: FvdProtocol | None = None, batch: int = 2) -> None:
        self.net = net
        self.settings = (protocol or FvdProtocol()).with_backbones(net.identity)
        self.protocol = self.settings
        self.unbiased = self.settings.covariance == "n-1"
        self.batch = batch

    @torch.inference_mode()
    def extract(self, files: Sequence[Path]) -> Arrays:
        """`logits`: float32 (windows, D), in order of time.

        Raises:
            VideoGap: undecodable, another frame rate, or shorter than a window.
        """
        settings = self.settings
        frames = read_frames(files[0], settings.fps)
        starts = range(settings.first_frame, len(frames) - settings.window + 1, settings.stride)
        if not starts:
            raise VideoGap(
                f"{files[0].name} has {len(frames)} frames, a window needs {settings.window} from frame "
                f"{settings.first_frame} on",
                reason="too short",
            )
        device = next(self.net.module.parameters()).device
        logits = []
        for begin in range(0, len(starts), self.batch):
            windows = [
                i3d_input(frames[start : start + settings.window], settings.resize)
                for start in starts[begin : begin + self.batch]
            ]
            logits.append(self.net.module(torch.stack(windows).to(device)).float().cpu())
        return {"logits": torch.cat(logits).numpy()}

    def rows(self, generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
        """The windows that both videos have."""
        count = min(len(generated["logits"]), len(reference["logits"]))
        return _wide(generated["logits"][:count]), _wide(reference["logits"][:count])


def _wide(features: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Array:
    return np.asarray(features, dtype=np.float64)
