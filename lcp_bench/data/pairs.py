"""Explicit lists of clips: `pairs.csv`, and `landmarks.csv` beside portraits.

`pairs.csv` has a header line. Columns: `audio` and `image` (or `video` alone for a talking clip), all relative to the
file; optional `id`, `identity`, `box` and `lip_box` ("x0 y0 x1 y1"), `landmarks` ("x y" five times), `embedding`
(file), `foreground` (PNG, white where the person is, see `lcp_bench.data.foreground`). Numbers within a cell are
separated by spaces. Other columns are ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lcp_bench.data.manifest import Clip
from lcp_bench.errors import DatasetError

POINT_NAMES = ("eye_left_of_image", "eye_right_of_image", "nose_tip", "mouth_left_of_image", "mouth_right_of_image")
Landmarks = tuple[tuple[float, float], ...]


def read_pairs(path: Path, make_id: Callable[[str | None, str | None, str], str]) -> list[Clip]:
    """The clips of a `pairs.csv`.

    Args:
        path: The list.
        make_id: Names a clip from (its `id` cell or None, portrait's path, sound's path).

    Returns:
        Clips with absolute paths; files need not exist (their clips fail later, with a reason).

    Raises:
        DatasetError: A line has no sound, no portrait, or numbers that cannot be read.
    """
    clips = []
    for where, row in _rows(path):
        image, video = _file(path, row.get("image")), _file(path, row.get("video"))
        audio = _file(path, row.get("audio")) or video
        if audio is None or (image is None and video is None):
            raise DatasetError(f"{where}: expected image and audio, or video, got {dict(row)}; fill the cells")
        box, lips, points = (_numbers(where, row, key, n) for key, n in (("box", 4), ("lip_box", 4), ("landmarks", 10)))
        clip = Clip(
            id=make_id(row.get("id") or None, image or video, audio),
            image=image,
            video=None if image else video,
            audio=audio,
            identity=row.get("identity") or None,
            box=(box[0], box[1], box[2], box[3]) if box else None,
            lip_box=(lips[0], lips[1], lips[2], lips[3]) if lips else None,
            landmarks5=tuple((points[k], points[k + 1]) for k in range(0, 10, 2)) if points else None,
            embedding=_file(path, row.get("embedding")),
            foreground=_file(path, row.get("foreground")),
            source="listed",
            box_source="given" if box else None,
        )
        clips.append(clip)
    return clips


def read_landmarks(path: Path) -> dict[str, Landmarks]:
    """Five points per portrait from a `landmarks.csv` with columns file, point, x, y.

    Args:
        path: The list; may be absent.

    Returns:
        File name to five (x, y) in pixels, in the order of `POINT_NAMES`.

    Raises:
        DatasetError: A point is doubled, missing, unknown, or not numeric.
    """
    if not path.is_file():
        return {}
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for where, row in _rows(path):
        name, point = row.get("file") or "", row.get("point") or ""
        if point not in POINT_NAMES or point in points.setdefault(name, {}):
            raise DatasetError(f"{where}: expected each of {', '.join(POINT_NAMES)} once per file, got {point!r}")
        try:
            points[name][point] = (float(row["x"] or ""), float(row["y"] or ""))
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{where}: expected numbers in columns x and y, got {dict(row)}") from error
    for name, found in points.items():
        if len(found) != len(POINT_NAMES):
            raise DatasetError(f"{path}: {name} has {len(found)} of 5 points; add {set(POINT_NAMES) - set(found)}")
    return {name: tuple(found[key] for key in POINT_NAMES) for name, found in points.items()}


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in (reader := csv.DictReader(file)):
                yield (f"{path}:{reader.line_num}", {key: (value or "").strip() for key, value in row.items() if key})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as CSV ({error}); save it as UTF-8 with a header line") from error


def _file(listing: Path, cell: str | None) -> str | None:
    return str(listing.parent / cell) if cell else None


def _numbers(where: str, row: Mapping[str, str | None], key: str, count: int) -> list[float] | None:
    cell = row.get(key)
    if not cell:
        return None
    try:
        values = [float(each) for each in cell.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != count:
        raise DatasetError(f"{where}: expected {count} numbers separated by spaces in {key}, got {cell!r}")
    return values
