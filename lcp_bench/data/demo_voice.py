"""Speech-like sound from a source and formant filters: voiced syllables with consonants, pitch contour and pauses.

The classic parallel of a larynx (a pulse train with falling spectrum) and a vocal tract (second-order resonators in
series, Klatt 1980). Vowel formants are the textbook means of Peterson and Barney (1952).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter  # type: ignore[import-untyped,unused-ignore]

RATE_HZ = 16000
BLOCK = 80
BANDWIDTHS_HZ = (80.0, 100.0, 140.0, 200.0)
FOURTH_FORMANT_HZ = 3400.0
VOWELS_HZ: dict[str, tuple[float, float, float]] = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
TRACT_LENGTH_AT_HZ = 120.0
"""Voices pitched higher get a shorter tract: formants grow with the sixth root of pitch over this value."""

Samples = NDArray[np.float64]


def speak(pitch_hz: float, seconds: float, seed: int) -> NDArray[np.float32]:
    """Babble of a given length.

    Args:
        pitch_hz: Mean pitch.
        seconds: Length.
        seed: Chooses syllables, timing and noise.

    Returns:
        float32 (round(seconds * 16000),), peak 0.6, silent for 60 ms at both ends.
    """
    rng = np.random.default_rng(seed)
    total, edge = round(seconds * RATE_HZ), round(0.06 * RATE_HZ)
    parts: list[Samples] = []
    while sum(part.size for part in parts) < total - 2 * edge:
        parts.append(_syllable(pitch_hz, rng))
        if rng.random() < 0.15:
            parts.append(np.zeros(round(rng.uniform(0.05, 0.12) * RATE_HZ)))
    voice = np.concatenate(parts)[: total - 2 * edge]
    fade = np.minimum(1.0, np.arange(voice.size)[::-1] / (0.02 * RATE_HZ))
    voice = np.pad(voice * fade, (edge, edge))
    return np.asarray(0.6 * voice / np.abs(voice).max(), dtype=np.float32)


def _syllable(pitch_hz: float, rng: np.random.Generator) -> Samples:
    """A consonant (hiss or burst) running into a vowel that glides to another."""
    start, end = rng.choice(list(VOWELS_HZ), size=2)
    length = round(rng.uniform(0.12, 0.22) * RATE_HZ)
    time = np.linspace(0, 1, length)
    glide = (1 - time)[:, None] * np.array(VOWELS_HZ[start]) + time[:, None] * np.array(VOWELS_HZ[end])
    formants = glide * (pitch_hz / TRACT_LENGTH_AT_HZ) ** (1 / 6)
    vowel = _resonate(_larynx(pitch_hz * rng.uniform(0.9, 1.15), length, rng), formants)
    vowel *= np.sin(np.pi * np.minimum(time * 2.5 + 0.02, 0.5)) * np.minimum(1, (1 - time) * 5)
    consonant = _hiss(rng) * np.abs(vowel).max() * rng.uniform(0.15, 0.4)
    return np.concatenate([consonant, vowel])


def _larynx(pitch_hz: float, length: int, rng: np.random.Generator) -> Samples:
    """Pulses at a gently falling, slightly trembling pitch, with breath noise; -12 dB per octave."""
    contour = (
        pitch_hz * np.linspace(1.05, 0.92, length) * (1 + 0.01 * np.sin(2 * np.pi * 5 * np.arange(length) / RATE_HZ))
    )
    phase = np.cumsum(contour / RATE_HZ)
    pulses = np.diff(np.floor(phase), prepend=0.0) + 0.02 * rng.standard_normal(length)
    return np.asarray(lfilter([1.0], [1.0, -1.9, 0.9025], pulses), dtype=np.float64)


def _resonate(source: Samples, formants_hz: Samples) -> Samples:
    """Four resonators in series whose frequencies move every 5 ms; the filter state runs on across blocks."""
    bands = np.column_stack([formants_hz, np.full(len(formants_hz), FOURTH_FORMANT_HZ)])
    for index, bandwidth in enumerate(BANDWIDTHS_HZ):
        radius, state, out = (np.exp(-np.pi * bandwidth / RATE_HZ), np.zeros(2), np.empty_like(source))
        for begin in range(0, source.size, BLOCK):
            angle = 2 * np.pi * bands[begin, index] / RATE_HZ
            poles = [1.0, -2 * radius * np.cos(angle), radius**2]
            out[begin : begin + BLOCK], state = lfilter([sum(poles)], poles, source[begin : begin + BLOCK], zi=state)
        source = out
    return np.asarray(lfilter([1.0, -0.95], [1.0], source), dtype=np.float64)


def _hiss(rng: np.random.Generator) -> Samples:
    """30 to 70 ms of noise around 2 to 6 kHz with a soft start, peak 1."""
    length = round(rng.uniform(0.03, 0.07) * RATE_HZ)
    angle, radius = 2 * np.pi * rng.uniform(2000, 6000) / RATE_HZ, 0.9
    noise = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], rng.standard_normal(length))
    shaped = noise * np.hanning(length)
    return np.asarray(shaped / np.abs(shaped).max(), dtype=np.float64)
