"""MEAD as sources for clips: one per front-view recording of an actor's folder tree.

    M003/video/front/angry/level_1/001.mp4
    M003/audio/angry/level_1/001.m4a            (wav in some copies)

The separate sound is taken where it is there, else the video's own. Whole sentences are used. MEAD lists no face
boxes, so the square is found by a detector (`FaceWindow`). Decisions where nothing is published: pictures and separate
sound start together; a recording whose picture and sound differ by more than half a second is refused, because in
some actors' folders the numbering is shifted.
"""

from __future__ import annotations

import re
from pathlib import Path

from lcp_bench.data.folder import SOUNDS, VIDEOS
from lcp_bench.data.prepare_crop import FaceWindow
from lcp_bench.data.prepare_cut import Source
from lcp_bench.errors import DatasetError

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")
VIEW = "front"
ACTOR = re.compile(r"[MW]\d{3}")
LEVEL = re.compile(r"level_[123]")


def mead_sources(tree: str | Path, crop: FaceWindow, clip_seconds: float | None) -> list[Source]:
    """One source per front-view recording.

    Args:
        tree: Folder that holds the actors' folders.
        crop: How the face is found.
        clip_seconds: Longest clip; None takes whole sentences.

    Returns:
        Sources in order of name; one without sound or in an unknown place has its reason, and so has an actor without
        any front view.

    Raises:
        DatasetError: No folder, or no actor's folder in it.
    """
    place = Path(tree)
    actors = sorted(each for each in place.iterdir() if ACTOR.fullmatch(each.name)) if place.is_dir() else []
    if not actors:
        raise DatasetError(
            f"expected MEAD's actor folders (M003, W009, ...) in {place}, found none; unpack the archives so that "
            f"{place}/M003/video/front/angry/level_1/001.mp4 exists, and name the folder with sources=FOLDER"
        )
    found: list[Source] = []
    for actor in actors:
        videos = sorted(each for each in (actor / "video" / VIEW).rglob("*") if each.suffix.lower() in VIDEOS)
        found += [_source(actor, video, crop, clip_seconds) for video in videos if not video.name.startswith(".")]
        if not videos:
            reason = f"no videos in {actor / 'video' / VIEW}"
            name = f"{actor.name}/video/{VIEW}"
            found.append(Source(f"{actor.name}_{VIEW}", actor.name, (), name, None, crop=crop, reason=reason))
    return found


def _source(actor: Path, video: Path, crop: FaceWindow, clip_seconds: float | None) -> Source:
    below = video.relative_to(actor / "video" / VIEW).with_suffix("")
    emotion, level = (*below.parts, "", "")[:2]
    known = len(below.parts) == 3 and emotion in EMOTIONS and LEVEL.fullmatch(level)
    sounds = sorted((actor / "audio" / below).parent.glob(f"{below.name}.*"))
    return Source(
        id=re.sub(r"[^\w-]+", "-", f"{actor.name}_{VIEW}_{'_'.join(below.parts)}"),
        identity=actor.name,
        strata=(emotion, level),
        name=video.relative_to(actor.parent).as_posix(),
        video=video,
        audio=next((each for each in sounds if each.suffix.lower() in SOUNDS), None),
        max_seconds=clip_seconds,
        crop=crop,
        reason=None if known else f"expected EMOTION/level_N/NNN.mp4 below {VIEW}, with one of {', '.join(EMOTIONS)}",
    )
