"""The frozen list of a data set's clips.

A manifest is written once, as JSON lines (a header, then one line per clip, paths relative to the data set's root),
and checked against the files whenever it is read: numbers of two runs belong together only if their clips do.
Its `sha256` covers everything except the root's place, so a copied data set keeps its identity.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lcp_bench.atomic import replacing
from lcp_bench.errors import DatasetError

SCHEMA_VERSION = 1
PATH_FIELDS = ("image", "video", "audio", "embedding", "foreground")
HASHED_FIELDS = {
    "image": "image_sha256",
    "video": "video_sha256",
    "audio": "audio_sha256",
    "embedding": "embedding_sha256",
    "foreground": "foreground_sha256",
}
LATER_FIELDS = ("video_sha256", "foreground", "foreground_sha256")
"""Left out where they are None, so that manifests without them keep the hash that they had before these existed."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One pair of portrait and speech.

    Attributes:
        id: Stable, unique, safe as a file name.
        image: Portrait file; None for a talking clip.
        video: Talking clip whose first frame is the portrait; None for a pair. Beside a portrait, the real video.
        audio: Driving speech; equals `video` for a talking clip.
        image_sha256: Hash of the portrait's (or talking clip's) file; None if it was missing.
        audio_sha256: Hash of the speech file; None if it was missing.
        duration_s: Length of the speech in seconds; None if it cannot be read.
        identity: Name of the person, where known.
        box: Face box x0, y0, x1, y1 in pixels of the portrait; None if no single face is known.
        landmarks5: Eyes, nose tip, mouth corners (x, y) in pixels, left of the image first.
        embedding: File (.npy or text) with 512 numbers from upstream's identity network.
        source: Where the clip comes from: `pair`, `talking`, `listed` or `demo`.
        box_source: Who gave the box: `given`, `landmarks`, or a detector's name.
        lip_box: Lip box x0, y0, x1, y1 in pixels, where known.
        embedding_sha256: Hash of the embedding's file.
        video_sha256: Hash of the video's file where there is a portrait beside it; None without one.
        foreground: PNG of the portrait's size, white where the person is, for strategies that restrict attention to
            the foreground; None takes the face region. See `lcp_bench.data.foreground`.
        foreground_sha256: Hash of that file.
    """

    id: str
    image: str | None
    video: str | None
    audio: str
    image_sha256: str | None = None
    audio_sha256: str | None = None
    duration_s: float | None = None
    identity: str | None = None
    box: tuple[float, float, float, float] | None = None
    landmarks5: tuple[tuple[float, float], ...] | None = None
    embedding: str | None = None
    source: str = "pair"
    box_source: str | None = None
    lip_box: tuple[float, float, float, float] | None = None
    embedding_sha256: str | None = None
    video_sha256: str | None = None
    foreground: str | None = None
    foreground_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that became no clip, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A data set's clips with absolute paths, and the hash of its canonical content.

    Attributes:
        dataset: Name of the data set, e.g. `folder`.
        root: Folder that the stored paths are relative to.
        clips: The clips, in order.
        sha256: Hash of the stored content; part of a run's identity.
        options: The listing options that shaped it.
        skipped: Files that were seen and not used.
        labels: Lists of clips or landmarks beside the files, with their hashes; None for one that was not there.
        path: The manifest's file.
        schema: Version of the file's layout.
    """

    dataset: str
    root: str
    clips: tuple[Clip, ...]
    sha256: str
    options: Mapping[str, Any]
    skipped: tuple[Skipped, ...]
    labels: Mapping[str, str | None]
    path: str
    schema: int = SCHEMA_VERSION


def freeze(
    path: Path,
    dataset: str,
    root: Path,
    clips: Sequence[Clip],
    options: Mapping[str, Any],
    skipped: Sequence[Skipped],
    labels: Mapping[str, str | None] | None = None,
) -> Manifest:
    """Write a manifest once.

    Args:
        path: Target file; must not be there yet.
        dataset: Name of the data set.
        root: Folder that clip paths lie in (others are stored as absolute paths).
        clips: Clips with absolute paths.
        options: JSON-ready listing options.
        skipped: Files that became no clip.
        labels: Hashes of the lists that gave boxes and landmarks, by path relative to `root`.

    Returns:
        The manifest as it will be read back.

    Raises:
        DatasetError: No clips, doubled ids, or the file cannot be written.
    """
    if not clips:
        reasons = "; ".join(f"{each.file}: {each.reason}" for each in skipped[:5]) or "no image, sound or video files"
        raise DatasetError(
            f"expected at least one clip in {root}, found none ({reasons}); give portraits/ and speech/, images and "
            "wavs of the same name, mp4s with sound, or a pairs.csv"
        )
    doubled = sorted({clip.id for clip in clips if sum(other.id == clip.id for other in clips) > 1})
    if doubled:
        raise DatasetError(
            f"clip ids must be unique, these are not: {', '.join(doubled)}; change them in the pairs.csv"
        )
    stored = [_relative(clip, root) for clip in clips]
    header = {
        "schema": SCHEMA_VERSION,
        "dataset": dataset,
        "options": dict(options),
        "clips": len(stored),
        "skipped": [asdict(each) for each in skipped],
        "labels": dict(labels or {}),
        "sha256": _content_hash(dataset, options, stored),
    }
    _write_atomically(path, "".join(_json(line) + "\n" for line in [header, *stored]))
    return _build(path, root, header, stored)


