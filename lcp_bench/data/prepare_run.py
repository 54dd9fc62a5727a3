"""Preparing a data set: choose, cut, freeze, and say what could not be had."""

from __future__ import annotations

import csv
import fcntl
import io
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcp_bench.data.faces import FaceError
from lcp_bench.data.images import ImageError, read_portrait
from lcp_bench.data.locate import locate_face
from lcp_bench.data.manifest import Clip, Manifest, Skipped, freeze, load, with_hashes
from lcp_bench.data.prepare_cut import Source, clip_path, cut, is_damaged, is_finished, sound_path, write_text
from lcp_bench.data.prepare_media import FPS
from lcp_bench.data.prepared import MANIFEST
from lcp_bench.data.selection import choose
from lcp_bench.errors import DatasetError
from lcp_bench.video import MediaError, probe

log = logging.getLogger(__name__)

LIST = "sources.csv"
MISSING = "missing_video_url.txt"


@dataclass(frozen=True, slots=True)
class PrepareSpec:
    """How a data set is prepared.

    Attributes:
        dataset: Its name.
        root: Folder for the result.
        clips: How many are wanted.
        seed: Of the choice.
        image_size: Side of the clips in pixels.
        face_detector: Finds the face in every clip's first picture, for the manifest.
        insightface_root: Folder of that detector's files.
        options: Everything else that shapes the result, as JSON; kept in the manifest.
        refreeze: Choose anew although a manifest is there.
    """

    dataset: str
    root: Path
    clips: int
    seed: int
    image_size: int
    face_detector: str
    options: Mapping[str, Any]
    insightface_root: str | None = None
    refreeze: bool = False

    def stored(self) -> dict[str, Any]:
        """The options of the manifest."""
        mine = {"clips": self.clips, "seed": self.seed, "image_size": self.image_size, "fps": FPS}
        return {**mine, "face_detector": self.face_detector, **self.options}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of it.

    Attributes:
        manifest: The frozen choice.
        wanted: How many clips were asked for.
        states: Number of sources that are `chosen`, `spare`, `missing`, `broken` or `unusable`.
        cut: Clips cut now; the others were there already.
    """

    manifest: Manifest
    wanted: int
    states: Mapping[str, int]
    cut: int


class _Desk:
    """One pass over the sources: tries them as the choice asks for them and remembers what came of each."""

    def __init__(self, sources: Sequence[Source], spec: PrepareSpec) -> None:
        self.spec = spec
        self.sources = list(sources)
        self.reasons = {each.id: each.reason for each in sources if each.reason is not None}
        self.states = {each.id: _first_state(each) for each in sources}
        self.cut_now = 0

    def accept(self, source: Source) -> bool:
        """Whether the source's clip is finished now; cuts it if needed."""
        finished = is_finished(self.spec.root, source, self.spec.image_size)
        if not finished and source.id in self.reasons:
            return False
        if not finished:
            try:
                cut(self.spec.root, source, self.spec.image_size)
            except MediaError as error:
                log.warning("%s is not used: %s", source.id, error)
                self.reasons[source.id], self.states[source.id] = str(error), "broken"
                return False
            self.cut_now += 1
            log.info("%s: cut from %s", source.id, source.name)
        self.states[source.id] = "chosen"
        self.reasons.pop(source.id, None)
        return True

    def mend(self) -> bool:
        """Cut clips again that were finished and are damaged now; whether there were any."""
        size = self.spec.image_size
        damaged = [each for each in self.sources if is_damaged(self.spec.root, each, size)]
        for each in damaged:
            self.accept(each)
        return bool(damaged)

    def recall(self, manifest: Manifest) -> None:
        """Take over what an earlier pass found out."""
        chosen = {clip.id for clip in manifest.clips}
        reasons = {each.file: each.reason for each in manifest.skipped}
        for each in self.sources:
            if each.id in chosen:
                self.states[each.id] = "chosen"
                self.reasons.pop(each.id, None)
            elif self.states[each.id] == "spare" and reasons.get(each.name, "").startswith("broken: "):
                self.states[each.id], self.reasons[each.id] = "broken", reasons[each.name].removeprefix("broken: ")

    def skipped(self) -> list[Skipped]:
        """Sources that were wanted and could not be had."""
        lost = [each for each in self.sources if each.id in self.reasons]
        return [Skipped(each.name, f"{self.states[each.id]}: {self.reasons[each.id]}") for each in lost]

    def write_lists(self) -> None:
        """`sources.csv` with every source's state, and the missing addresses in the layout of HDTF's own list."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["id", "identity", "state", "source", "url", "reason"])
        for each in self.sources:
            reason = self.reasons.get(each.id, "")
            writer.writerow([each.id, each.identity, self.states[each.id], each.name, each.url or "", reason])
        write_text(self.spec.root / LIST, table.getvalue())
        lost = [each for each in self.sources if self.states[each.id] == "missing" and each.url]
        lines = [f"{each.name.rpartition('/')[2]} {each.url}\n" for each in lost]
        if lines:
            write_text(self.spec.root / MISSING, "".join(lines))
        else:
            (self.spec.root / MISSING).unlink(missing_ok=True)


def _first_state(source: Source) -> str:
    if source.reason is None:
        return "spare"
    return "missing" if source.crop is not None and source.video is None else "unusable"


def prepare(sources: Sequence[Source], spec: PrepareSpec) -> Prepared:
    """Choose, cut and freeze; what an earlier, interrupted pass finished is kept.

    Args:
        sources: Every clip that the data set could give.
        spec: How.

    Returns:
        The frozen manifest and the counts.

    Raises:
        DatasetError: Nothing could be had, another process prepares the same folder, the folder was prepared with
            other options, or a frozen clip changed and cannot be cut again.
    """
    spec.root.mkdir(parents=True, exist_ok=True)
    desk = _Desk(sources, spec)
    path = spec.root / MANIFEST
    with _alone(spec.root):
        manifest = _again(desk, path) if path.is_file() and not spec.refreeze else _anew(desk, path)
        desk.write_lists()
    return Prepared(manifest, spec.clips, Counter(desk.states.values()), desk.cut_now)


def _anew(desk: _Desk, path: Path) -> Manifest:
    spec = desk.spec
    chosen = choose(desk.sources, spec.clips, spec.seed, desk.accept)
    if not chosen:
        desk.write_lists()
        raise DatasetError(_nothing(desk))
    kept = {each.id for each in chosen}
    for pattern in ("clips/*.mp4", "audio/*.wav", "cuts/*.json"):
        for file in spec.root.glob(pattern):
            if file.stem not in kept:
                file.unlink()  # of an earlier choice: it must not look like a part of this one
    clips = [_clip(each, spec) for each in chosen]
    path.unlink(missing_ok=True)
    return freeze(path, spec.dataset, spec.root.resolve(), clips, spec.stored(), desk.skipped())


def _again(desk: _Desk, path: Path) -> Manifest:
    """The frozen manifest: damaged clips are cut again, sources that came since are told and not used."""
    spec, root = desk.spec, desk.spec.root.resolve()
    try:
        manifest = load(path, root)
    except DatasetError:
        if not desk.mend():
            raise
        manifest = load(path, root)
    if manifest.dataset != spec.dataset or dict(manifest.options) != spec.stored():
        changed = _differences(spec.stored(), manifest.options) or f"dataset {manifest.dataset}"
        raise DatasetError(
            f"{root} was prepared with other options ({changed}); use another dataset.root, or refreeze=true to choose "
            "and cut anew (the manifest's hash and the run ids change)"
        )
    desk.recall(manifest)
    spare = sum(state == "spare" for state in desk.states.values())
    if len(manifest.clips) < spec.clips and spare:
        log.warning(
            "%s is frozen with %d of %d clips; %d further sources are there now. refreeze=true takes them in "
            "(the manifest's hash and the run ids change)",
            *(root, len(manifest.clips), spec.clips, spare),
        )
    fresh = [clip.id for clip in manifest.clips if clip.foreground is None and _own_foreground(root, clip.id)]
    if fresh:
        log.warning(
            "%s/foreground has files for %d clips that the frozen manifest takes without (%s); refreeze=true takes "
            "them in (the manifest's hash and the run ids change)",
            *(root, len(fresh), ", ".join(fresh[:3])),
        )
    return manifest


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
    return ", ".join(f"{key} was {then.get(key)}, is {now.get(key)}" for key in keys)


def _clip(source: Source, spec: PrepareSpec) -> Clip:
    """The manifest's entry of a finished clip, with the face of its first picture where one is found."""
    path = str(clip_path(spec.root.resolve(), source.id))
    frames = probe(path).frames or 0
    clip = Clip(
        id=source.id,
        image=None,
        video=path,
        audio=str(sound_path(spec.root.resolve(), source.id)),
        duration_s=frames / FPS,
        identity=source.identity,
        source="talking",
        foreground=_own_foreground(spec.root.resolve(), source.id),
    )
    clip = with_hashes(clip)
    if spec.face_detector == "manifest":
        return clip
    try:
        face = locate_face(clip, read_portrait(None, path), spec.face_detector, spec.insightface_root)
    except (FaceError, ImageError, MediaError) as error:
        reason = str(error).partition(";")[0]
        log.warning(
            "%s: its first picture shows no usable face (%s); it stays chosen, and a run lists it as failed unless "
            "it is given dataset.face_detector=insightface",
            *(source.id, reason),
        )
        return clip
    clip = replace(clip, box=face.box, box_source=face.source)
    if face.source == "insightface":  # the cascade's points are only estimated from its box
        clip = replace(clip, landmarks5=tuple((float(x), float(y)) for x, y in face.landmarks5))
    return clip


