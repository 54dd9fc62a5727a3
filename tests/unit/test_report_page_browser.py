"""The report page in a real browser: opens from a folder without network, plays in step, reports no error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import READY, Browser, chromium
from report_records import write_records

from lcp_bench.report.page import write_page
from lcp_bench.store import RunStore, list_records, read_rows
from lcp_bench.video import write_video

VIDEOS = "[...document.querySelector('[data-viewer]').querySelectorAll('video')]"
DRAWN = f"{READY} && {VIDEOS}.length > 1"
pytestmark = pytest.mark.slow


def _click(role: str) -> str:
    return f"document.querySelector('[data-role={role}]').click()"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of mini's runs whose frames say their number by brightness; lcp's are brighter than those of none."""
    chromium()  # skips before the work
    folder = tmp_path_factory.mktemp("browser")
    write_records(folder / "runs", models=["mini"], strategies=("none", "lcp"), people=1, extras=False)
    for run in list_records(folder / "runs"):
        extra = 30 if run.record is not None and run.record["accel"]["name"] == "lcp" else 0
        for row in read_rows(run.path / "rows.jsonl").rows:
            frames = np.stack([np.full((64, 64, 3), 4 * number + extra, np.uint8) for number in range(50)])
            write_video(RunStore(folder / "runs", run.run_id).clip_path(row["clip"]), frames, 25)
    return write_page(folder / "runs", folder / "page")


@pytest.fixture
def browser(index: Path) -> Iterator[Browser]:
    with Browser() as opened:
        opened.open(index)
        opened.show("[data-viewer]")
        opened.wait(DRAWN)
        yield opened
        assert opened.problems == []
        assert [address for address in opened.loaded if not address.startswith(("file://", "data:"))] == []


def test_videos_play_in_step(browser: Browser, tmp_path: Path) -> None:
    browser.run(_click("play"))
    browser.wait(f"{VIDEOS}.every((video) => !video.paused && video.currentTime > 0.2)")
    browser.run(_click("play"))
    browser.wait(READY)
    times = browser.run(f"{VIDEOS}.map((video) => video.currentTime)")
    assert max(times) - min(times) < 1e-6 and times[0] > 0.2
    browser.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_step_is_one_frame_and_the_difference_is_that_of_equal_frames(browser: Browser) -> None:
    for _ in range(7):
        browser.run(_click("forward"))
    browser.wait(f"{READY} && document.querySelector('[data-role=time]').textContent === 'frame 8 of 50'")
    browser.run("new Promise((done) => setTimeout(done, 500))")
    # A page opened from disk may not read pixels, so look at them from outside: brightness is amplified four times.
    shown = browser.run("document.querySelector('[data-viewer]').querySelectorAll('canvas:not([hidden])').length")
    assert shown == 3  # two mouths and one difference: none is the baseline itself
    box = browser.run(
        "document.querySelectorAll('.column')[1].querySelector('canvas').getBoundingClientRect().toJSON()"
    )
    middle = browser.pixel(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + browser.run("scrollY"))
    assert all(abs(value - 4 * 30) <= 16 for value in middle)


def test_another_clip_replaces_the_videos(browser: Browser) -> None:
    before = browser.run(f"{VIDEOS}.map((video) => video.src)")
    browser.run("document.querySelectorAll('[data-role=clips] button')[1].click()")
    browser.wait(DRAWN)
    after = browser.run(f"{VIDEOS}.map((video) => video.src)")
    assert len(after) == len(before) and not set(after) & set(before)
    assert "comparison-1-data" in browser.run("location.hash")


def test_columns_can_be_left_out(browser: Browser) -> None:
    browser.run("document.querySelectorAll('[data-role=columns] input')[0].click()")
    browser.wait(f"{READY} && {VIDEOS}.length === 1")
    assert "its baseline is not shown" in browser.run("document.querySelector('.stage').textContent")