def load(path: Path, root: Path) -> Manifest:
    """Read a manifest and check that it and every file in it are unchanged.

    Args:
        path: The manifest's file.
        root: The data set's root.

    Returns:
        The manifest with absolute paths.

    Raises:
        DatasetError: Unknown schema, damaged manifest, or a file that changed, vanished or appeared since.
    """
    advice = f"delete {path} to freeze the data set anew (its hash and the run ids change)"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        header, stored = lines[0], lines[1:]
        version = header["schema"]
    except (ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path} is not a readable manifest ({error}); {advice}") from error
    if version != SCHEMA_VERSION:
        raise DatasetError(f"{path} has manifest schema {version}, expected {SCHEMA_VERSION}; {advice}")
    if header["sha256"] != _content_hash(header["dataset"], header["options"], stored):
        raise DatasetError(f"{path} was edited or truncated: its content does not match its own hash; {advice}")
    manifest = _build(path, root, header, stored)
    _check_files(manifest, advice)
    return manifest


def _build(path: Path, root: Path, header: Mapping[str, Any], stored: Sequence[Mapping[str, Any]]) -> Manifest:
    return Manifest(
        dataset=header["dataset"],
        root=str(root),
        clips=tuple(_absolute(each, root) for each in stored),
        sha256=header["sha256"],
        options=header["options"],
        skipped=tuple(Skipped(**each) for each in header["skipped"]),
        labels=header["labels"],
        path=str(path),
    )


def _check_files(manifest: Manifest, advice: str) -> None:
    seen: dict[str, str | None] = {}
    for name, expected in manifest.labels.items():
        _compare(str(Path(manifest.root) / name), expected, seen, advice)
    for clip in manifest.clips:
        for field, hash_field in HASHED_FIELDS.items():
            if (file := getattr(clip, field)) is not None:
                alone = field == "video" and clip.image is None
                _compare(file, clip.image_sha256 if alone else getattr(clip, hash_field), seen, advice)


def _compare(file: str, expected: str | None, seen: dict[str, str | None], advice: str) -> None:
    if file not in seen:
        seen[file] = file_hash(file)
    if seen[file] != expected:
        state = "is missing" if seen[file] is None else "has changed" if expected else "has appeared"
        raise DatasetError(f"{file} {state} since the manifest was written; restore it, or {advice}")


def with_hashes(clip: Clip) -> Clip:
    """`clip` with the hashes of its files; a missing file has None."""
    portrait = clip.image or clip.video
    return replace(
        clip,
        image_sha256=file_hash(portrait) if portrait else None,
        audio_sha256=file_hash(clip.audio),
        embedding_sha256=file_hash(clip.embedding) if clip.embedding else None,
        video_sha256=file_hash(clip.video) if clip.image and clip.video else None,
        foreground_sha256=file_hash(clip.foreground) if clip.foreground else None,
    )


def file_hash(path: str) -> str | None:
    """sha256 of a file's bytes in hex, None if there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def manifest_path(root: Path, cache: Path, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> Path:
    """Where the manifest of a root belongs: in it, or below `cache` when the root is read-only.

    Listing options other than the defaults have a file of their own (their hash is in its name).
    """
    name = "manifest.lcp.jsonl"
    if dict(options) != dict(defaults):
        name = f"manifest.{hashlib.sha256(_json(dict(options)).encode()).hexdigest()[:8]}.lcp.jsonl"
    if _writable(root):
        return root / name
    return cache / "manifests" / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16] / name


def _writable(folder: Path) -> bool:
    # The mode bits count as well: to the super-user every folder looks writable, also one that is meant not to be.
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def _relative(clip: Clip, root: Path) -> dict[str, Any]:
    record = asdict(clip)
    for field in PATH_FIELDS:
        if record[field] is not None and Path(record[field]).is_relative_to(root):
            record[field] = Path(record[field]).relative_to(root).as_posix()
    for field in LATER_FIELDS:
        if record[field] is None:
            del record[field]
    return json.loads(_json(record))  # type: ignore[no-any-return]


def _absolute(record: Mapping[str, Any], root: Path) -> Clip:
    values = dict(record)
    for field in PATH_FIELDS:
        if values.get(field) is not None:
            values[field] = str(root / values[field])
    for field in ("box", "lip_box"):
        values[field] = tuple(values[field]) if values[field] is not None else None
    if values["landmarks5"] is not None:
        values["landmarks5"] = tuple((x, y) for x, y in values["landmarks5"])
    return Clip(**values)


def _content_hash(dataset: str, options: Mapping[str, Any], stored: Sequence[Mapping[str, Any]]) -> str:
    content = {"schema": SCHEMA_VERSION, "dataset": dataset, "options": dict(options), "clips": list(stored)}
    return hashlib.sha256(_json(content).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _write_atomically(path: Path, text: str) -> None:
    try:
        with replacing(path, durable=True) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DatasetError(
            f"cannot write the manifest {path} ({error}); make room or set paths.cache elsewhere"
        ) from error
