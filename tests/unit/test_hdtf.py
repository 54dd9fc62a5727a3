"""HDTF's published tables are read as they are; anything else that is wrong is named by file and line."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import pytest

from lcp_bench.data.hdtf import hdtf_sources, identity_of
from lcp_bench.data.hdtf_annotations import TABLES, annotations_hash, read_annotations
from lcp_bench.data.selection import choose
from lcp_bench.errors import DatasetError
from prepare_sources import EXCERPT


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    shutil.copytree(EXCERPT, folder)
    return folder


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def replace_line(path: Path, starts: str, line: str) -> int:
    """Puts `line` in place of the one that starts so (or at the end); its number."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number = next((index for index, each in enumerate(lines) if each.startswith(starts)), len(lines))
    lines[number : number + 1] = [line]
    path.write_text("\n".join(lines), encoding="utf-8")
    return number + 1


def test_published_tables_are_read_whole(shared_dir: Path, nothing: Path) -> None:
    folder = shared_dir / "data/hdtf_annotations"
    videos = read_annotations(folder)
    assert Counter(each.group for each in videos) == {"RD": 56, "WDA": 183, "WRA": 130}
    segments = [(each.group, segment) for each in videos for segment in each.segments]
    assert Counter(group for group, _ in segments) == {"RD": 66, "WDA": 195, "WRA": 175}
    windows = Counter(group for group, segment in segments if segment.window)
    assert windows == {"RD": 64, "WDA": 189, "WRA": 168}
    assert sum(segment.end_s - segment.start_s for _, segment in segments) / 3600 == pytest.approx(17.07, abs=0.005)
    sources = hdtf_sources(folder, nothing, 5.0)
    assert len({each.id for each in sources}) == 369 and {each.seconds for each in sources} == {5.0}
    # 13 videos of which no segment has a window, one of height 0, three windows larger than the listed picture.
    assert Counter(each.crop is None for each in sources) == {False: 352, True: 17}
    assert len({each.identity for each in sources}) == 275


def test_the_choice_of_the_published_tables_is_pinned(shared_dir: Path, nothing: Path) -> None:
    sources = hdtf_sources(shared_dir / "data/hdtf_annotations", nothing, 5.0)
    chosen = choose((each for each in sources if each.crop), 100, 0, lambda _: True)
    assert len({each.identity for each in chosen}) == 100
    assert [each.id for each in chosen[:3]] == ["WRA_JimRisch_000", "WDA_JanSchakowsky0_000", "WRA_VickyHartzler_000"]
    assert hashlib.sha256("\n".join(each.id for each in chosen).encode()).hexdigest()[:16] == "bea70fb16c48f931"


def test_excerpt_is_published_lines(shared_dir: Path) -> None:
    for path in EXCERPT.glob("*.txt"):
        published = (shared_dir / "data/hdtf_annotations" / path.name).read_bytes().splitlines()
        assert set(path.read_bytes().splitlines()) <= set(published)


def test_excerpt_of_odd_cases(nothing: Path) -> None:
    sources = {each.id: each for each in hdtf_sources(EXCERPT, nothing, 5.0)}
    assert len(sources) == 21
    later = sources["WRA_MittRomney_000"]
    assert (later.start_s, later.seconds, later.identity) == (490.0, 5.0, "MittRomney")
    assert later.url == "https://www.youtube.com/watch?v=" + (later.url or "")[-11:]
    unusable = {key: each.reason or "" for key, each in sources.items() if each.crop is None}
    assert set(unusable) == {"RD_Radio6_000", "WDA_ByronDorgan0_000", "WDA_MaggieHassan_000", "WRA_KevinMcCarthy1_000"}
    assert "no crop window" in unusable["RD_Radio6_000"] and "0 as the height" in unusable["WRA_KevinMcCarthy1_000"]
    assert "larger than the listed picture (720 lines)" in unusable["WDA_MaggieHassan_000"]
    assert all(f"in {nothing}" in (each.reason or "") for each in sources.values() if each.crop)
    whole = {each.id: each for each in hdtf_sources(EXCERPT, nothing, None)}
    assert whole["WRA_MittRomney_000"].seconds == 20.0


def test_a_later_segment_is_taken_when_the_first_has_no_window(tables: Path, nothing: Path) -> None:
    replace_line(tables / "RD_crop_wh.txt", "Radio11_0.mp4", "")
    source = next(each for each in hdtf_sources(tables, nothing, 5.0) if "Radio11" in each.id)
    assert (source.id, source.start_s) == ("RD_Radio11_001", 90.0)


@pytest.mark.parametrize(
    ("group", "name", "person"),
    [
        ("WDA", "CarolynMaloney2", "CarolynMaloney"),
        ("WDA", "WhipJimClyburn", "JamesClyburn"),
        ("WRA", "AllenWest", "AllenWest"),
        ("RD", "Radio11", "RD_Radio11"),
    ],
)
def test_identity(group: str, name: str, person: str) -> None:
    assert identity_of(group, name) == person


