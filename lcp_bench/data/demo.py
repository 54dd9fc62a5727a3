"""A data set that draws its own faces and speaks with its own voices (`+dataset=demo`).

Two drawn people and about two seconds of synthetic speech each, 512 x 512 PNG and 16 kHz wav, a few hundred kB in all.
Everything follows from `DEMO_SEED`; nothing is downloaded. Box, landmarks and lip box are known from the drawing. It
shows that the whole path works; it says nothing about quality on real people.
"""

from __future__ import annotations

import io
import logging
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcp_bench.atomic import replacing
from lcp_bench.data.demo_face import PEOPLE, draw_portrait
from lcp_bench.data.demo_voice import RATE_HZ, speak
from lcp_bench.data.manifest import Clip, Manifest, freeze, load, with_hashes
from lcp_bench.errors import DatasetError

log = logging.getLogger(__name__)

DEMO_SEED = 20
DEMO_SECONDS = 2.0


def load_demo(root: str | Path) -> Manifest:
    """The demo's manifest; draws and synthesises the files when there is no manifest yet.

    Args:
        root: Folder for the files.

    Returns:
        One clip per drawn person.

    Raises:
        DatasetError: The folder cannot be written, or a file changed since.
    """
    folder = Path(root).resolve()
    path = folder / "manifest.lcp.jsonl"
    if path.is_file():
        return load(path, folder)
    clips = [_make(folder, index) for index in range(len(PEOPLE))]
    log.info("%s: drew and synthesised %d demo clips", folder, len(clips))
    return freeze(path, "demo", folder, clips, {"seed": DEMO_SEED, "seconds": DEMO_SECONDS}, [])


def _make(folder: Path, index: int) -> Clip:
    person = PEOPLE[index]
    portrait = draw_portrait(person, DEMO_SEED + index)
    voice = speak(person.pitch_hz, DEMO_SECONDS, DEMO_SEED + index)
    image, audio = (folder / "portraits" / f"{person.name}.png", folder / "speech" / f"{person.name}.wav")
    buffer = io.BytesIO()
    Image.fromarray(portrait.image).save(buffer, format="PNG", compress_level=6)
    _write(image, buffer.getvalue())
    _write(audio, wav_bytes(voice))
    clip = Clip(
        id=person.name,
        image=str(image),
        video=None,
        audio=str(audio),
        duration_s=voice.size / RATE_HZ,
        identity=person.name,
        box=portrait.box,
        landmarks5=portrait.landmarks5,
        lip_box=portrait.lip_box,
        box_source="given",
        source="demo",
    )
    return with_hashes(clip)


def wav_bytes(samples: NDArray[np.float32]) -> bytes:
    """A 16-bit mono wav file of float samples (n,) in [-1, 1] at 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise DatasetError(
            f"cannot write the demo file {path} ({error}); set dataset.root to a writable folder"
        ) from error
