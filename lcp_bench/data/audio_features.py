"""Speech features: one stack of wav2vec layer outputs per video frame, as Hallo's public code computes them."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

SAMPLE_RATE_HZ = 16000
VARIANCE_FLOOR = 1e-7
"""Added to the variance by wav2vec's feature extractor (`do_normalize`)."""


def count_frames(samples: int, fps: float, sample_rate: int = SAMPLE_RATE_HZ) -> int:
    """Video frames that cover `samples` samples of sound: ceil(samples / sample_rate * fps), in that order.

    The floating-point product sends some whole numbers of frames (7, 14, 28, ... at 25 fps) to the next one, i.e. to a
    last frame without sound; upstream counts so, and equal frame counts matter more than one frame.
    """
    return ceil(samples / sample_rate * fps)


def pad_to_segments(frames: int, frames_per_segment: int) -> int:
    """`frames` rounded up to whole segments."""
    return -(-frames // frames_per_segment) * frames_per_segment


def normalised(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit variance over the whole clip, float32 (samples,)."""
    spread = np.sqrt(waveform.var() + VARIANCE_FLOOR)
    return np.asarray((waveform - waveform.mean()) / spread, dtype=np.float32)


@torch.no_grad()
def wav2vec_features(
    encoder: Wav2Vec2Model, waveform: NDArray[np.float32], fps: float, frames_per_segment: int
) -> tuple[torch.Tensor, int]:
    """Every transformer layer's output, resampled to the video's frame rate.

    The sound is normalised, padded with zeros to whole segments, convolved (about 50 Hz), interpolated to one step
    per frame (aligned corners) and encoded at that rate.

    Args:
        encoder: wav2vec 2 model in eval mode, of the post-norm kind (`do_stable_layer_norm=False`).
        waveform: (samples,) float32 mono at 16 kHz, raw.
        fps: Video frames per second.
        frames_per_segment: Frames that the denoiser takes at once.

    Returns:
        float32 (padded frames, layers, channels) on the encoder's device, and the number of frames before padding.

    Raises:
        ValueError: The encoder is in training mode or of the pre-norm kind, or the sound is empty or not mono.
    """
    if encoder.training or encoder.config.do_stable_layer_norm:
        raise ValueError("expected a post-norm wav2vec 2 encoder in eval mode; call .eval(), use wav2vec2-base")
    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"expected a non-empty mono waveform (samples,), got shape {waveform.shape}")
    frames = count_frames(waveform.size, fps)
    padded = pad_to_segments(frames, frames_per_segment)
    samples = np.pad(normalised(waveform), (0, (padded - frames) * int(SAMPLE_RATE_HZ // fps)))
    weight = next(encoder.parameters())
    batch = torch.from_numpy(samples)[None].to(device=weight.device, dtype=weight.dtype)
    steps = encoder.feature_extractor(batch)
    steps = functional.interpolate(steps, size=padded, mode="linear", align_corners=True).transpose(1, 2)
    hidden, _ = encoder.feature_projection(steps)
    return torch.stack(_layer_outputs(encoder.encoder, hidden), dim=1), frames


def _layer_outputs(encoder: Any, hidden: torch.Tensor) -> list[torch.Tensor]:
    """Run a wav2vec transformer over (1, frames, channels); each layer's output as (frames, channels)."""
    outputs: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output)[0].float())

    hooks = [layer.register_forward_hook(keep) for layer in encoder.layers]
    try:
        encoder(hidden)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def window_frames(features: torch.Tensor, radius: int = 2) -> torch.Tensor:
    """Each frame with its neighbours; beyond the clip's ends the first and last frame repeat.

    Args:
        features: (frames, layers, channels) of a whole clip, before it is cut into segments.
        radius: Neighbours on each side.

    Returns:
        (frames, 2 * radius + 1, layers, channels).
    """
    frames = features.shape[0]
    offsets = torch.arange(-radius, radius + 1, device=features.device)
    indices = (torch.arange(frames, device=features.device)[:, None] + offsets).clamp(0, frames - 1)
    return features[indices]


MEL_HOPS = 4
"""Spectrogram columns per video frame: 10 ms each at 25 fps."""
MEL_BANDS = 26
MEL_WINDOW = 400
"""Samples per column, 25 ms."""
LOG_MEL_MEAN, LOG_MEL_SPREAD = -6.0, 3.0
"""Typical natural logarithm of the band power of speech, and its spread: brings the features near N(0, 1)."""


def log_mel_features(waveform: NDArray[np.float32], fps: float, frames_per_segment: int) -> tuple[torch.Tensor, int]:
    """Log-mel spectrogram columns of every video frame, the sound features of the mini model.

    Args:
        waveform: (samples,) float32 mono at 16 kHz in [-1, 1].
        fps: Video frames per second.
        frames_per_segment: Frames that the denoiser takes at once.

    Returns:
        float32 (padded frames, `MEL_HOPS`, `MEL_BANDS`), and the number of frames before padding with silence.

    Raises:
        ValueError: The sound is empty or not mono.
    """
    from transformers.audio_utils import mel_filter_bank

    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"expected a non-empty mono waveform (samples,), got shape {waveform.shape}")
    frames = count_frames(waveform.size, fps)
    columns = pad_to_segments(frames, frames_per_segment) * MEL_HOPS
    hop = SAMPLE_RATE_HZ / fps / MEL_HOPS
    # Each column is centred in its share of the frame.
    starts = np.round((np.arange(columns) + 0.5) * hop).astype(int)
    padded = np.zeros(starts[-1] + MEL_WINDOW, dtype=np.float32)
    kept = min(waveform.size, padded.size - MEL_WINDOW // 2)
    padded[MEL_WINDOW // 2 : MEL_WINDOW // 2 + kept] = waveform[:kept]
    pieces = padded[starts[:, None] + np.arange(MEL_WINDOW)] * np.hanning(MEL_WINDOW).astype(np.float32)
    power = np.abs(np.fft.rfft(pieces, n=512, axis=1)) ** 2
    bank = mel_filter_bank(257, MEL_BANDS, 60.0, 7600.0, SAMPLE_RATE_HZ, norm=None, mel_scale="htk")
    logs = (np.log(power @ bank + 1e-5) - LOG_MEL_MEAN) / LOG_MEL_SPREAD
    return torch.from_numpy(logs.astype(np.float32)).unflatten(0, (-1, MEL_HOPS)), frames
