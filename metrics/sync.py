"""Lip-sync of videos: LSE-C, LSE-D and offset by SyncNet on tracked faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.cache import Arrays
from metrics.errors import VideoGap
from metrics.faces import BoxFinder
from metrics.frames import read_frames, read_sound
from metrics.frechet import Array
from metrics.lipsync import SAMPLES_PER_FRAME, SyncScore, embed_track, sync_score
from metrics.metric import ClipMetric
from metrics.protocol import SyncProtocol
from metrics.score import Direction
from metrics.tracks import FaceTrack, TrackRules, crop_face, link, smooth
from metrics.weights import Loaded

QUANTITIES: dict[str, tuple[str, Direction]] = {
    "lse_c": ("embedding units", "higher"),
    "lse_d": ("embedding units", "lower"),
    "offset": ("frames of 40 ms, positive: sound ahead", "none"),
}


class Sync(ClipMetric):
    """Scores of the driving speech in a video against its mouth; the mean over the face tracks of a video.

    A model can score better than real videos (it may be trained against SyncNet), so more is not always better.

    Args:
        net: SyncNet.
        boxes: finds faces; its name enters the protocol.
        protocol: track rules, crop.
        batch: windows per forward pass; does not change numbers.
    """

    def __init__(
        self, net: Loaded[Any], boxes: BoxFinder, protocol: SyncProtocol | None = None, batch: int = 20
    ) -> None:
        self.net, self.boxes = net, boxes
        used = [net.identity] if boxes.backbone is None else [net.identity, boxes.backbone]
        self.settings = replace(protocol or SyncProtocol(), detector=boxes.name).with_backbones(*used)
        self.protocol = self.settings
        self.batch = batch
        self.quantities = dict(QUANTITIES)

    def extract(self, files: Sequence[Path]) -> Arrays:
        """One entry per track: `lse_c`, `lse_d`, `offset` (tracks,), `curve` (tracks, 31), `first`, `last` frame.

        Raises:
            VideoGap: undecodable, another frame rate, no sound, no face, or no track that is long and large enough.
        """
        frames = read_frames(files[0], self.settings.fps)
        sound = read_sound(files[0], self.settings.sample_rate)
        tracks = self._tracks(frames, files[0].name)
        scores = [self._score(frames, sound, track) for track in tracks]
        return {
            "lse_c": np.array([score.confidence for score in scores]),
            "lse_d": np.array([score.min_distance for score in scores]),
            "offset": np.array([score.offset for score in scores], dtype=np.int64),
            "curve": np.stack([score.mean_distance for score in scores]),
            "first": np.array([track.frames[0] for track in tracks]),
            "last": np.array([track.frames[-1] for track in tracks]),
        }

    def _tracks(self, frames: NDArray[np.uint8], name: str) -> list[FaceTrack]:
        settings = self.settings
        rows: list[Array] = []
        for number, frame in enumerate(frames):
            rows += [np.array([number, *box]) for box in self.boxes.find(frame)]
        if not rows:
            raise VideoGap(f"{name}: {self.boxes.name} finds no face in {len(frames)} frames", reason="no face")
        rules = TrackRules(settings.min_iou, settings.max_gap, settings.min_detections, settings.min_size)
        tracks = link(np.stack(rows), rules)
        if not tracks:
            raise VideoGap(
                f"{name}: no face track with more than {rules.min_detections} detections and larger than "
                f"{rules.min_size:g} pixels; {len(rows)} detections in {len(frames)} frames",
                reason="no face track",
            )
        return tracks

    def _score(self, frames: NDArray[np.uint8], sound: NDArray[np.int16], track: FaceTrack) -> SyncScore:
        path = smooth(track.boxes)
        places = zip(track.frames, path.half, path.x, path.y, strict=True)
        crops = np.stack(
            [crop_face(frames[at][..., ::-1], half, x, y, self.settings.crop_share) for at, half, x, y in places]
        )
        begin = int(track.frames[0]) * SAMPLES_PER_FRAME
        end = int(track.frames[-1] + 1) * SAMPLES_PER_FRAME
        device = next(self.net.module.parameters()).device
        lips, sounds = embed_track(self.net.module, crops, sound[begin:end], self.batch, device)
        return sync_score(lips, sounds, self.settings.max_shift)

    def values(self, features: Arrays) -> dict[str, float]:
        """Means over the tracks of one video."""
        return {name: float(features[name].mean()) for name in self.quantities}
