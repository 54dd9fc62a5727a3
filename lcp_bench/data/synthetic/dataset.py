"""The procedural data set on disk, in the layout of the real ones.

    clips/ID.mp4     the video with its sound, h264 and aac        audio/ID.wav   the sound, exactly
    ref/ID.png       its first frame, lossless: the portrait       truth/ID.npz   every parameter, box and landmark
    masks/ID.npz     person and lips, one bit per pixel            synthetic.json what the folder is made of

Making it can be stopped at any moment and issued again: finished clips are kept, and the same clips come out, byte by
byte on one platform with one version of numpy and of the encoder.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import wave
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcp_bench.atomic import replacing
from lcp_bench.data.manifest import Clip, Manifest, freeze, load, manifest_path, with_hashes
from lcp_bench.data.synthetic.clip import FAMILIES, FAMILY_ROOTS, SyntheticClip, clip_id, make_clip
from lcp_bench.data.synthetic.speech import FPS, RATE_HZ
from lcp_bench.data.synthetic.streams import SPLITS
from lcp_bench.errors import DatasetError
from lcp_bench.synthetic_config import SyntheticConfig
from lcp_bench.video import write_video

log = logging.getLogger(__name__)

NAMES = ("synthetic", *FAMILIES)
"""Values of `dataset.name` that this module serves; `synthetic` takes any family."""
NOTE = "synthetic.json"
CONTENT = ("family", "seed", "seconds", "background", "image_size")
"""Options that change a clip's files; the others only choose clips."""
FOLDERS = {"clips": ".mp4", "audio": ".wav", "ref": ".png", "truth": ".npz", "masks": ".npz"}


def load_synthetic(root: str | Path, options: SyntheticConfig) -> Manifest:
    """The frozen manifest of a procedural data set; draws and speaks what is missing.

    Args:
        root: The data set's folder.
        options: Which clips.

    Returns:
        Clips with a portrait (`image`) and the real video (`video`) both; the data set's name is the family.

    Raises:
        DatasetError: The folder holds other clips, cannot be written, or a file changed since.
    """
    place = Path(root).resolve()
    wanted = _complete(options)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"cannot make the folder {place} ({error}); set dataset.root to another one") from error
    path = place / manifest_path(place, place, wanted, _complete(SyntheticConfig(family=options.family))).name
    if path.is_file():
        return _loaded(path, place, wanted)
    keep = _keep_files(place, {key: wanted[key] for key in CONTENT})
    chosen = [(SPLITS[options.split][index], take) for index in range(options.people) for take in range(options.takes)]
    clips = []
    for count, (person, take) in enumerate(chosen, start=1):
        clips.append(_clip(place, clip_id(options.family, person, take), wanted, (person, take), keep))
        if count % 16 == 0 or count == len(chosen):
            log.info("%s: %d of %d clips", place, count, len(chosen))
    return freeze(path, options.family, place, clips, wanted, [])


def settings_of(root: Path) -> Mapping[str, Any]:
    """What a folder's clips are made of: the options that change their files.

    Raises:
        DatasetError: No procedural data set, or one made by another version of the renderer.
    """
    note = _read_note(root)
    if note is None:
        raise DatasetError(
            f"{root} is no procedural data set: expected {root / NOTE}; make one with +dataset=synth_hdtf, or name the "
            "folder that it said"
        )
    if note["renderer_sha256"] != renderer_hash():
        raise DatasetError(f"{root} was made by another version of the renderer; make it anew in another folder")
    content: Mapping[str, Any] = note["content"]
    return content


def remake(settings: Mapping[str, Any], person: int, take: int, **changes: Any) -> SyntheticClip:
    """One clip of a folder with these settings (see `settings_of`), with other arguments of `make_clip` if wanted."""
    seconds = settings["seconds"]
    return make_clip(
        **{
            "family": settings["family"],
            "root": settings["seed"],
            "person": person,
            "take": take,
            "frames": None if seconds is None else max(1, round(seconds * FPS)),
            "size": settings["image_size"],
            "moving_background": settings["background"] == "moving",
            **changes,
        }
    )


def renderer_hash() -> str:
    """sha256 of the code that makes a clip."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name not in ("__init__.py", "dataset.py", "variants.py", "frames.py"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def wav_bytes(waveform: NDArray[np.int16]) -> bytes:
    """A mono wav file of int16 samples (n,) at 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(waveform.astype("<i2").tobytes())
    return buffer.getvalue()


def _complete(options: SyntheticConfig) -> dict[str, Any]:
    """Options as plain data; the family's own seed spelt out."""
    values = asdict(options)
    return {**values, "seed": FAMILY_ROOTS[options.family] if options.seed is None else options.seed}


