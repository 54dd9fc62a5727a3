"""Mel-frequency cepstral coefficients as SyncNet was trained on: python_speech_features 0.6 with its defaults.

float64 throughout; the samples enter as 16-bit values, not scaled to [-1, 1].
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from metrics.errors import MetricError

Array = NDArray[np.float64]

RATE = 16000
WINDOW, STEP, FFT = 400, 160, 512
FILTERS, COEFFICIENTS, LIFTER = 26, 13, 22
PRE_EMPHASIS = 0.97
SMALLEST = float(np.finfo(np.float64).eps)


@cache
def filterbank() -> Array:
    """26 triangular filters over 257 frequency bins, equally spaced in mel between 0 and 8000 Hz; (26, 257)."""
    mel = np.linspace(0.0, 2595.0 * np.log10(1.0 + RATE / 2 / 700.0), FILTERS + 2)
    edges = np.floor((FFT + 1) * 700.0 * (10.0 ** (mel / 2595.0) - 1.0) / RATE).astype(int)
    bank = np.zeros((FILTERS, FFT // 2 + 1))
    for row, (low, middle, high) in enumerate(zip(edges[:-2], edges[1:-1], edges[2:], strict=True)):
        rising, falling = np.arange(low, middle), np.arange(middle, high)
        bank[row, rising] = (rising - low) / (middle - low)
        bank[row, falling] = (high - falling) / (high - middle)
    bank.setflags(write=False)
    return bank


def power_spectrum(waveform: Any) -> Array:
    """Power of 25 ms frames every 10 ms.

    Args:
        waveform: (samples,) 16-bit sample values at 16 kHz (any integer or float type, -32768..32767).

    Returns:
        (frames, 257); the tail is padded with zeros, a waveform of up to 400 samples gives one frame.

    Raises:
        MetricError: not one channel, or empty.
    """
    signal = np.asarray(waveform, dtype=np.float64)
    if signal.ndim != 1 or signal.size == 0:
        raise MetricError(f"expected sound of one channel (samples,), got shape {signal.shape}")
    emphasised = np.concatenate([signal[:1], signal[1:] - PRE_EMPHASIS * signal[:-1]])
    count = 1 if signal.size <= WINDOW else 1 + -(-(signal.size - WINDOW) // STEP)
    padded = np.zeros((count - 1) * STEP + WINDOW)
    padded[: signal.size] = emphasised[: padded.size]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]
    power: Array = np.square(np.abs(np.fft.rfft(frames, FFT))) / FFT
    return power


def energies(power: Array) -> tuple[Array, Array]:
    """Total energy (frames,) and filter energies (frames, 26) of a power spectrum; zeros become the float64 epsilon."""
    total, bands = power.sum(axis=1), power @ filterbank().T
    return np.where(total == 0, SMALLEST, total), np.where(bands == 0, SMALLEST, bands)


def mfcc(waveform: Any) -> Array:
    """13 coefficients per 10 ms; the first is the logarithm of the frame's energy.

    Args:
        waveform: as for `power_spectrum`.

    Returns:
        float64 (frames, 13); 4 F - 1 frames for F video frames of 640 samples.

    Raises:
        MetricError: not one channel, or empty.
    """
    total, bands = energies(power_spectrum(waveform))
    coefficients = dct(np.log(bands), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    coefficients *= 1.0 + LIFTER / 2.0 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    coefficients[:, 0] = np.log(total)
    result: Array = coefficients
    return result


def pcm16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """Float sound in [-1, 1] as 16-bit sample values, rounded to nearest and saturated."""
    scaled = np.rint(np.asarray(waveform, dtype=np.float64) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype(np.int16)
