"""The mini lip-sync network on real faces: the framing, the table, and every real clip of the pack."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lcp_bench.sync_clips import BOX_SIDE, BOX_X, BOX_Y, TrackedMiniSync, as_document, as_drawn, as_markdown, rows_of
from metrics.cache import Gap
from metrics.metric import FeatureSet
from metrics.mini import SHIPPED, load_mini
from metrics.nets.mini import SIDE
from metrics.protocol import SyncProtocol

SIBLINGS = ("web_02", "web_03", "web_09", "web_10", "web_11", "web_12", "web_13")
"""Clips of the person of desync_01, whose sound is 3 to 5 frames late at the source."""


def test_a_face_comes_to_lie_where_drawn_ones_do() -> None:
    """A white box anywhere, of any size, fills the same pixels of the small picture."""
    for x, y, side in ((120, 90, 80), (300, 200, 160)):
        frame = np.zeros((400, 500, 3), np.uint8)
        frame[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2] = 255
        small = as_drawn(frame, side, x, y)
        assert small.shape == (SIDE, SIDE, 3)
        rows, columns = np.nonzero(small[..., 0] > 127)
        assert columns.mean() == pytest.approx(BOX_X * SIDE, abs=1) and rows.mean() == pytest.approx(
            BOX_Y * SIDE, abs=1
        )
        assert columns.max() - columns.min() + 1 == pytest.approx(BOX_SIDE * SIDE, abs=2)


def test_rows_and_gaps_are_complete() -> None:
    """The longest of two tracks counts; a clip without a track is a line with its reason."""
    arrays = {
        "two": {
            "lse_c": np.array([0.1, 0.2]), "lse_d": np.array([1.0, 1.1]), "offset": np.array([7, -1]),
            "first": np.array([0, 10]), "last": np.array([59, 120]),
        }
    }  # fmt: skip
    found = FeatureSet(SyncProtocol(), arrays, {"silent": Gap("no sound", "silent.mp4 has no sound")})
    assert rows_of(found) == [{"clip": "two", "frames": 111, "lse_c": 0.2, "lse_d": 1.1, "offset": -1}]
    text = as_markdown(as_document(found))
    assert "| two | 111 | 0.200 | 1.100 | -1 |" in text
    assert "1 of 2 clips have a score; 1 of them an offset within 2 frames." in text
    assert "| silent | no sound: silent.mp4 has no sound |" in text


def test_the_committed_page_has_the_committed_numbers(repository: Path) -> None:
    document = json.loads((repository / "results/metric-real-clips.json").read_text())
    assert as_markdown(document).strip() in (repository / "docs/metric-real-clips.md").read_text()


@pytest.mark.slow
def test_real_talking_clips(shared_dir: Path, repository: Path) -> None:
    """From mp4 to LSE-C, LSE-D and offset: the late clip, two siblings and two that cannot be scored; as committed."""
    folder = shared_dir / "data" / "real" / "clips"
    names = ("desync_01", "web_02", "web_09", "expr_02", "nobody_01")
    found = TrackedMiniSync(load_mini("sync", SHIPPED)).features({name: folder / f"{name}.mp4" for name in names})
    assert {clip: gap.reason for clip, gap in found.gaps.items()} == {"expr_02": "no sound", "nobody_01": "missing"}
    rows = {row["clip"]: row for row in rows_of(found)}
    assert rows["desync_01"]["offset"] < min(rows[name]["offset"] for name in ("web_02", "web_09")), "sound late"
    document = json.loads((repository / "results/metric-real-clips.json").read_text())
    committed = {row["clip"]: row for row in document["clips"]}
    for clip, row in rows.items():
        assert (row["frames"], row["offset"]) == (committed[clip]["frames"], committed[clip]["offset"])
        assert row["lse_c"] == pytest.approx(committed[clip]["lse_c"], abs=0.02)


def test_every_real_clip_is_scored_or_named(shared_dir: Path, repository: Path) -> None:
    """The committed record accounts for the whole folder."""
    document = json.loads((repository / "results/metric-real-clips.json").read_text())
    named = {each["clip"] for kind in ("clips", "gaps") for each in document[kind]}
    assert named == {path.stem for path in (shared_dir / "data/real/clips").glob("*.mp4")}
    assert all(gap["message"] for gap in document["gaps"])
    offsets = {row["clip"]: row["offset"] for row in document["clips"]}
    assert offsets["desync_01"] < np.median([offsets[name] for name in SIBLINGS])
