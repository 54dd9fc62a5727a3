"""What metrics cost: the scaling, the record that grows part by part, and the page made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.provenance import git_state
from lcp_bench.score_cost import as_markdown, main, open_record, parse_parts
from lcp_bench.score_cost_part import CLIPS, Seconds, _hundred, _pairs, measure_metric
from lcp_bench.video import write_video
from metrics.cache import Gap
from metrics.metric import FeatureSet
from metrics.protocol import FvdProtocol

CLIPS_OF = {"n": 4, "drawn": True, "mean_frames": 110.0, "sizes": ["512x512"]}


def row(metric: str, **changes: Any) -> dict[str, Any]:
    return {
        "set": "mini", "metric": metric, "n": 4, "n_ok": 4, "features_cpu_s_per_100": 141.2,
        "cached_cpu_s_per_100": 0.0857, "scores_cpu_s_at_100": 0.56, "load_cpu_s": 0.01, "loaded_bytes": 347_000_000,
        "peak_bytes": 662_000_000, **changes,
    }  # fmt: skip


def test_parts_are_chosen_and_named() -> None:
    assert parse_parts("seeded-v1,mini", "sync,s3fd") == [
        ("mini", "sync"), ("seeded-v1", "sync"), ("seeded-v1", "s3fd")
    ]  # fmt: skip
    for sets, metrics, message in (
        ("paper", "fvd", r"--sets.*'paper'"),
        ("mini", "fvd,psnr", r"--metrics.*'psnr'"),
        ("mini", "s3fd", "something to measure"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_parts(sets, metrics)


def test_a_hundred_clips_of_a_few() -> None:
    """All measured clips occur equally often, gaps are gone, and the partner set is another one."""
    arrays = {name: {"features": np.full(2, value)} for value, name in enumerate("abcd")}
    left, right = _hundred(FeatureSet(FvdProtocol(), arrays, {"e": Gap("missing", "gone")}))
    assert len(left.arrays) == len(right.arrays) == CLIPS and not left.gaps
    values = [each["features"][0] for each in left.arrays.values()]
    assert [values.count(value) for value in range(4)] == [25] * 4
    assert all(left.arrays[clip]["features"][0] != right.arrays[clip]["features"][0] for clip in left.arrays)
    assert Seconds(1.0, 2.0).scaled(25.0) == Seconds(25.0, 50.0)
    paths = {name: Path(name) for name in "abc"}
    assert _pairs(paths) == {
        "a": (Path("a"), Path("b")), "b": (Path("b"), Path("c")), "c": (Path("c"), Path("a"))
    }  # fmt: skip


def test_the_record_goes_on_only_where_it_was_measured_alike(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    document = open_record(path, CLIPS_OF, 1)
    assert document["rows"] == [] and document["clips"] == CLIPS_OF
    path.write_text(json.dumps(document | {"rows": [row("fvd")]}))
    assert open_record(path, CLIPS_OF, 1)["rows"] == [row("fvd")]
    for clips, threads in ((CLIPS_OF | {"n": 8}, 1), (CLIPS_OF, 2)):
        with pytest.raises(ConfigError, match="other clips or threads"):
            open_record(path, clips, threads)


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    document = open_record(tmp_path / "none.json", CLIPS_OF, 1)
    detector = row("s3fd", set="seeded-v1", cached_cpu_s_per_100=None, scores_cpu_s_at_100=None)
    text = as_markdown(document | {"rows": [detector, row("sync", n_ok=3), row("fvd")]})
    assert "4 drawn people of 110 frames, 512x512 pixels" in text and "scaled to 100 clips" in text
    lines = [line for line in text.splitlines() if line.startswith(("| mini", "| seeded"))]
    assert lines == [
        "| mini | fvd | 141 | 0.0857 | 0.56 | 0.01 | 662 | 347 |",
        "| mini | sync (3 of 4 clips scored) | 141 | 0.0857 | 0.56 | 0.01 | 662 | 347 |",
        "| seeded-v1 | s3fd | 141 |  |  | 0.01 | 662 | 347 |",
    ]


def test_the_committed_page_is_that_of_the_committed_record(repository: Path) -> None:
    record, page = repository / "results/metric-cost.json", repository / "docs/metric-cost.md"
    assert record.is_file() == page.is_file()
    document = json.loads(record.read_text()) if record.is_file() else {"rows": []}
    if record.is_file():
        assert page.read_text() == as_markdown(document)
    for each in document["rows"]:
        assert each["n"] >= 4 and each["n_ok"] >= each["n"] / 2, "a clip that cannot be scored costs too little"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Three clips of noise without sound."""
    folder = tmp_path / "videos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in "abc":
        write_video(folder / f"{name}.mp4", draw.integers(0, 255, (18, 64, 64, 3)).astype(np.uint8), 25)
    return folder


def test_one_metric(videos: Path) -> None:
    """The second time is cheaper, everything is scaled from 3 clips to 100."""
    found = measure_metric("mini", "fvd", {path.stem: path for path in sorted(videos.iterdir())})
    assert (found["set"], found["metric"], found["n"], found["n_ok"], found["gaps"]) == ("mini", "fvd", 3, 3, [])
    assert 0 < found["cached_cpu_s_per_100"] < found["features_cpu_s_per_100"]
    assert found["scores_s_at_100"] > 0
    assert 50e6 < found["loaded_bytes"] <= found["peak_bytes"]


@pytest.mark.slow
def test_the_command(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two calls fill one record; a metric that cannot score the clips says so."""
    words = [str(videos), "--sets", "mini", "--out", str(tmp_path / "c.json"), "--table", str(tmp_path / "docs/c.md")]
    assert main([*words, "--metrics", "fvd"]) == 0
    assert main([*words, "--metrics", "fidelity"]) == 0
    document = json.loads((tmp_path / "c.json").read_text())
    assert [each["metric"] for each in document["rows"]] == ["fvd", "fidelity"]
    assert all(each["git"] == git_state() for each in document["rows"]), "parts may be of different commits"
    assert (tmp_path / "docs/c.md").read_text() == as_markdown(document)
    assert main([*words, "--metrics", "sync"]) == 2
    assert "none of the clips could be scored" in capsys.readouterr().err
