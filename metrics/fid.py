"""Fréchet Inception distance of video frames (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from metrics.cache import Arrays
from metrics.frames import read_frames
from metrics.frechet import Array
from metrics.metric import FrechetMetric
from metrics.nets.inception import FidInception
from metrics.protocol import FidProtocol
from metrics.resize import inception_input
from metrics.weights import Loaded


class Fid(FrechetMetric):
    """Distance of Inception features of all frames; both sets give the same frame numbers of the same clips.

    Args:
        net: maps (B, 3, 299, 299) in [-1, 1] to (B, D).
        protocol: resize, frame rate, stride.
        batch: frames per forward pass; does not change numbers.
    """

    def __init__(self, net: Loaded[FidInception], protocol: FidProtocol | None = None, batch: int = 16) -> None:
        self.net = net
        self.settings = (protocol or FidProtocol()).with_backbones(net.identity)
        self.protocol = self.settings
        self.unbiased = self.settings.covariance == "n-1"
        self.batch = batch

    @torch.inference_mode()
    def extract(self, files: Sequence[Path]) -> Arrays:
        """`pool`: float32 (frames, D), in order of time.

        Raises:
            VideoGap: undecodable, or another frame rate.
        """
        frames = read_frames(files[0], self.settings.fps)[:: self.settings.stride]
        device = next(self.net.module.parameters()).device
        pools = []
        for begin in range(0, len(frames), self.batch):
            images = inception_input(frames[begin : begin + self.batch], self.settings.resize)
            pools.append(self.net.module(images.to(device)).float().cpu())
        return {"pool": torch.cat(pools).numpy()}

    def rows(self, generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
        """The frames that both videos have."""
        count = min(len(generated["pool"]), len(reference["pool"]))
        left, right = (np.asarray(side["pool"][:count], dtype=np.float64) for side in (generated, reference))
        return left, right
