"""The report page as files: links that lead somewhere, nothing unescaped, nothing lost, nothing foreign overwritten."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from report_records import write_records

from lcp_bench.errors import ConfigError
from lcp_bench.report import page_sections
from lcp_bench.report.__main__ import main
from lcp_bench.report.page import write_page
from lcp_bench.report.page_clips import LOWER_MIDDLE, make_viewer
from lcp_bench.report.page_sections import make_sections
from lcp_bench.store import RunStore, list_records, read_rows

RecordMaker = Callable[..., dict[str, Any]]
EVIL = "</script><script>alert('x')</script>\"&"


class Addresses(HTMLParser):
    """Every address of a page, and the JSON blocks in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.blocks: list[Any] = []
        self._in_json = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value for name, value in attrs if name in ("href", "src") and value]
        self._in_json = tag == "script" and ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_json and data.strip():
            self.blocks.append(json.loads(data))


@pytest.fixture(autouse=True)
def plain_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a page, and has tests of its own."""
    for name in ("pareto_svg", "stages_svg"):
        monkeypatch.setattr(page_sections, name, lambda *what, **titles: f"<svg><!-- {what} {titles} --></svg>")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of mini with (empty) videos, among them a partial one, a seeded one and one with a failed clip."""
    folder = tmp_path_factory.mktemp("page") / "runs"
    write_records(folder, models=["mini"], strategies=("none", "deepcache", "lcp"), people=2)
    for run in list_records(folder):
        for row in read_rows(run.path / "rows.jsonl").rows:
            if row["status"] == "ok":
                path = RunStore(folder, run.run_id).clip_path(row["clip"])
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"video")
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_address_is_a_file_of_the_folder(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["html", "--runs", str(made), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    text = (out / "index.html").read_text("utf-8")
    page = Addresses(text)
    videos = [
        cell["src"] for block in page.blocks for each in block["sources"] for cell in each["cells"] if "src" in cell
    ]
    local = [address for address in [*page.found, *videos] if not address.startswith(("#", "data:,"))]
    assert [address for address in local if not (out / unquote(address)).is_file()] == []
    assert not re.search(r"https?:", text)
    records = [run for run in list_records(made) if run.record is not None]
    assert {f"runs/{run.run_id}/record.json" for run in records} <= set(local)
    assert len(videos) == sum(run.record["clips"]["n_ok"] for run in records if run.record)
    assert any(
        cell.get("reason", "").startswith("failed at") for b in page.blocks for s in b["sources"] for cell in s["cells"]
    )


def test_equal_records_give_equal_bytes_and_what_is_gone_is_removed(runs: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    write_page(runs, first)
    write_page(runs, second)
    assert _files(first) == _files(second)
    gone = next(run for run in list_records(runs) if run.record and run.record["accel"]["name"] == "deepcache")
    shutil.rmtree(gone.path)
    write_page(runs, first)
    assert not (first / "runs" / gone.run_id).exists()
    assert gone.run_id not in (first / "index.html").read_text("utf-8")
    shutil.rmtree(second)
    write_page(runs, second)
    assert _files(first) == _files(second)


def test_other_peoples_folders_are_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="must be new, empty, or an earlier report"):
        write_page(made, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="give another: --out DIR"):
        write_page(made, tmp_path / "file")
    with pytest.raises(ConfigError, match="expected at least one record"):
        write_page(tmp_path / "nothing", tmp_path / "out")
    assert (tmp_path / "notes.txt").read_text() == "mine" and not (tmp_path / "out").exists()


def test_videos_can_be_linked_or_left_out(made: Path, tmp_path: Path) -> None:
    linked = write_page(made, tmp_path / "linked", videos="link")
    blocks = Addresses(linked.read_text("utf-8")).blocks
    sources = [cell["src"] for block in blocks for each in block["sources"] for cell in each["cells"] if "src" in cell]
    assert sources and all((linked.parent / unquote(address)).read_bytes() == b"video" for address in sources)
    assert not list((tmp_path / "linked").rglob("*.mp4"))
    left = write_page(made, tmp_path / "left", videos="none")
    assert Addresses(left.read_text("utf-8")).blocks == []


def test_names_and_reasons_are_escaped(tmp_path: Path, make_record: RecordMaker) -> None:
    record = make_record(EVIL, clips={"n_expected": 1, "n_ok": 1, "n_failed": 0, "failed": []})
    with RunStore(tmp_path / "runs", record["run_id"]) as store:
        store.append_row({"clip": EVIL, "status": "ok", "video": "clips/a.mp4"})
        store.append_row({"clip": "b", "status": "failed", "stage": "face", "reason": EVIL})
        (store.path / "clips" / "a.mp4").write_bytes(b"video")
        store.write_record(record)
    page = Addresses(write_page(tmp_path / "runs", tmp_path / "out").read_text("utf-8"))
    assert page.tags.count("script") == 2  # the page's own, and the viewer's data
    viewer = page.blocks[0]
    assert viewer["clips"][0]["id"] == EVIL and viewer["sources"][0]["cells"][1]["reason"] == f"failed at face: {EVIL}"


def test_a_row_cannot_name_a_file_outside_its_run(runs: Path, tmp_path: Path, make_record: RecordMaker) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    record = make_record("lcp", clips={"n_expected": 1, "n_ok": 1, "n_failed": 0, "failed": []})
    with RunStore(tmp_path / "evil", record["run_id"]) as store:
        store.append_row({"clip": "a", "status": "ok", "video": "../../secret.mp4"})
        store.write_record(record)
    viewer = make_viewer(list_records(tmp_path / "evil"), {record["run_id"]: "lcp"})
    assert viewer is not None and viewer.sources[0].cells["a"].video is None


def test_the_baseline_is_the_run_that_differs_in_the_strategy_only(made: Path) -> None:
    records = {run.run_id: run.record for run in list_records(made) if run.record is not None}
    pairs = 0
    for section in make_sections(list_records(made)):
        assert section.viewer is not None
        for source in section.viewer.sources:
            record = records[str(source.run_id)]
            if source.baseline is None:  # itself, or a seed and weights that nobody ran without
                assert (
                    record["accel"]["name"] == "none" or section.heading.startswith("seeded") or "lcp" in source.label
                )
                continue
            base = records[source.baseline]
            assert base["accel"]["name"] == "none" and base["labels"] == record["labels"]
            pairs += 1
    assert pairs >= 4


def test_sections_plot_scores_against_paired_speed(made: Path) -> None:
    section = make_sections(list_records(made))[0]
    assert section.lines[0].label == "none"  # everything else is looked at against it
    assert section.plots and all("speed-up over none" in plot.alt for plot in section.plots)
    assert len({strip.label for strip in section.strips}) == len(section.lines)
    assert [column.name.endswith("_minus_baseline") for column in section.score_columns] == sorted(
        column.name.endswith("_minus_baseline") for column in section.score_columns
    )


@pytest.mark.parametrize(
    ("known", "box", "source"),
    [
        ({"lip_box": [40, 60, 60, 70]}, (0.28, 0.215, 0.72, 0.435), "around the portrait's lip box"),
        ({"box": [20, 40, 80, 120]}, (0.2, 0.4, 0.8, 0.6), "lower half of the face box"),
        ({}, LOWER_MIDDLE, "lower middle of the picture"),
    ],
)
def test_the_mouth_comes_from_the_manifest(
    tmp_path: Path, make_record: RecordMaker, known: dict[str, Any], box: Any, source: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(np.zeros((200, 100, 3), np.uint8)).save(data / "a.png")
    (data / "a.mp4").write_bytes(b"real")
    entry = {"id": "a", "image": "a.png", "video": "a.mp4", "audio": "a.mp4", **known}
    lines = [{"schema": 1, "sha256": "0a1b2c3d" + "0" * 56}, entry]
    (data / "manifest.lcp.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = make_record(config={"dataset": {"root": str(data)}, "model": {"fps": 30.0}})
    with RunStore(tmp_path / "runs", record["run_id"]) as store:
        store.append_row({"clip": "a", "status": "ok", "video": "clips/a.mp4"})
        store.write_record(record)
    viewer = make_viewer(list_records(tmp_path / "runs"), {record["run_id"]: "none"})
    assert viewer is not None and viewer.fps == 30.0
    assert viewer.clips[0].mouth == pytest.approx(box) and viewer.clips[0].mouth_source == source
    assert viewer.sources[0].label == "real" and viewer.sources[0].cells["a"].video == data.resolve() / "a.mp4"