def _own_foreground(root: Path, name: str) -> str | None:
    """The user's foreground of a clip's first picture, ROOT/foreground/ID.png, where there is one at freezing."""
    path = root / "foreground" / f"{name}.png"
    return str(path) if path.is_file() else None


def _nothing(desk: _Desk) -> str:
    counts = Counter(desk.states.values())
    first = "; ".join(f"{each.file}: {each.reason}" for each in desk.skipped()[:3])
    return (
        f"{desk.spec.dataset}: 0 of {len(desk.sources)} clips available ({_counted(counts)}); for example {first}. "
        f"All are in {desk.spec.root / LIST}, addresses of missing videos in {desk.spec.root / MISSING}; get them with "
        "a downloader of your own and issue the command again"
    )


def _counted(counts: Mapping[str, int]) -> str:
    words = ("missing", "broken", "unusable")
    return ", ".join(f"{counts.get(word, 0)} {word}" for word in words)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder against a second process, and clear what a killed one left half-written."""
    with (root / ".prepare.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DatasetError(f"another process is preparing {root}; wait for it, or choose another root") from error
        for partial in (*root.glob(".*.partial"), *root.glob("*/.*.partial")):
            partial.unlink()
        yield


def summary(prepared: Prepared) -> str:
    """What to tell the user, in one line per fact."""
    manifest = prepared.manifest
    total = sum(prepared.states.values())
    lost = sum(prepared.states.get(word, 0) for word in ("missing", "broken", "unusable"))
    root = Path(manifest.root)
    return "\n".join(
        [
            f"{manifest.dataset}: {len(manifest.clips)} of {prepared.wanted} clips in {root} ({prepared.cut} cut now)",
            f"{total - lost} of {total} available ({_counted(prepared.states)}): {root / LIST}",
            f"frozen in {manifest.path}, sha256 {manifest.sha256}",
        ]
    )
