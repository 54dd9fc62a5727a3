"""Cutting one clip, so that a stop at any moment leaves either a finished clip or none.

A clip is `clips/ID.mp4` (with sound), the same sound as `audio/ID.wav`, and a note `cuts/ID.json`, written last, with
how it was cut and both hashes. Only a clip whose note tells of the same cut, of the same source files and of the same
bytes is kept; anything else is cut anew. Sources may be deleted after the cut.

The wav is what drives a model: it is lossless and has exactly 640 samples per picture, while the sound in the mp4 is
padded to whole AAC frames, from which a model would make a picture or two more than the clip has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcp_bench.atomic import replacing
from lcp_bench.data.demo import wav_bytes
from lcp_bench.data.manifest import file_hash
from lcp_bench.data.prepare_crop import CropRule, Square, cropped
from lcp_bench.data.prepare_media import FPS, RATE_HZ, pictures_at, sound_at
from lcp_bench.video import MediaError, VideoInfo, probe, write_video

CUT_VERSION = 1
"""Raised whenever the same recipe would give other bytes; older clips are then cut anew."""
MAX_DIFFERENCE_S = 0.5
"""Pictures and separate sound of a whole recording that differ by more do not belong together."""


@dataclass(frozen=True, slots=True)
class Source:
    """One clip that could be cut.

    Attributes:
        id: File-safe name of the clip.
        identity: The person.
        strata: What else the choice balances.
        name: The source video's name below the user's folder, for lists.
        video: The source video; None if it was not found.
        audio: Separate sound; None takes the video's own.
        start_s: Where the clip starts in the source.
        seconds: Its length; None takes the whole recording.
        max_seconds: Longest part of a whole recording that is taken; None takes all of it.
        crop: How its square is found; None only where `reason` says why.
        reason: Why it cannot be cut, as far as known without opening a file; None if nothing is known.
        url: Where the data set says that the source is.
    """

    id: str
    identity: str
    strata: tuple[str, ...]
    name: str
    video: Path | None
    audio: Path | None = None
    start_s: float = 0.0
    seconds: float | None = None
    max_seconds: float | None = None
    crop: CropRule | None = None
    reason: str | None = None
    url: str | None = None

    def recipe(self, image_size: int) -> dict[str, Any]:
        """Everything but the source's bytes that shapes the clip, as JSON."""
        return {
            "version": CUT_VERSION,
            "source": self.name,
            "start_s": self.start_s,
            "seconds": self.seconds,
            "max_seconds": self.max_seconds,
            "crop": dict(self.crop.stored()) if self.crop else None,
            "image_size": image_size,
            "fps": FPS,
            "sample_rate_hz": RATE_HZ,
        }


def clip_path(root: Path, clip_id: str) -> Path:
    """Where a clip's video belongs."""
    return root / "clips" / f"{clip_id}.mp4"


def sound_path(root: Path, clip_id: str) -> Path:
    """Where a clip's sound belongs."""
    return root / "audio" / f"{clip_id}.wav"


def note_path(root: Path, clip_id: str) -> Path:
    """Where the note of a clip's cut belongs."""
    return root / "cuts" / f"{clip_id}.json"


def is_finished(root: Path, source: Source, image_size: int) -> bool:
    """Whether the clip is there, whole, and cut as wanted from these files (or from files that are gone)."""
    note = _note(root, source, image_size)
    if note is None or note["hashes"] != _hashes(root, source.id):
        return False
    present = [file for file in (source.video, source.audio) if file is not None and file.is_file()]
    return all(note["inputs"].get(file.name) == _stamp(file) for file in present)


def is_damaged(root: Path, source: Source, image_size: int) -> bool:
    """Whether the clip was once cut as wanted and its file has other bytes now, or is gone."""
    note = _note(root, source, image_size)
    return note is not None and note["hashes"] != _hashes(root, source.id)


