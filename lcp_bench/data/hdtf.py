"""HDTF as sources for clips: one clip per annotated video, from the start of its first usable segment.

The fixed window of the tables is taken (the authors' other way, a face box enlarged by a ratio, depends on the
detector). A video of another height than the listed one has its window scaled. Decisions where nothing is published:

* A segment without a window, with a listed height of 0, or with a window that does not fit the listed height cannot be
  cropped; the next segment of the video is taken, and a video without any is named with its reason.
* Names are the only labels of people: trailing digits number the videos of one person and are stripped. In `RD` digits
  are plain numbering, so there every video counts as a person of its own (two of them may show the same one).
"""

from __future__ import annotations

import re
from pathlib import Path

from lcp_bench.data.folder import SOUNDS, VIDEOS
from lcp_bench.data.hdtf_annotations import Segment, Video, read_annotations
from lcp_bench.data.prepare_crop import ListedWindow
from lcp_bench.data.prepare_cut import Source
from lcp_bench.errors import DatasetError

SAME_PERSON = {"WhipJimClyburn": "JamesClyburn"}
"""Names of one person that differ by more than digits, found by reading the list."""
UNNUMBERED_GROUPS = ("RD",)
"""Groups in which a name's digits say nothing about the person."""
ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".wav", ".flac", ".m4a", ".mp3", ".aac", ".ogg", ".opus")
"""Which file is taken where several have the right name."""


def hdtf_sources(annotations: str | Path, videos: str | Path, clip_seconds: float | None) -> list[Source]:
    """One source per annotated video.

    Args:
        annotations: Folder of the published tables.
        videos: Folder of downloaded videos: `NAME.mp4`, `GROUP_NAME.mp4` or `GROUP/NAME.mp4` (or mkv, webm, mov, avi);
            a sound file of the same name beside it is used for a video without sound.
        clip_seconds: Longest clip; None takes whole segments.

    Returns:
        Sources; what is known to be missing or unusable has its reason.

    Raises:
        DatasetError: Malformed tables, or `videos` is no folder.
    """
    place = Path(videos)
    if not place.is_dir():
        raise DatasetError(
            f"expected the folder of downloaded HDTF videos, got {place}; make it, put NAME.mp4 files there (an empty "
            "one gives the list of addresses), and name it with sources=FOLDER"
        )
    known = read_annotations(annotations)
    files = _index(place)
    return [_source(video, place, files, clip_seconds) for video in known]


def identity_of(group: str, name: str) -> str:
    """The person of a video, as far as its name tells; see the module's text."""
    if group in UNNUMBERED_GROUPS:
        return f"{group}_{name}"
    person = re.sub(r"\d+$", "", name)
    return SAME_PERSON.get(person, person)


def _index(place: Path) -> dict[str, list[Path]]:
    """Media files of the folder and of its sub-folders one level down, by path without ending, preferred first."""
    folders = [place, *sorted(each for each in place.iterdir() if each.is_dir())]
    found = [file for folder in folders for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
    index: dict[str, list[Path]] = {}
    for file in sorted(found, key=lambda each: (ENDINGS.index(each.suffix.lower()), each.name)):
        index.setdefault(file.relative_to(place).with_suffix("").as_posix(), []).append(file)
    return index


def _source(video: Video, place: Path, files: dict[str, list[Path]], clip_seconds: float | None) -> Source:
    stems = (video.name, f"{video.group}_{video.name}", f"{video.group}/{video.name}")
    named = [file for stem in stems for file in files.get(stem, [])]
    pictures = next((file for file in named if file.suffix.lower() in VIDEOS), None)
    sound = next((file for file in named if file.suffix.lower() in SOUNDS), None)
    segment, reason = _usable(video)
    chosen = segment or video.segments[0]
    length = chosen.end_s - chosen.start_s
    window = segment.window if segment else None
    if reason is None and pictures is None:
        reason = f"no video {video.name}.mp4 in {place}"
    return Source(
        id=f"{video.group}_{video.name}_{chosen.index:03d}",
        identity=identity_of(video.group, video.name),
        strata=(),
        name=f"{video.group}/{video.name}",
        video=pictures,
        audio=sound,
        start_s=chosen.start_s,
        seconds=length if clip_seconds is None else min(length, clip_seconds),
        crop=ListedWindow(window.x, window.y, window.side, video.height) if window else None,
        reason=reason,
        url=video.url,
    )


def _usable(video: Video) -> tuple[Segment | None, str | None]:
    """The first segment that can be cropped, or why there is none."""
    reasons = []
    for segment in video.segments:
        window = segment.window
        if window is None:
            reasons.append(f"segment {segment.index}: the annotations have no crop window")
        elif video.height == 0:
            reasons.append(f"segment {segment.index}: the annotations give 0 as the height that the window refers to")
        elif window.y + window.side > video.height:
            reasons.append(
                f"segment {segment.index}: the window (y={window.y} side={window.side}) is larger than the listed "
                f"picture ({video.height} lines)"
            )
        else:
            return segment, None
    return None, "; ".join(reasons)
