"""A user's folder as a data set (`+dataset=folder dataset.root=...`).

Layouts, found by themselves:

* `pairs.csv` in the root (or given as the root): exactly the clips it lists, see `lcp_bench.data.pairs`;
* `portraits/` and `speech/`: pairs; `portraits/landmarks.csv` gives five points per portrait where known;
* images and sound files side by side in the root: pairs;
* videos with sound, in `clips/` or in the root: talking clips (first frame and own sound).

`pairing`: `stem` joins files of the same name; `zip` gives each speech file, in sorted order, the portrait at the same
place (starting over when there are fewer portraits; spare portraits are left out); `product` takes every portrait with
every speech; `auto` is `stem` when any name matches, else `zip`. `kind`: `pairs`, `clips` (talking), or `all`.

Listing trusts names only. A 0-byte wav or a text named .png becomes a clip, and fails later as one row with a reason.
Files that are seen and not used are kept in the manifest's `skipped`, with the reason.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lcp_bench.data.faces import DETECTORS, FaceError
from lcp_bench.data.images import ImageError, read_portrait
from lcp_bench.data.locate import locate_face
from lcp_bench.data.manifest import Clip, Manifest, Skipped, file_hash, freeze, load, manifest_path, with_hashes
from lcp_bench.data.pairs import read_landmarks, read_pairs
from lcp_bench.errors import ConfigError, DatasetError
from lcp_bench.video import MediaError, probe

log = logging.getLogger(__name__)

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
SOUNDS = frozenset({".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus"})
VIDEOS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})
PAIRINGS = ("auto", "stem", "zip", "product")
KINDS = ("all", "pairs", "clips")
ID_LENGTH = 80
LABEL_FILES = ("pairs.csv", "landmarks.csv", "portraits/landmarks.csv")


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """What shapes the listing of a folder; any field changes the manifest.

    Attributes:
        pairing: `auto`, `stem`, `zip` or `product`, see the module's text.
        kind: `all`, `pairs` or `clips`.
        face_detector: Finds the boxes that nobody gave: `cascade`, `insightface`, or `manifest` (none).
        insightface_root: Folder of upstream's ONNX files, for `insightface`. Not part of the manifest.
    """

    pairing: str = "auto"
    kind: str = "all"
    face_detector: str = "cascade"
    insightface_root: str | None = None

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        for name, value, known in (
            ("pairing", self.pairing, PAIRINGS),
            ("kind", self.kind, KINDS),
            ("face_detector", self.face_detector, DETECTORS),
        ):
            if value not in known:
                raise ConfigError(f"dataset.{name} must be one of {', '.join(known)}, got {value!r}")

    def stored(self) -> dict[str, str]:
        """The options that are part of a manifest's content."""
        return {"pairing": self.pairing, "kind": self.kind, "face_detector": self.face_detector}


@dataclass(slots=True)
class _Listing:
    """Clips and skipped files of one pass over a folder; hands out unique ids."""

    clips: list[Clip] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def make_id(self, wanted: str | None, portrait: str | None, audio: str) -> str:
        """A file-safe unique id; a hash of the paths is added where the plain name would not be both."""
        names = list(dict.fromkeys(Path(each).stem for each in (portrait, audio) if each))
        raw = wanted or "__".join(names)
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", raw).strip(".-")[:ID_LENGTH]
        if safe != raw or safe.lower() in self._taken:
            parts = [Path(each).parts[-2:] for each in (portrait, audio) if each]
            safe = f"{safe or 'clip'}-{hashlib.sha256(repr((raw, parts)).encode()).hexdigest()[:6]}"
        while safe.lower() in self._taken:
            safe += "x"
        self._taken.add(safe.lower())
        return safe

    def add_pair(self, image: Path, audio: Path) -> None:
        """List a portrait with a speech file."""
        name = self.make_id(None, str(image), str(audio))
        self.clips.append(Clip(id=name, image=str(image), video=None, audio=str(audio), source="pair"))

    def skip(self, root: Path, files: Sequence[Path], reason: str) -> None:
        """Note files that become no clip."""
        self.skipped.extend(Skipped(file.relative_to(root).as_posix(), reason) for file in files)


def load_folder(root: str | Path | None, cache: str | Path, options: FolderOptions) -> Manifest:
    """The frozen manifest of a folder: read it if it is there, else list the folder and write it.

    Args:
        root: The folder, or a pairs.csv.
        cache: Takes the manifest when the root is read-only.
        options: How to list.

    Returns:
        The manifest.

    Raises:
        DatasetError: No such folder, nothing in it, or a frozen file changed.
        ConfigError: The face detector's files are missing.
    """
    if root is None or not Path(root).exists():
        raise DatasetError(
            f"expected a folder or pairs.csv at dataset.root, got {root}; set dataset.root=/path/to/data"
        )
    place = Path(root).resolve()
    folder = place.parent if place.is_file() else place
    stored = options.stored() | ({"listing": place.name} if place.is_file() else {})
    path = manifest_path(folder, Path(cache), stored, FolderOptions().stored())
    if path.is_file():
        manifest = load(path, folder)
        _report_new_files(manifest, place, options)
        return manifest
    listing = list_folder(place, options)
    clips = [_described(clip, options) for clip in listing.clips]
    for each in listing.skipped:
        log.warning("%s: not used: %s", each.file, each.reason)
    manifest = freeze(path, "folder", folder, clips, stored, listing.skipped, _label_hashes(place, folder))
    log.info("%s: %d clips frozen in %s", folder, len(clips), path)
    return manifest


