"""Expression distance: Fréchet distance of 3DMM expression coefficients (EMO, arXiv 2402.17485)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metrics import align
from metrics.cache import Arrays
from metrics.errors import MetricError, VideoGap
from metrics.faces import LandmarkFinder
from metrics.frames import read_frames
from metrics.frechet import Array
from metrics.metric import FrechetMetric
from metrics.nets.recon import ReconNet
from metrics.protocol import EfidProtocol
from metrics.weights import Loaded


class Efid(FrechetMetric):
    """Distance of the 64 expression numbers of Deep3DFaceRecon; frames without a face count on neither side.

    Args:
        net: maps (B, 3, 224, 224) in [0, 1] to (B, 257).
        landmarks: finds the five points; its name enters the protocol.
        protocol: coefficients, frame rate, stride.
        batch: frames per forward pass; does not change numbers.
    """

    def __init__(
        self,
        net: Loaded[ReconNet],
        landmarks: LandmarkFinder,
        protocol: EfidProtocol | None = None,
        batch: int = 16,
    ) -> None:
        self.net, self.landmarks = net, landmarks
        used = [net.identity] if landmarks.backbone is None else [net.identity, landmarks.backbone]
        self.settings = replace(protocol or EfidProtocol(), landmarks=landmarks.name).with_backbones(*used)
        self.protocol = self.settings
        self.unbiased = self.settings.covariance == "n-1"
        self.batch = batch

    @torch.inference_mode()
    def extract(self, files: Sequence[Path]) -> Arrays:
        """`expression`: float32 (faces, 64), and `frame`: int64 (faces,), the frame numbers they belong to.

        Raises:
            VideoGap: undecodable, another frame rate, or no frame with a face.
        """
        frames = read_frames(files[0], self.settings.fps)
        crops, numbers = [], []
        for number in range(0, len(frames), self.settings.stride):
            crop = self._aligned(frames[number])
            if crop is not None:
                crops.append(crop)
                numbers.append(number)
        if not crops:
            raise VideoGap(
                f"{files[0].name}: {self.landmarks.name} finds no face in any of {len(frames)} frames", reason="no face"
            )
        device = next(self.net.module.parameters()).device
        low, high = self.settings.coefficients
        parts = []
        for begin in range(0, len(crops), self.batch):
            faces = torch.from_numpy(np.stack(crops[begin : begin + self.batch])).permute(0, 3, 1, 2).float() / 255.0
            parts.append(self.net.module(faces.to(device))[:, low:high].float().cpu())
        return {"expression": torch.cat(parts).numpy(), "frame": np.array(numbers, dtype=np.int64)}

    def _aligned(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        points = self.landmarks.find(frame)
        if points is None:
            return None
        try:
            alignment, _ = align.fit(points, frame.shape[1], frame.shape[0])
        except MetricError:
            return None  # points that span no face are no face
        return align.crop(frame, alignment)

    def rows(self, generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
        """The frames in which both videos show a face."""
        _, left, right = np.intersect1d(generated["frame"], reference["frame"], return_indices=True)
        first, second = generated["expression"][left], reference["expression"][right]
        return np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
