"""Speech first: a random script of phonemes, the sound of it, and the mouth that says it.

Formants of the vowels are the textbook means of Peterson and Barney (1952); the rest of the table is set by hand. All
tracks run at 200 Hz, piecewise constant targets smoothed by Gaussians; the mouth leads the sound by one video frame,
as in people. The voice is a pulse train with falling spectrum, shaped by four formants in short windows; unvoiced
sounds are white noise shaped in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic.people import Person
from lcp_bench.data.synthetic.streams import SPEECH, generator
from lcp_bench.errors import DatasetError

Array = NDArray[np.float64]

RATE_HZ = 16000
FPS = 25
SAMPLES_PER_FRAME = RATE_HZ // FPS
TICK = 80
"""Samples per step of the tracks, 5 ms."""
TICKS_PER_FRAME = SAMPLES_PER_FRAME // TICK
LEAD_TICKS = 8
"""The mouth is ahead of the sound by 40 ms."""
FORMANT_BLUR, LEVEL_BLUR, MOUTH_BLUR = 3.0, 1.6, 5.0
"""Standard deviations in ticks: 15, 8 and 25 ms."""
WINDOW, BUFFER = 320, 480
"""Samples of an analysis window and of the buffer that takes it and its echo; both whole numbers of ticks."""
LOUDNESS = 0.11
FLOOR = 0.0012


class Phoneme(NamedTuple):
    """One row of the table: formants and noise band in Hz, levels 0..1, mouth targets 0..1, viseme, duration.

    `burst` closes the mouth for two thirds; `shared` is how far the lips keep to the syllable's vowel (width, round).
    """

    formants: tuple[float, float, float]
    voiced: float
    noise: float
    band: tuple[float, float]
    mouth: tuple[float, float, float, float]
    viseme: int
    seconds: tuple[float, float]
    burst: bool = False
    shared: float = 0.0


VISEMES = ("silence", "m b p", "f v", "s n d t", "sh", "aa ae", "eh iy", "ao uw w", "er l k")
SILENT = (4000.0, 3000.0)
TABLE: dict[str, Phoneme] = {
    "sil": Phoneme((500, 1500, 2500), 0.0, 0.0, SILENT, (0.0, 0.40, 0.0, 0.0), 0, (0.12, 0.45)),
    "aa": Phoneme((730, 1090, 2440), 1.0, 0.0, SILENT, (1.0, 0.45, 0.0, 0.0), 5, (0.10, 0.20)),
    "ae": Phoneme((660, 1720, 2410), 0.85, 0.0, SILENT, (0.80, 0.75, 0.0, 0.0), 5, (0.10, 0.20)),
    "eh": Phoneme((530, 1840, 2480), 0.65, 0.0, SILENT, (0.55, 0.70, 0.0, 0.0), 6, (0.09, 0.18)),
    "iy": Phoneme((270, 2290, 3010), 0.4, 0.0, SILENT, (0.22, 1.0, 0.0, 0.0), 6, (0.09, 0.18)),
    "ao": Phoneme((570, 840, 2410), 0.85, 0.0, SILENT, (0.70, 0.20, 0.70, 0.0), 7, (0.10, 0.20)),
    "uw": Phoneme((300, 870, 2240), 0.4, 0.0, SILENT, (0.25, 0.05, 1.0, 0.0), 7, (0.09, 0.18)),
    "er": Phoneme((490, 1350, 1690), 0.55, 0.0, SILENT, (0.40, 0.35, 0.35, 0.0), 8, (0.09, 0.18)),
    "m": Phoneme((250, 1000, 2200), 0.2, 0.0, SILENT, (0.0, 0.40, 0.05, 0.0), 1, (0.06, 0.11), False, 0.7),
    "b": Phoneme((250, 850, 2200), 0.1, 0.0, SILENT, (0.0, 0.40, 0.05, 0.0), 1, (0.05, 0.10), False, 0.7),
    "p": Phoneme((400, 900, 2200), 0.0, 0.15, (900, 900), (0.0, 0.40, 0.05, 0.0), 1, (0.06, 0.11), True, 0.7),
    "f": Phoneme((400, 1100, 2300), 0.0, 0.1, (5000, 3500), (0.06, 0.45, 0.0, 1.0), 2, (0.07, 0.13), False, 0.5),
    "v": Phoneme((300, 1100, 2300), 0.2, 0.06, (5000, 3500), (0.06, 0.45, 0.0, 1.0), 2, (0.06, 0.11), False, 0.5),
    "s": Phoneme((350, 1700, 2600), 0.0, 0.2, (5800, 1100), (0.12, 0.80, 0.0, 0.0), 3, (0.07, 0.14), False, 0.4),
    "sh": Phoneme((350, 1700, 2400), 0.0, 0.22, (3000, 900), (0.22, 0.15, 0.75, 0.0), 4, (0.07, 0.14), False, 0.1),
    "n": Phoneme((280, 1700, 2600), 0.22, 0.0, SILENT, (0.18, 0.50, 0.0, 0.0), 3, (0.05, 0.10), False, 0.7),
    "l": Phoneme((380, 1200, 2800), 0.35, 0.0, SILENT, (0.30, 0.45, 0.0, 0.0), 8, (0.05, 0.10), False, 0.7),
    "d": Phoneme((280, 1700, 2600), 0.12, 0.06, (4200, 1500), (0.18, 0.50, 0.0, 0.0), 3, (0.04, 0.08), False, 0.7),
    "t": Phoneme((400, 1700, 2600), 0.0, 0.2, (4500, 1500), (0.18, 0.55, 0.0, 0.0), 3, (0.05, 0.10), True, 0.7),
    "w": Phoneme((300, 650, 2200), 0.3, 0.0, SILENT, (0.15, 0.05, 0.95, 0.0), 7, (0.05, 0.10)),
    "k": Phoneme((400, 1900, 2400), 0.0, 0.2, (2000, 700), (0.30, 0.45, 0.0, 0.0), 8, (0.06, 0.11), True, 0.8),
}
PHONEMES = tuple(TABLE)
"""Names by number, as in `Take.phonemes`; 0 is silence."""
VOWELS = PHONEMES[1:8]
CONSONANTS = PHONEMES[8:]


@dataclass(frozen=True, slots=True)
class Take:
    """What is said, and how the mouth moves.

    Attributes:
        waveform: int16 (frames * 640,), 16 kHz mono.
        mouth: float32 (frames, 4) in 0..1: open, width, round, lip-teeth contact. Relaxed: 0, 0.4, 0, 0.
        phonemes: int64 (frames,), index into `PHONEMES` of what sounds in the middle of the frame.
        visemes: int64 (frames,), index into `VISEMES`.
    """

    waveform: NDArray[np.int16]
    mouth: NDArray[np.float32]
    phonemes: NDArray[np.int64]
    visemes: NDArray[np.int64]


class _Script(NamedTuple):
    """Per tick: phoneme and vowel of its syllable, position in the phoneme 0..1, stress, intonation (octaves)."""

    phoneme: NDArray[np.int64]
    vowel: NDArray[np.int64]
    position: Array
    stress: Array
    tone: Array


def make_speech(person: Person, root: int, person_id: int, take: int, frames: int) -> Take:
    """Speak.

    Args:
        person: Whose voice; `draw_person(root, person_id)`.
        root: Seed of the data set.
        person_id: Number of the person.
        take: Number of the take.
        frames: Length in video frames of 25 per second, 1 or more.

    Returns:
        Sound and mouth of exactly that length.

    Raises:
        DatasetError: No frames, or numbers that are negative or too large.
    """
    if frames < 1:
        raise DatasetError(f"expected 1 or more frames of speech, got {frames}")
    rng = generator(root, SPEECH, person_id, take)
    ticks = frames * TICKS_PER_FRAME + LEAD_TICKS + TICKS_PER_FRAME
    script = _write_script(rng, ticks)
    middles = np.arange(frames) * TICKS_PER_FRAME + TICKS_PER_FRAME // 2
    mouth = _mouth_track(script)[middles + LEAD_TICKS]
    phonemes = script.phoneme[middles]
    visemes = np.array([each.viseme for each in TABLE.values()])[phonemes]
    sound = _voice(rng, person, script)[: frames * SAMPLES_PER_FRAME]
    level = np.sqrt(np.mean(sound**2)) + 1e-9
    sound = np.tanh(sound * (LOUDNESS / level)) + FLOOR * rng.standard_normal(sound.size)
    waveform = np.rint(np.clip(sound, -1, 1) * 32767).astype(np.int16)
    return Take(waveform, mouth.astype(np.float32), phonemes, visemes)


def _write_script(rng: np.random.Generator, ticks: int) -> _Script:
    """Words of 2 to 5 syllables with pauses after a third of them, at least `ticks` long."""
    rows = [(0, 0, rng.uniform(0.15, 0.35), 1.0, 0.0)]
    while sum(row[2] for row in rows) < ticks * TICK / RATE_HZ + 0.1:
        rows += _write_word(rng)
    phonemes, vowels, seconds, stress, tone = (np.array(column) for column in zip(*rows, strict=True))
    lengths = np.maximum(1, np.rint(seconds * RATE_HZ / TICK).astype(int))
    position = np.concatenate([np.arange(length) / length for length in lengths])[:ticks]
    stress, tone = (_smoothed(np.repeat(each, lengths)[:ticks], 8.0) for each in (stress, tone))
    phonemes, vowels = (np.repeat(each, lengths)[:ticks] for each in (phonemes, vowels))
    return _Script(phonemes, vowels, position, stress, tone)


def _write_word(rng: np.random.Generator) -> list[tuple[int, int, float, float, float]]:
    """Syllables of consonant, vowel and perhaps a consonant: phoneme, vowel, seconds, stress, tone of each."""
    tone = rng.uniform(0.0, 0.25)
    rows = []
    for _ in range(rng.integers(2, 6)):
        stress = rng.uniform(0.6, 1.35)
        vowel = VOWELS[rng.integers(len(VOWELS))]
        names = [CONSONANTS[rng.integers(len(CONSONANTS))], vowel]
        if rng.uniform() < 0.3:
            names.append(CONSONANTS[rng.integers(len(CONSONANTS))])
        for name in names:
            number = PHONEMES.index(name)
            rows.append((number, PHONEMES.index(vowel), rng.uniform(*TABLE[name].seconds), stress, tone))
        tone -= rng.uniform(0.02, 0.12)
    if rng.uniform() < 1 / 3:
        rows.append((0, 0, rng.uniform(*TABLE["sil"].seconds), 1.0, tone))
    return rows


def _column(numbers: NDArray[np.int64], values: list[float]) -> Array:
    return np.asarray(np.array(values, dtype=np.float64)[numbers])


def _mouth_track(script: _Script) -> Array:
    """(ticks, 4) smoothed mouth targets; stress opens the mouth wider, lips keep to the vowel where they can."""
    rows = list(TABLE.values())
    shared = _column(script.phoneme, [row.shared for row in rows])
    tracks = []
    for index in range(4):
        targets = [row.mouth[index] for row in rows]
        track = _column(script.phoneme, targets)
        if index in (1, 2):
            track = track + shared * (_column(script.vowel, targets) - track)
        tracks.append(_smoothed(track * script.stress if index == 0 else track, MOUTH_BLUR))
    return np.clip(np.stack(tracks, axis=1), 0.0, 1.0)


def _voice(rng: np.random.Generator, person: Person, script: _Script) -> Array:
    """float64 (ticks * TICK,) before levelling."""
    ticks = script.phoneme.size
    rows = list(TABLE.values())
    formants = np.stack(
        [_smoothed(_column(script.phoneme, [row.formants[index] for row in rows]), FORMANT_BLUR) for index in range(3)]
    )
    stress = script.stress**1.5
    voiced = _smoothed(_column(script.phoneme, [row.voiced for row in rows]) * stress, LEVEL_BLUR)
    closed = _column(script.phoneme, [float(row.burst) for row in rows]) * (script.position < 2 / 3)
    noise = _smoothed(_column(script.phoneme, [row.noise for row in rows]) * (1 - closed) * stress, LEVEL_BLUR)
    centre, width = (
        _smoothed(_column(script.phoneme, [row.band[index] for row in rows]), LEVEL_BLUR) for index in range(2)
    )
    spectrum = np.fft.rfftfreq(BUFFER, 1 / RATE_HZ).astype(np.float32)[None]
    tract = np.float32(person.tract)
    envelope = _formant_envelope(spectrum, formants.astype(np.float32) * tract, np.float32(3500.0) * tract)
    hiss = np.exp(-0.5 * ((spectrum - centre[:, None]) / width[:, None]) ** 2)
    wander = _smoothed(rng.standard_normal(ticks), 30.0) * np.sqrt(2 * np.sqrt(np.pi) * 30.0)
    pitch = person.pitch_hz * 2.0 ** (_smoothed(script.tone, 12.0) + 0.04 * wander)
    source = _shaped(_pulses(pitch), envelope * voiced[:, None])
    return source + _shaped(rng.standard_normal(ticks * TICK), hiss * (0.5 * noise[:, None]))


def _formant_envelope(spectrum: NDArray[np.float32], formants: NDArray[np.float32], fourth: np.float32) -> Array:
    """(ticks, bins) gain of four resonances."""
    gains, widths = (1.0, 0.7, 0.4, 0.25), (90.0, 110.0, 170.0, 260.0)
    tracks = [*formants, np.full(formants.shape[1], fourth, dtype=np.float32)]
    total = np.full((formants.shape[1], spectrum.shape[1]), 0.01, dtype=np.float64)
    for track, gain, width in zip(tracks, gains, widths, strict=True):
        total += np.float32(gain) / (1 + ((spectrum - track[:, None]) / np.float32(width)) ** 2)
    return total


def _pulses(pitch_hz: Array) -> Array:
    """Harmonics up to 7.5 kHz with amplitude 1/k, following the pitch given per tick."""
    harmonics = np.arange(1, max(2, int(7500 / pitch_hz.max())) + 1)
    phase = np.arange(4096) / 4096
    table = (np.cos(2 * np.pi * phase[:, None] * harmonics) / harmonics).sum(axis=1)
    ticks = np.arange(pitch_hz.size * TICK) / TICK
    cycles = np.cumsum(np.interp(ticks, np.arange(pitch_hz.size) + 0.5, pitch_hz)) / RATE_HZ
    return np.asarray(table[((cycles % 1.0) * 4096).astype(np.int64) % 4096])


def _shaped(sound: Array, gains: Array) -> Array:
    """Filter `sound` (ticks * TICK,) by gains (ticks, bins) that change every tick; windows overlap four times."""
    ticks, side = gains.shape[0], (WINDOW - TICK) // 2
    padded = np.pad(sound, (side, WINDOW))
    pieces = np.zeros((ticks, BUFFER))
    views = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: ticks * TICK : TICK]
    pieces[:, TICK : TICK + WINDOW] = views * np.hanning(WINDOW + 1)[:-1]
    pieces = np.fft.irfft(np.fft.rfft(pieces, axis=1) * gains, n=BUFFER, axis=1)
    result = np.zeros(ticks * TICK + BUFFER)
    for index in range(BUFFER // TICK):
        begin = index * TICK
        result[begin : begin + ticks * TICK] += pieces[:, begin : begin + TICK].reshape(-1)
    return result[TICK + side : TICK + side + ticks * TICK] / 2


def _smoothed(track: Array, blur: float) -> Array:
    """Gaussian smoothing with the ends held, standard deviation in ticks."""
    reach = int(np.ceil(3 * blur))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / blur) ** 2)
    return np.convolve(np.pad(track, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