def _label_hashes(place: Path, folder: Path) -> dict[str, str | None]:
    """Hashes of the lists that give boxes and landmarks, also of those that could be there (None)."""
    tables = [place] if place.is_file() else [place / name for name in LABEL_FILES]
    return {each.relative_to(folder).as_posix(): file_hash(str(each)) for each in tables}


def _report_new_files(manifest: Manifest, place: Path, options: FolderOptions) -> None:
    fresh = {(each.image, each.video, each.audio) for each in list_folder(place, options).clips}
    new = fresh - {(each.image, each.video, each.audio) for each in manifest.clips}
    if new:
        log.warning(
            "%s: the folder would now give %d clips that the frozen manifest %s does not have; they are not used. "
            "Delete the manifest to take them in",
            *(place, len(new), manifest.path),
        )


def list_folder(place: Path, options: FolderOptions) -> _Listing:
    """Clips of a folder by file names alone, before any file is decoded (videos are probed for sound)."""
    listing = _Listing()
    table = place if place.is_file() else place / "pairs.csv"
    if table.is_file():
        listing.clips = read_pairs(table, listing.make_id)
        return listing
    portraits, speech, clips = (place / name for name in ("portraits", "speech", "clips"))
    image_folder, sound_folder = (portraits, speech) if portraits.is_dir() or speech.is_dir() else (place, place)
    if options.kind in ("all", "pairs"):
        _pair_up(listing, place, _files(image_folder, IMAGES), _files(sound_folder, SOUNDS), options.pairing)
        points = read_landmarks(image_folder / "landmarks.csv")
        listing.clips = [replace(clip, landmarks5=points.get(Path(clip.image or "").name)) for clip in listing.clips]
    if options.kind in ("all", "clips"):
        _add_talking(listing, place, _files(clips if clips.is_dir() else place, VIDEOS))
    return listing


def _files(folder: Path, endings: frozenset[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (each for each in folder.iterdir() if each.suffix.lower() in endings and not each.name.startswith("."))
    return sorted((each for each in found if each.is_file()), key=lambda each: each.name)


def _pair_up(listing: _Listing, root: Path, images: list[Path], sounds: list[Path], pairing: str) -> None:
    if not images or not sounds:
        listing.skip(
            root, [*images, *sounds], "no sound file to pair it with" if images else "no portrait to pair it with"
        )
        return
    if pairing == "auto":
        pairing = "stem" if {each.stem for each in images} & {each.stem for each in sounds} else "zip"
    if pairing == "product":
        pairs = [(image, sound) for image in images for sound in sounds]
    elif pairing == "zip":
        pairs = [(images[index % len(images)], sound) for index, sound in enumerate(sounds)]
        listing.skip(root, images[len(sounds) :], "more portraits than speech files (pairing=zip)")
    else:
        # The first image of a name wins; a.png beside a.jpg is reported, never chosen silently.
        by_stem: dict[str, Path] = {}
        for image in images:
            by_stem.setdefault(image.stem, image)
        pairs = [(by_stem[sound.stem], sound) for sound in sounds if sound.stem in by_stem]
        used = {each for pair in pairs for each in pair}
        spare = [each for each in [*images, *sounds] if each not in used]
        listing.skip(root, spare, "no partner of the same name (pairing=stem)")
    for image, sound in pairs:
        listing.add_pair(image, sound)


def _add_talking(listing: _Listing, root: Path, videos: list[Path]) -> None:
    for video in videos:
        try:
            silent = not probe(video).has_audio
        except MediaError:
            silent = False  # unreadable: keep it, so that it fails as a row
        if silent:
            listing.skip(root, [video], "no sound stream: not a talking clip")
            continue
        name = listing.make_id(None, str(video), str(video))
        listing.clips.append(Clip(id=name, image=None, video=str(video), audio=str(video), source="talking"))


def _described(clip: Clip, options: FolderOptions) -> Clip:
    """`clip` with hashes, duration, and a face box where one can be had; what fails here fails again, as a row."""
    clip = replace(with_hashes(clip), duration_s=_attempt(lambda: probe(clip.audio).audio_seconds))
    if clip.box is not None:
        return clip
    try:
        face = locate_face(clip, read_portrait(clip.image, clip.video), options.face_detector, options.insightface_root)
    except (FaceError, ImageError, MediaError) as error:
        log.warning("clip %s: %s", clip.id, error)
        return clip
    clip = replace(clip, box=face.box, box_source=face.source)
    if clip.landmarks5 is None and face.source == "insightface":  # the cascade's are only estimated from its box
        clip = replace(clip, landmarks5=tuple((float(x), float(y)) for x, y in face.landmarks5))
    return clip


def _attempt(action: Callable[[], float | None]) -> float | None:
    try:
        return action()
    except MediaError:
        return None
