"""Training material of the `mini` metric networks: drawn frames and clips as a metric will read them.

Everything goes through the project's own video files, since the codec changes lips and sound more than it seems. The
people come from a root of their own: nobody of the data sets' splits is among them, nor of the model's training.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcp_bench.atomic import replacing
from lcp_bench.config import require
from lcp_bench.data.synthetic.clip import FAMILIES, SyntheticClip, make_clip
from lcp_bench.data.synthetic.frames import PARAMETERS, random_frames
from lcp_bench.data.synthetic.speech import FPS
from lcp_bench.video import read_audio, read_video, write_video
from metrics.mfcc import mfcc, pcm16
from metrics.mini_frames import to_grey
from metrics.nets.mini import MFCC_ROWS, SIDE

log = logging.getLogger(__name__)

MFCC_PER_FRAME = 4
PIECE = 500
"""Stills that are drawn and coded at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricData:
    """What is drawn for training.

    Attributes:
        root: Seed of people, speech and motion; the data sets use 1 and 2, the model's training 1000.
        stills: Independent frames for the regressor, two per person.
        coded_share: Share of them that goes through the codec.
        people: Number of people with one take each for the sync network; odd ones of `synth_mead`.
        frames: Frames per take.
    """

    root: int = 2000
    stills: int = 36000
    coded_share: float = 0.7
    people: int = 160
    frames: int = 75

    def __post_init__(self) -> None:
        require(self.root > 2, "data.root", "more than 2, the root of a data set", self.root)
        require(self.stills >= 2 and self.stills % 2 == 0, "data.stills", "an even number", self.stills)
        require(0 <= self.coded_share <= 1, "data.coded_share", "in 0..1", self.coded_share)
        require(self.people >= 1, "data.people", "1 or more", self.people)
        require(self.frames >= 32, "data.frames", "32 or more", self.frames)


@dataclass(frozen=True, slots=True)
class Stills:
    """Frames with what they show.

    Attributes:
        pictures: uint8 (count, 64, 64, 3).
        values: float32 (count, 14), the columns of `frames.PARAMETERS`.
    """

    pictures: NDArray[np.uint8]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Talking:
    """Takes with sound, after the codec.

    Attributes:
        grey: uint8 (takes, frames, 64, 64).
        mfcc: float32 (takes, 4 * frames - 1, 13).
    """

    grey: NDArray[np.uint8]
    mfcc: NDArray[np.float32]


def load_stills(data: MetricData, folder: Path) -> Stills:
    """The regressor's frames, memory-mapped; drawn on first use (minutes), resumable piece by piece."""
    store = _Store(folder / _name("stills", data), {
        "pictures": ((data.stills, SIDE, SIDE, 3), np.uint8), "values": ((data.stills, len(PARAMETERS)), np.float32),
    })  # fmt: skip
    for piece in store.missing(-(-data.stills // PIECE)):
        begin = piece * PIECE
        count = min(PIECE, data.stills - begin)
        clean, coded, values = draw_stills(data.root + 1 + piece, count)
        # Stills of one person stay together and both go through the codec or not.
        share = np.random.default_rng([data.root, piece]).random(-(-count // 2)).repeat(2)[:count] < data.coded_share
        store.arrays["pictures"][begin : begin + count] = np.where(share[:, None, None, None], coded, clean)
        store.arrays["values"][begin : begin + count] = values
        store.finished(piece)
    return Stills(**store.arrays)


def load_talking(data: MetricData, folder: Path) -> Talking:
    """The sync network's takes, memory-mapped; drawn, spoken and coded on first use (a minute), resumable."""
    store = _Store(folder / _name("talking", data), {
        "grey": ((data.people, data.frames, SIDE, SIDE), np.uint8),
        "mfcc": ((data.people, MFCC_PER_FRAME * data.frames - 1, MFCC_ROWS), np.float32),
    })  # fmt: skip
    for person in store.missing(data.people):
        clip = make_clip(FAMILIES[person % 2], data.root, person, 0, frames=data.frames)
        pictures, sound = coded_clip(clip)
        store.arrays["grey"][person] = to_grey(pictures)
        store.arrays["mfcc"][person] = mfcc(sound)
        store.finished(person)
    return Talking(**store.arrays)


def draw_stills(seed: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Frames of people of this seed: as drawn, as read from a video file, and what they show."""
    clean, values = random_frames(seed, count, SIDE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stills.mp4"
        write_video(path, clean, FPS)
        coded = read_video(path)
    return clean, coded, values


def coded_clip(clip: SyntheticClip) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Pictures (frames, 64, 64, 3) and sound (frames * 640,) of a clip as they come out of its video file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, clip.frames, FPS, clip.waveform.astype(np.float32) / np.float32(32768))
        sound = pcm16(read_audio(path))[: clip.waveform.size]
        return read_video(path), np.pad(sound, (0, clip.waveform.size - sound.size))


def _name(kind: str, data: MetricData) -> str:
    return f"{kind}-{'-'.join(str(value) for value in asdict(data).values())}"


class _Store:
    """Memory-mapped arrays in a folder, filled piece by piece, and how many pieces they have."""

    def __init__(self, place: Path, shapes: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.note = place, place / "pieces_done"
        self.done = int(self.note.read_text()) if self.note.is_file() else 0
        self.arrays: dict[str, Any] = {
            name: np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                place / f"{name}.npy", mode="r+" if self.done else "w+", dtype=dtype, shape=shape
            )
            for name, (shape, dtype) in shapes.items()
        }

    def missing(self, pieces: int) -> range:
        """Pieces that are still to be made."""
        if self.done < pieces:
            log.info("drawing %s, %d of %d pieces are there", self.place, self.done, pieces)
        return range(self.done, pieces)

    def finished(self, piece: int) -> None:
        """Note that a piece is complete."""
        for array in self.arrays.values():
            array.flush()
        with replacing(self.note) as partial:
            partial.write_text(str(piece + 1))
