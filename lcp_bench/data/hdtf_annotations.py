"""The annotation tables of HDTF (Zhang et al., CVPR 2021; CC BY 4.0), read as published.

Three groups (`RD`, `WDA`, `WRA`) of five text files, fields separated by blanks, joined by name. What the published
files do is accepted (a byte-order mark, trailing blanks, no last line feed, videos without times, segments without a
window, a resolution of 0, time ranges out of order, windows larger than the listed picture); anything else that is
malformed or contradicts another file is one error that names file and line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from lcp_bench.errors import DatasetError

GROUPS = ("RD", "WDA", "WRA")
TABLES = ("video_url", "resolution", "annotion_time", "crop_wh", "crop_ratio")
"""`annotion` is the authors' spelling. `crop_ratio` may be absent: the fixed window is used, the ratio only checked."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """A square face window in pixels of a picture with as many lines as `Video.height` says."""

    x: int
    y: int
    side: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One annotated stretch of a video, in seconds; `window` is None where the tables have none."""

    index: int
    start_s: float
    end_s: float
    window: Window | None


@dataclass(frozen=True, slots=True)
class Video:
    """One annotated video.

    Attributes:
        group: `RD`, `WDA` or `WRA`.
        name: Its name in the tables, without `.mp4`.
        url: Where it was published.
        height: Lines of the picture that windows refer to; 0 where the tables do not know.
        segments: Its stretches, in the order of the file.
    """

    group: str
    name: str
    url: str
    height: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A line: where it is, its key, its other fields."""

    where: str
    key: str
    fields: tuple[str, ...]

    def fail(self, expected: str) -> NoReturn:
        """Raise the error for this line."""
        got = " ".join((self.key, *self.fields))
        raise DatasetError(f"{self.where}: expected {expected}, got {got!r}; restore the published file")


def read_annotations(folder: str | Path) -> tuple[Video, ...]:
    """All annotated videos of the groups that a folder has files of.

    Args:
        folder: Holds `RD_video_url.txt` and so on; groups may be absent as a whole.

    Returns:
        Videos with at least one time range, by group and name.

    Raises:
        DatasetError: No folder or no group in it, a missing table, a malformed line, or tables that disagree.
    """
    place = Path(folder)
    groups = [group for group in GROUPS if any(_table(place, group, name).is_file() for name in TABLES)]
    if not groups:
        raise DatasetError(
            f"expected HDTF's annotation files (RD_video_url.txt, RD_annotion_time.txt, ...) in {place}, found none; "
            "give the folder HDTF_dataset of the authors' repository with annotations=FOLDER"
        )
    return tuple(video for group in groups for video in _read_group(place, group))


def annotations_hash(folder: str | Path) -> str:
    """sha256 over names and bytes of the tables in a folder, in hex."""
    digest = hashlib.sha256()
    for path in (_table(Path(folder), group, name) for group in GROUPS for name in TABLES):
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _table(folder: Path, group: str, name: str) -> Path:
    return folder / f"{group}_{name}.txt"


def _read_group(folder: Path, group: str) -> list[Video]:
    """Videos of one group, sorted by name."""
    urls, heights, times, windows, ratios = (_rows(_table(folder, group, name), name) for name in TABLES)
    url_of = {row.key: _url(row) for row in urls.values()}
    height_of = {row.key: _height(row) for row in heights.values()}
    ranges_of = {row.key: _ranges(row) for row in times.values()}
    window_of = {row.key: _window(row) for row in windows.values()}
    for row in ratios.values():
        _ratio(row)
    for row in times.values():
        for name, table in (("resolution", height_of), ("video_url", url_of)):
            if row.key not in table:
                raise DatasetError(
                    f"{row.where}: {row.key} has times but no line in {_table(folder, group, name)}; "
                    "restore the published files, they belong together"
                )
    for row in (*windows.values(), *ratios.values()):
        _check_segment(row, ranges_of, _table(folder, group, "annotion_time"))
    return [
        Video(
            group=group,
            name=name,
            url=url_of[name],
            height=height_of[name],
            segments=tuple(
                Segment(index, start, end, window_of.get(f"{name}_{index}"))
                for index, (start, end) in enumerate(ranges_of[name])
            ),
        )
        for name in sorted(ranges_of)
    ]


def _rows(path: Path, name: str) -> dict[str, _Row]:
    """Lines of a table by their key; keys lose their `.mp4`, which only the list of addresses leaves out itself."""
    if not path.is_file():
        if name == "crop_ratio":
            return {}
        raise DatasetError(f"expected HDTF's table {path}, found none; the five files of a group belong together")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as text ({error}); restore the published file") from error
    rows: dict[str, _Row] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key, *fields = line.split()
        row = _Row(f"{path}:{number}", key, tuple(fields))
        if name != "video_url":
            if not key.endswith(".mp4"):
                row.fail("a name that ends in .mp4")
            row = _Row(row.where, key.removesuffix(".mp4"), row.fields)
        if not re.fullmatch(r"[\w-]+", row.key):
            row.fail("a name of letters, digits, - and _")
        if row.key in rows:
            row.fail(f"every name once ({rows[row.key].where} has it too)")
        rows[row.key] = row
    return rows


def _url(row: _Row) -> str:
    if len(row.fields) != 1 or "://" not in row.fields[0]:
        row.fail("a name and an address")
    return row.fields[0]


def _height(row: _Row) -> int:
    if len(row.fields) != 1 or not row.fields[0].isdecimal():
        row.fail("a name and a number of lines")
    return int(row.fields[0])


def _ranges(row: _Row) -> list[tuple[float, float]]:
    if not row.fields:
        row.fail("a name and at least one range mm:ss-mm:ss")
    return [_range(row, field) for field in row.fields]


def _range(row: _Row, text: str) -> tuple[float, float]:
    match = re.fullmatch(r"(\d+):([0-5]\d)-(\d+):([0-5]\d)", text)
    if match is None:
        row.fail(f"ranges mm:ss-mm:ss ({text!r} is none)")
    values = [int(part) for part in match.groups()]
    start, end = float(60 * values[0] + values[1]), float(60 * values[2] + values[3])
    if end <= start:
        row.fail(f"ranges that end after they start ({text!r} does not)")
    return start, end


def _window(row: _Row) -> Window:
    """The order of the fields is x, width, y, height."""
    values = _numbers(row, int, 4, "a name, x, width, y and height in whole pixels")
    x, width, y, height = values
    if width != height or width < 8 or x < 0 or y < 0:
        row.fail("a square window of at least 8 pixels that starts inside the picture (x width y height)")
    return Window(x, y, width)


def _ratio(row: _Row) -> None:
    if not 0 < _numbers(row, float, 1, "a name and a factor")[0] < 10:
        row.fail("a factor between 0 and 10")


def _numbers(row: _Row, kind: Callable[[str], T], count: int, expected: str) -> list[T]:
    try:
        values = [kind(field) for field in row.fields]
    except ValueError:
        row.fail(expected)
    if len(values) != count:
        row.fail(expected)
    return values


def _check_segment(row: _Row, ranges: dict[str, list[tuple[float, float]]], times: Path) -> None:
    name, _, index = row.key.rpartition("_")
    if not index.isdecimal() or int(index) >= len(ranges.get(name, ())):
        row.fail(f"NAME_i.mp4 with i below NAME's number of ranges, {len(ranges.get(name, ()))} in {times}")
