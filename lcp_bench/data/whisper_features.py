"""Speech tokens of EchoMimic: Whisper's states around every video frame, as its public code computes them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lcp_bench.data.audio_features import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from lcp_bench.models.whisper import WhisperEncoder

STATES_PER_SECOND = 50
RADIUS = (4, 5)
"""States before and after a frame's own: ten in all."""
WINDOW, HOP = 400, 160
"""Samples of a spectrogram column and between columns: 25 ms and 10 ms."""


@cache
def _filters(bands: int) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        WINDOW // 2 + 1, bands, 0.0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(bank.T.astype(np.float32))


def log_mel(waveform: NDArray[np.float32], bands: int = 80) -> Tensor:
    """Log-mel spectrogram of a whole clip, scaled as Whisper wants it.

    Whisper itself takes the maximum of every 30 seconds as reference; EchoMimic takes the clip's.

    Args:
        waveform: (samples,) float32 mono at 16 kHz in [-1, 1], more than 200 samples.
        bands: Mel bands.

    Returns:
        float32 (bands, columns), 100 columns per second.

    Raises:
        ValueError: The sound is too short or not mono.
    """
    if waveform.ndim != 1 or waveform.size <= WINDOW // 2:
        raise ValueError(f"expected a mono waveform of more than {WINDOW // 2} samples, got shape {waveform.shape}")
    spectrum = torch.stft(
        torch.from_numpy(waveform), WINDOW, HOP, window=torch.hann_window(WINDOW), center=True, return_complex=True
    )
    power = spectrum[:, :-1].abs() ** 2
    logs = torch.log10((_filters(bands) @ power).clamp(min=1e-10))
    return (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0


@torch.no_grad()
def whisper_features(encoder: WhisperEncoder, waveform: NDArray[np.float32]) -> Tensor:
    """Encoder states of a clip, 50 per second.

    The clip is encoded in 30-second segments; the last one is filled with zeros, which in this scale is not silence.

    Args:
        encoder: Whisper's encoder in eval mode.
        waveform: (samples,) float32 mono at 16 kHz in [-1, 1].

    Returns:
        float32 (states, depths, width) on the encoder's device.
    """
    columns, weight = log_mel(waveform, encoder.bands), encoder.conv1.weight
    states = []
    for segment in columns.split(2 * encoder.context, dim=1):
        padded = F.pad(segment, (0, 2 * encoder.context - segment.shape[1]))
        encoded = encoder(padded[None].to(weight.device, weight.dtype))[0]
        states.append(encoded[: segment.shape[1] // 2].float())
    return torch.cat(states)


def frame_states(states: int, fps: float) -> Tensor:
    """Which states each video frame hears, int64 (frames, 10); beyond the clip's ends the first and last repeat.

    There are a frame or two more than the sound is long, as upstream counts them.

    Args:
        states: States of the clip.
        fps: Video frames per second.
    """
    frames = 0
    while int(frames * (STATES_PER_SECOND / fps)) <= states:
        frames += 1
    centres = torch.tensor([int(frame * STATES_PER_SECOND / fps) for frame in range(frames + 1)])
    offsets = torch.arange(-RADIUS[0], RADIUS[1] + 1)
    return (centres[:, None] + offsets).clamp(0, states - 1)


def frame_tokens(features: Tensor, fps: float) -> Tensor:
    """Audio tokens of every video frame: its ten states, each at all depths.

    Args:
        features: (states, depths, width), see `whisper_features`.
        fps: Video frames per second.

    Returns:
        (frames, 10 * depths, width), depths fastest.
    """
    return features[frame_states(features.shape[0], fps).to(features.device)].flatten(1, 2)
