"""What the report page's viewer shows: the videos of every run, clip by clip, and where the mouth is.

Files are named, not opened: several hundred clips cost one row file per run and one manifest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcp_bench.errors import LcpBenchError
from lcp_bench.quality_twin import NOT_VIDEOS
from lcp_bench.record import Record, canonical_json
from lcp_bench.store import StoredRun, read_rows

log = logging.getLogger(__name__)

Box = tuple[float, float, float, float]

LOWER_MIDDLE: Box = (0.25, 0.45, 0.75, 0.95)
"""Where a mouth is in a picture that was cropped around a head."""
LIPS_GROWN = 2.2
"""The crop's side over the longer side of the lips' box: heads move, and chin and cheeks show what is wrong."""


@dataclass(frozen=True)
class Cell:
    """The video of one clip of one run, or why there is none."""

    video: Path | None
    reason: str = ""


@dataclass(frozen=True)
class Source:
    """A column of the viewer.

    Attributes:
        label: For people; unique in the viewer.
        run_id: The run; None for the real videos.
        baseline: Run id of the unaccelerated run to subtract; None without one.
        cells: By clip id.
    """

    label: str
    run_id: str | None
    baseline: str | None
    cells: Mapping[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownClip:
    """A clip of the viewer: the mouth's box, relative to width and height of the picture, and who said so."""

    id: str
    mouth: Box
    mouth_source: str


@dataclass(frozen=True)
class Viewer:
    """The videos of runs on the same clips; fps is frames per second."""

    fps: float
    clips: tuple[ShownClip, ...]
    sources: tuple[Source, ...]


def make_viewer(runs: Sequence[StoredRun], labels: Mapping[str, str]) -> Viewer | None:
    """The viewer of runs with records, columns in their order; None if no run has rows.

    Args:
        runs: Runs on the same data, all with records.
        labels: Run id to its name for people.
    """
    rows = {run.run_id: _rows(run) for run in runs}
    ids = list(dict.fromkeys(clip for found in rows.values() for clip in found))
    if not ids:
        return None
    records = [run.record for run in runs if run.record is not None]
    entries = _entries(records)
    cropped = any(record["model"]["name"] == "echomimic" for record in records)
    sources = [
        Source(labels[run.run_id], run.run_id, _baseline(run.record, records), _cells(run, rows[run.run_id], ids))
        for run in runs
        if run.record is not None
    ]
    real = {clip: Cell(entries[clip][1]) for clip in ids if clip in entries and entries[clip][1] is not None}
    if real:
        sources.insert(0, Source("real", None, None, real))
    clips = tuple(ShownClip(clip, *_mouth({} if cropped else entries.get(clip, ({}, None))[0])) for clip in ids)
    return Viewer(_fps(records), clips, tuple(sources))


def _fps(records: Sequence[Record]) -> float:
    rates = [record["config"].get("model", {}).get("fps") for record in records]
    return next((float(rate) for rate in rates if rate), 25.0)


def _rows(run: StoredRun) -> dict[str, Mapping[str, Any]]:
    try:
        return {row["clip"]: row for row in read_rows(run.path / "rows.jsonl").rows}
    except LcpBenchError as error:
        log.warning("run %s: its videos are not shown: %s", run.run_id, error)
        return {}


def _cells(run: StoredRun, rows: Mapping[str, Mapping[str, Any]], ids: Iterable[str]) -> dict[str, Cell]:
    return {clip: _cell(run, rows.get(clip)) for clip in ids}


def _cell(run: StoredRun, row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell(None, "this run has no such clip")
    if row["status"] != "ok":
        return Cell(None, f"failed at {row['stage']}: {row['reason']}")
    folder = run.path.resolve()
    video = (folder / str(row.get("video", ""))).resolve()
    if not video.is_relative_to(folder) or not video.is_file():
        return Cell(None, "the video is not beside the record any more")
    return Cell(video)


def _baseline(record: Record, others: Sequence[Record]) -> str | None:
    """The unaccelerated run that equals a run in all else that decides its videos; the latest of several.

    One made by another state of the code is taken if there is no better: the viewer shows pictures, not numbers.
    """
    if record["accel"]["name"] == "none":
        return None
    plain = [other for other in others if other["accel"]["name"] == "none"]
    for left_out in (NOT_VIDEOS, (*NOT_VIDEOS, "source_sha256")):
        wanted = _without(record, left_out)
        found = [(other["created_utc"], other["run_id"]) for other in plain if _without(other, left_out) == wanted]
        if found:
            return max(found)[1]
    return None


def _without(record: Record, left_out: Sequence[str]) -> str:
    return canonical_json({key: value for key, value in record["identity"].items() if key not in left_out})


def _entries(records: Sequence[Record]) -> dict[str, tuple[dict[str, Any], Path | None]]:
    """Clip id to its entry in the manifest of the runs' data, with the portrait's size, and its real video if any."""
    for record in records:
        for path, root in _manifests(record):
            header, *stored = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            # The hash in the record's label says which of several listings of a folder was used.
            if f":{header['sha256'][:8]}" in record["labels"]["dataset"]:
                return {entry["id"]: (_sized(entry, root), _real(entry, root)) for entry in stored}
    return {}


def _manifests(record: Record) -> Iterator[tuple[Path, Path]]:
    config = record["config"]
    paths, root = config.get("paths", {}), config.get("dataset", {}).get("root")
    folder = Path(root) if root else Path(paths.get("data", "data")) / "demo"
    cache = Path(paths.get("cache", ".cache")) / "manifests"
    for path in (*sorted(folder.glob("manifest*.lcp.jsonl")), *sorted(cache.glob("*/manifest*.lcp.jsonl"))):
        if path.stat().st_size:
            yield path, folder


def _sized(entry: Mapping[str, Any], root: Path) -> dict[str, Any]:
    portrait = entry.get("image") or entry.get("video")
    wanted = entry.get("lip_box") or entry.get("box")
    return {**entry, "size": _size(root / portrait) if portrait and wanted else None}


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture or video, pixels; None if it cannot be read."""
    from PIL import Image

    from lcp_bench.video import probe

    try:
        if path.suffix.lower() in (".mp4", ".mov", ".mkv", ".webm", ".avi"):
            info = probe(path)
            return (info.width, info.height) if info.width and info.height else None
        with Image.open(path) as image:
            return image.size
    except (OSError, LcpBenchError):
        return None


def _real(entry: Mapping[str, Any], root: Path) -> Path | None:
    video = entry.get("video")
    path = (root / video).resolve() if video else None
    return path if path is not None and path.is_file() else None


def _mouth(entry: Mapping[str, Any]) -> tuple[Box, str]:
    """Relative box of the mouth region, and where it comes from."""
    size = entry.get("size")
    if size is None:
        return LOWER_MIDDLE, "lower middle of the picture"
    width, height = size
    if lips := entry.get("lip_box"):
        return _square(lips, width, height), "around the portrait's lip box"
    if face := entry.get("box"):
        x0, y0, x1, y1 = face
        return _inside((x0 / width, (y0 + y1) / 2 / height, x1 / width, y1 / height)), "lower half of the face box"
    return LOWER_MIDDLE, "lower middle of the picture"


def _square(box: Sequence[float], width: int, height: int) -> Box:
    x0, y0, x1, y1 = box
    half = LIPS_GROWN * max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return _inside(((x - half) / width, (y - half) / height, (x + half) / width, (y + half) / height))


def _inside(box: Box) -> Box:
    x0, y0, x1, y1 = (round(min(1.0, max(0.0, each)), 4) for each in box)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else LOWER_MIDDLE
