"""Lip-sync scores from SyncNet embeddings (Chung & Zisserman 2016): LSE-D, LSE-C and the offset of sound to picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import medfilt
from torch import Tensor

from metrics.errors import MetricError, VideoGap
from metrics.mfcc import mfcc

Array = NDArray[np.float64]

SHIFT = 15
EPSILON = 1e-6
LIP_FRAMES = 5
MFCC_PER_FRAME = 4
MFCC_COLUMNS = 20
SAMPLES_PER_FRAME = 640
SMOOTHING = 9


class SyncEncoder(Protocol):
    """Embeds lip and sound windows in one space; `SyncNet` is the public one."""

    def lip(self, windows: Tensor) -> Tensor:
        """(N, 3, 5, 224, 224) BGR in 0..255 to (N, E)."""
        ...

    def audio(self, windows: Tensor) -> Tensor:
        """(N, 1, 13, 20) to (N, E)."""
        ...


@dataclass(frozen=True, slots=True)
class SyncScore:
    """Scores of one face track.

    Attributes:
        distance: (N, 31) distance of lip window i to the audio window i + j - 15.
        mean_distance: (31,) over the windows.
        min_distance: LSE-D; embedding units, lower is better.
        confidence: LSE-C, median minus minimum of `mean_distance`; embedding units, higher is better.
        offset: frames of 40 ms; positive where the sound is ahead of the picture.
        framewise_confidence: (N,) smoothed, for display only.
    """

    distance: Array
    mean_distance: Array
    min_distance: float
    confidence: float
    offset: int
    framewise_confidence: Array


def sync_score(lip: Any, audio: Any, shift: int = SHIFT) -> SyncScore:
    """Compare lip windows with audio windows up to `shift` frames away; zero vectors stand beyond the ends.

    The published evaluation adds 1e-6 to each component of the difference; so does this.

    Args:
        lip: (N, E) embeddings, one per window of five frames.
        audio: (N, E) embeddings of the same windows' sound.
        shift: largest offset in frames.

    Raises:
        MetricError: the two differ in shape, or there is no window.
    """
    lips, sounds = np.asarray(lip, dtype=np.float64), np.asarray(audio, dtype=np.float64)
    if lips.ndim != 2 or lips.shape != sounds.shape or not len(lips):
        raise MetricError(f"expected equal embeddings (windows, size), got {lips.shape} and {sounds.shape}")
    padded = np.pad(sounds, ((shift, shift), (0, 0)))
    columns = [lips - padded[j : j + len(lips)] + EPSILON for j in range(2 * shift + 1)]
    distance = np.stack([np.linalg.norm(column, axis=1) for column in columns], axis=1)
    mean = distance.mean(axis=0)
    best, median = int(mean.argmin()), float(np.median(mean))
    framewise = medfilt(median - distance[:, best], SMOOTHING)
    return SyncScore(distance, mean, float(mean[best]), median - float(mean[best]), shift - best, framewise)


def window_count(frames: int, samples: int) -> int:
    """Number of windows of a track: one fewer than would fit, as in the published evaluation; may be <= 0."""
    return min(frames, samples // SAMPLES_PER_FRAME) - LIP_FRAMES


@torch.inference_mode()
def embed_track(
    encoder: SyncEncoder,
    frames: NDArray[np.uint8],
    waveform: NDArray[np.int16],
    batch: int = 20,
    device: torch.device | str = "cpu",
) -> tuple[Array, Array]:
    """Embeddings of one face track and its sound.

    Args:
        encoder: SyncNet, in eval mode.
        frames: uint8 (T, 224, 224, 3), BGR, 25 fps.
        waveform: int16 (samples,) at 16 kHz, starting with the first frame.
        batch: windows per forward pass; does not change numbers.
        device: where the encoder is.

    Returns:
        Lip and audio embeddings, each (N, E).

    Raises:
        VideoGap: the track or its sound is shorter than one window more than needed (6 frames, 3840 samples).
    """
    count = window_count(len(frames), len(waveform))
    if count < 1:
        raise VideoGap(
            f"lip-sync needs at least {LIP_FRAMES + 1} frames with sound at 25 fps, got {len(frames)} frames and "
            f"{len(waveform)} samples",
            reason="too short",
        )
    coefficients = torch.from_numpy(mfcc(waveform).T.astype(np.float32))
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)
    lips, sounds = [], []
    for start in range(0, count, batch):
        indices = range(start, min(start + batch, count))
        pictures = torch.stack([video[:, i : i + LIP_FRAMES] for i in indices])
        lips.append(encoder.lip(pictures.to(device).float()))
        columns = [coefficients[:, MFCC_PER_FRAME * i : MFCC_PER_FRAME * i + MFCC_COLUMNS] for i in indices]
        sounds.append(encoder.audio(torch.stack(columns)[:, None].to(device)))
    return _numbers(lips), _numbers(sounds)


def _numbers(parts: list[Tensor]) -> Array:
    return np.asarray(torch.cat(parts).cpu().numpy(), dtype=np.float64)