def _loaded(path: Path, place: Path, wanted: Mapping[str, Any]) -> Manifest:
    manifest = load(path, place)
    if dict(manifest.options) != dict(wanted):
        raise DatasetError(
            f"{path} lists a data set with {dict(manifest.options)}, expected {dict(wanted)}; set dataset.root to "
            "another folder"
        )
    return manifest


def _keep_files(place: Path, content: Mapping[str, Any]) -> bool:
    """Whether files that are there already are clips with this content; notes the content.

    Raises:
        DatasetError: The folder has a frozen list of clips with other content.
    """
    note, own = _read_note(place), {"content": dict(content), "renderer_sha256": renderer_hash()}
    if note == own:
        return True
    if note is not None and any(place.glob("manifest*.lcp.jsonl")):
        found = {key: value for key, value in note["content"].items() if value != content.get(key)}
        reason = f"other clips ({found})" if found else "clips of another version of the renderer"
        raise DatasetError(f"{place} holds {reason}, expected {dict(content)}; set dataset.root to another folder")
    _write(place / NOTE, (json.dumps(own, sort_keys=True, indent=1) + "\n").encode())
    return False


def _read_note(place: Path) -> dict[str, Any] | None:
    try:
        note: dict[str, Any] = json.loads((place / NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{place / NOTE} cannot be read ({error}); delete the folder to make it anew") from error
    return note


def _clip(place: Path, name: str, settings: Mapping[str, Any], who: tuple[int, int], keep: bool) -> Clip:
    """The manifest's entry of a clip, made now unless all of its files are there."""
    files = {folder: place / folder / f"{name}{suffix}" for folder, suffix in FOLDERS.items()}
    if not (keep and all(file.is_file() for file in files.values())):
        _write_clip(remake(settings, *who), files)
    with np.load(files["truth"], allow_pickle=False) as truth:
        box, lips = truth["face_boxes"][0], truth["mouth_boxes"][0]
        points, frames = truth["landmarks5"][0], truth["mouth"].shape[0]
    clip = Clip(
        id=name,
        image=str(files["ref"]),
        video=str(files["clips"]),
        audio=str(files["audio"]),
        duration_s=frames / FPS,
        identity=name.rpartition("_")[0],
        box=tuple(box.tolist()),
        landmarks5=tuple((x, y) for x, y in points.tolist()),
        lip_box=tuple(lips.tolist()),
        box_source="given",
        source="synthetic",
    )
    return with_hashes(clip)


def _write_clip(clip: SyntheticClip, files: Mapping[str, Path]) -> None:
    picture = io.BytesIO()
    Image.fromarray(clip.frames[0]).save(picture, format="PNG", compress_level=6)
    _write(files["ref"], picture.getvalue())
    _write(files["audio"], wav_bytes(clip.waveform))
    size = np.array(clip.rendered.masks.shape)
    bits = {"masks": np.packbits(clip.rendered.masks), "lip_masks": np.packbits(clip.rendered.lip_masks)}
    _write(files["masks"], _archive({**bits, "shape": size}))
    try:
        write_video(files["clips"], clip.frames, FPS, clip.sound)
    except OSError as error:
        raise DatasetError(f"cannot write {files['clips']} ({error}); set dataset.root to another folder") from error
    _write(files["truth"], _archive(_truth(clip)))


def _truth(clip: SyntheticClip) -> dict[str, Any]:
    """Everything known about a clip as plain arrays; a moving background is left out, it can be drawn again."""
    truth: dict[str, Any] = {
        "family": clip.family,
        "root": clip.root,
        "person": clip.person_id,
        "take": clip.take,
        "emotion": clip.emotion,
        "level": clip.level,
        "mouth": clip.mouth,
        "phonemes": clip.speech.phonemes,
        "visemes": clip.speech.visemes,
        "expression": clip.motion.expression,
        "pose": clip.motion.pose,
        "gaze": clip.motion.gaze,
        "landmarks5": clip.rendered.landmarks5,
        "face_boxes": clip.rendered.face_boxes,
        "mouth_boxes": clip.rendered.mouth_box,
    }
    if clip.background.ndim == 3:
        truth["background"] = np.rint(clip.background * 255).astype(np.uint8)
    return truth


def _archive(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    plain: dict[str, Any] = {key: np.asarray(value) for key, value in arrays.items()}
    np.savez_compressed(buffer, **plain)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise DatasetError(f"cannot write {path} ({error}); set dataset.root to another folder") from error