@pytest.mark.parametrize(
    ("table", "starts", "line", "message"),
    [
        ("WDA_annotion_time.txt", "AndyKim", "AndyKim.mp4 00:02-4.40", "'00:02-4.40' is none"),
        ("WDA_annotion_time.txt", "AndyKim", "AndyKim.mp4 04:02-00:40", "end after they start"),
        ("WDA_annotion_time.txt", "AndyKim", "AndyKim.mp4", "at least one range"),
        ("WDA_annotion_time.txt", "AndyKim", "AndyKim 00:02-04:40", r"ends in \.mp4"),
        ("WDA_annotion_time.txt", "AndyKim", "AdamSmith.mp4 00:02-04:40", r"every name once .*:1 has it too"),
        ("WDA_crop_wh.txt", "AndyKim", "AndyKim_0.mp4 596 823 0 822", "a square window"),
        ("WDA_crop_wh.txt", "AndyKim", "AndyKim_0.mp4 596 823 0", "x, width, y and height"),
        ("WDA_crop_wh.txt", "AndyKim", "AndyKim_0.mp4 596 8z3 0 823", "whole pixels"),
        ("WDA_crop_wh.txt", "AndyKim", "AndyKim_1.mp4 596 823 0 823", "number of ranges, 1 in .*WDA_annotion_time"),
        ("WDA_crop_wh.txt", "AndyKim", "AndyKlm_0.mp4 596 823 0 823", "number of ranges, 0 in"),
        ("WDA_crop_ratio.txt", "AndyKim", "AndyKim_0.mp4 x", "a factor"),
        ("WDA_resolution.txt", "AndyKim", "AndyKim.mp4 HD", "a number of lines"),
        ("WDA_video_url.txt", "AndyKim", "AndyKim", "an address"),
        ("WDA_video_url.txt", "AndyKim", "../AndyKim https://a.b", "letters, digits"),
    ],
)
def test_malformed_lines_are_named(
    tables: Path, nothing: Path, table: str, starts: str, line: str, message: str
) -> None:
    number = replace_line(tables / table, starts, line)
    with pytest.raises(DatasetError, match=rf"{table}:{number}: .*{message}"):
        hdtf_sources(tables, nothing, 5.0)


@pytest.mark.parametrize("table", ["resolution", "video_url"])
def test_tables_that_disagree_are_named(tables: Path, nothing: Path, table: str) -> None:
    replace_line(tables / f"WDA_{table}.txt", "AndyKim", "")
    with pytest.raises(DatasetError, match=rf"WDA_annotion_time\.txt:\d: AndyKim .* no line in .*WDA_{table}\.txt"):
        hdtf_sources(tables, nothing, 5.0)


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_named(tables: Path, nothing: Path, table: str) -> None:
    (tables / f"RD_{table}.txt").unlink()
    if table == "crop_ratio":
        assert len(hdtf_sources(tables, nothing, 5.0)) == 21
    else:
        with pytest.raises(DatasetError, match=rf"RD_{table}\.txt, found none"):
            hdtf_sources(tables, nothing, 5.0)


def test_groups_may_be_absent_as_a_whole(tables: Path, nothing: Path) -> None:
    whole = annotations_hash(tables)
    for table in TABLES:
        (tables / f"RD_{table}.txt").unlink()
    assert len(hdtf_sources(tables, nothing, 5.0)) == 17 and annotations_hash(tables) != whole
    with pytest.raises(DatasetError, match="annotation files.*annotations=FOLDER"):
        hdtf_sources(nothing, nothing, 5.0)
    with pytest.raises(DatasetError, match="sources=FOLDER"):
        hdtf_sources(tables, nothing / "nowhere", 5.0)


@pytest.mark.parametrize(
    ("files", "taken", "sound"),
    [
        (["AdamSmith.mp4"], "AdamSmith.mp4", None),
        (["WDA/AdamSmith.mkv"], "WDA/AdamSmith.mkv", None),
        (["WDA_AdamSmith.webm", "WDA_AdamSmith.m4a"], "WDA_AdamSmith.webm", "WDA_AdamSmith.m4a"),
        (["AdamSmith.webm", "AdamSmith.mp4", "AdamSmith.mp4.part"], "AdamSmith.mp4", None),
        (["WRA/AdamSmith.mp4", "AdamSmith.f137.mp4"], None, None),
    ],
)
def test_names_of_videos(nothing: Path, files: list[str], taken: str | None, sound: str | None) -> None:
    for file in files:
        (nothing / file).parent.mkdir(exist_ok=True)
        (nothing / file).touch()
    source = next(each for each in hdtf_sources(EXCERPT, nothing, 5.0) if "AdamSmith" in each.id)
    assert source.video == (nothing / taken if taken else None) and (source.reason is None) == bool(taken)
    assert source.audio == (nothing / sound if sound else None)