def _hashes(root: Path, clip_id: str) -> list[str | None]:
    return [file_hash(str(path(root, clip_id))) for path in (clip_path, sound_path)]


def _note(root: Path, source: Source, image_size: int) -> Mapping[str, Any] | None:
    """Hash and input stamps of a cut by this very recipe; None if there is no such readable note."""
    try:
        note = json.loads(note_path(root, source.id).read_text(encoding="utf-8"))
        if note["recipe"] != source.recipe(image_size):
            return None
        inputs = {each["file"]: (each["bytes"], each["mtime_ns"]) for each in note["inputs"]}
        return {"hashes": note["result"]["sha256"], "inputs": inputs}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def cut(root: Path, source: Source, image_size: int) -> None:
    """Cut a clip and note it.

    Args:
        root: Folder of the prepared data set.
        source: With a video and a crop rule.
        image_size: Side of the square clip in pixels, even.

    Raises:
        MediaError: The source cannot give this clip; nothing is left of it.
    """
    video, crop = source.video, source.crop
    if video is None or crop is None:
        raise MediaError(source.reason or f"no source video named {source.name}")
    sound = source.audio or video
    info = probe(video)
    if not info.has_video:
        raise MediaError(f"{video} has no video stream; get the file again with pictures")
    frames = _frame_count(source, info, probe(sound))
    times = [source.start_s + index / FPS for index in range(frames)]
    waveform = sound_at(sound, source.start_s, frames / FPS)
    square = crop.square(video, info, times)
    note_path(root, source.id).unlink(missing_ok=True)
    write_video(
        clip_path(root, source.id), _pictures(video, times, square, image_size), FPS, waveform, sample_rate=RATE_HZ
    )
    _write(sound_path(root, source.id), wav_bytes(waveform))
    result = {"sha256": _hashes(root, source.id), "frames": frames, "samples": waveform.size, "square": list(square)}
    picture = {"width": info.width, "height": info.height, "fps": info.fps}
    inputs = [_described(file) for file in dict.fromkeys((video, sound))]
    note = {"recipe": source.recipe(image_size), "inputs": inputs, "picture": picture, "result": result}
    write_text(note_path(root, source.id), json.dumps(note, indent=1, sort_keys=True) + "\n")


def _pictures(video: Path, times: Sequence[float], square: Square, image_size: int) -> Iterator[NDArray[np.uint8]]:
    for picture in pictures_at(video, times):
        yield cropped(picture, square, image_size)


def _frame_count(source: Source, picture: VideoInfo, sound: VideoInfo) -> int:
    """Pictures of the clip: what is asked for, or as many as picture and sound both cover."""
    if not sound.has_audio:
        raise MediaError(f"{source.audio or source.video} has no sound stream; put the sound beside it, or get both")
    seconds = source.seconds
    if seconds is None:
        both = (picture.seconds or 0.0, sound.audio_seconds or 0.0)
        if abs(both[0] - both[1]) > MAX_DIFFERENCE_S:
            raise MediaError(
                f"{source.video} has {both[0]:.2f} s of pictures and {source.audio or 'its sound'} {both[1]:.2f} s; "
                f"more than {MAX_DIFFERENCE_S} s apart, they are not one recording"
            )
        seconds = min(both) if source.max_seconds is None else min(*both, source.max_seconds)
    frames = math.floor(seconds * FPS + 1e-3)
    if frames < 1:
        raise MediaError(f"{source.video}: {seconds:.3f} s are less than one picture at {FPS} fps")
    return frames


def _stamp(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def _described(file: Path) -> Mapping[str, Any]:
    size, time_ns = _stamp(file)
    return {"file": file.name, "bytes": size, "mtime_ns": time_ns, "sha256": file_hash(str(file))}


def write_text(path: Path, text: str) -> None:
    """Write a file at once: it is there whole or not at all."""
    _write(path, text.encode())


def _write(path: Path, content: bytes) -> None:
    with replacing(path, durable=True) as partial:
        partial.write_bytes(content)
