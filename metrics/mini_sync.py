"""Lip-sync of drawn people by the mini SyncNet: distance, confidence and offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metrics.cache import Arrays
from metrics.errors import MetricError, VideoGap
from metrics.frames import read_sound
from metrics.frechet import Array
from metrics.lipsync import embed_track, window_count
from metrics.metric import ClipMetric
from metrics.mini_frames import lower_face, read_small, to_grey
from metrics.mini_protocol import MiniSyncProtocol
from metrics.nets.mini import MiniSyncNet
from metrics.score import Direction
from metrics.weights import Loaded

QUANTITIES: dict[str, tuple[str, Direction]] = {
    "sync_c": ("distance of unit vectors, 0..2", "higher"),
    "sync_d": ("distance of unit vectors, 0..2", "lower"),
    "sync_offset": ("frames of 40 ms, positive: sound ahead", "none"),
}


@dataclass(frozen=True, slots=True)
class OffsetCurve:
    """How well lips and sound agree when one is shifted.

    Attributes:
        mean_distance: (2 * shift + 1,) mean distance with the sound of `j - shift` frames later, 0..2.
        distance: its minimum; lower is better.
        confidence: its median minus its minimum; higher is better.
        offset: frames of 40 ms; positive where the sound is ahead of the picture.
    """

    mean_distance: Array
    distance: float
    confidence: float
    offset: int


def offset_curve(lips: Any, sounds: Any, shift: int) -> OffsetCurve:
    """Compare lip windows with sound windows up to `shift` frames away; only windows that meet count.

    The published evaluation puts zero vectors beyond the ends. Unit vectors are farther from most others (about 1.4)
    than from zero (1), so that a short clip without any agreement would seem to agree at the largest offsets.

    Args:
        lips: (N, E) embeddings, one per window.
        sounds: (N, E) embeddings of the same windows' sound.
        shift: largest offset in frames, below N.

    Raises:
        MetricError: the two differ in shape, or have no more than `shift` windows.
    """
    left, right = np.asarray(lips, dtype=np.float64), np.asarray(sounds, dtype=np.float64)
    if left.ndim != 2 or left.shape != right.shape or len(left) <= shift:
        raise MetricError(
            f"expected equal embeddings (more than {shift} windows, size), got {left.shape} and {right.shape}"
        )
    count = len(left)
    curve = np.array(
        [
            np.linalg.norm(
                left[max(0, -later) : count - max(0, later)] - right[max(0, later) : count - max(0, -later)], axis=1
            ).mean()
            for later in range(-shift, shift + 1)
        ]
    )
    best = int(curve.argmin())
    return OffsetCurve(curve, float(curve[best]), float(np.median(curve) - curve[best]), shift - best)


class MiniSync(ClipMetric):
    """Scores of the speech in a video against its mouth; the face must sit where the renderer puts it.

    Its distances lie between 0 and 2 and are not on the scale of the published SyncNet.

    Args:
        net: the mini SyncNet.
        protocol: offsets, shortest clip.
        batch: windows per forward pass; does not change numbers.
    """

    def __init__(self, net: Loaded[MiniSyncNet], protocol: MiniSyncProtocol | None = None, batch: int = 64) -> None:
        self.net = net
        self.settings = (protocol or MiniSyncProtocol()).with_backbones(net.identity)
        self.protocol = self.settings
        self.batch = batch
        self.quantities = dict(QUANTITIES)

    def extract(self, files: Sequence[Path]) -> Arrays:
        """`sync_c`, `sync_d`, `sync_offset` (1,) and `curve` (1, offsets).

        Raises:
            VideoGap: undecodable, another frame rate, too small, no sound, or too few windows.
        """
        settings = self.settings
        frames = read_small(files[0], settings.fps)
        sound = read_sound(files[0], settings.sample_rate)
        found = window_count(len(frames), len(sound))
        wanted = settings.max_shift + settings.min_pairs
        if found < wanted:
            raise VideoGap(
                f"{files[0].name} has {len(frames)} frames and {len(sound)} samples, {max(found, 0)} windows; offsets "
                f"of {settings.max_shift} frames need {wanted}",
                reason="too short",
            )
        mouth = lower_face(to_grey(frames))[..., None]
        curve = offset_curve(*embed_track(self.net.module, mouth, sound, self.batch), settings.max_shift)
        return {
            "sync_c": np.array([curve.confidence]),
            "sync_d": np.array([curve.distance]),
            "sync_offset": np.array([curve.offset], dtype=np.int64),
            "curve": curve.mean_distance[None],
        }

    def values(self, features: Arrays) -> dict[str, float]:
        """The numbers of one video."""
        return {name: float(features[name].mean()) for name in self.quantities}
