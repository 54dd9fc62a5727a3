"""The shipped mini: lips follow the sound, and identity comes from the portrait; four unseen people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lcp_bench.cli import main
from lcp_bench.data.synthetic.variants import write_variants
from lcp_bench.video import read_video
from metrics.mini import mini_metrics

PEOPLE = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `inputs` (the real clips), `damaged/VARIANT` and `runs`."""
    folder = tmp_path_factory.mktemp("mini")
    words = (
        "model=mini", "accel=none", "dataset=synth_hdtf", "metric=mini", f"dataset.synthetic.people={PEOPLE}",
        "dataset.synthetic.seconds=1.28", f"dataset.root={folder / 'inputs'}", f"paths.runs={folder / 'runs'}",
        "measure.warmup_clips=0", "run.threads=1",
    )  # fmt: skip
    assert main(words) == 0
    write_variants(folder / "inputs", folder / "damaged", ("wrong_sound", "blur"))
    return folder


def videos(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.mp4"))}


def run_of(folder: Path) -> Path:
    (record,) = folder.glob("runs/*/record.json")
    return record.parent


def test_lips_follow_the_sound(generated: Path) -> None:
    sync = mini_metrics(("sync",))["sync"]
    confidence = {}
    for label, folder in (
        ("real", generated / "inputs" / "clips"),
        ("wrong_sound", generated / "damaged" / "wrong_sound"),
        ("mini", run_of(generated) / "clips"),
    ):
        scores = {score.name: score for score in sync.scores(sync.features(videos(folder)))}  # type: ignore[call-arg]
        assert scores["sync_c"].n == PEOPLE
        confidence[label] = scores["sync_c"].value
    low, high = confidence["wrong_sound"], confidence["real"]
    assert low is not None and high is not None and confidence["mini"] is not None
    assert confidence["mini"] > low + 0.45 * (high - low), confidence


def test_identity_comes_from_the_portrait(generated: Path) -> None:
    real = {name: read_video(path).astype(float) for name, path in videos(generated / "inputs" / "clips").items()}
    made = {name: read_video(path).astype(float) for name, path in videos(run_of(generated) / "clips").items()}
    distance = np.array(
        [[np.abs(video.mean(0) - other.mean(0)).mean() for other in real.values()] for video in made.values()]
    )
    own, others = np.diag(distance), distance[~np.eye(PEOPLE, dtype=bool)]
    assert own.max() < 0.4 * others.min(), distance


def test_faces_move_and_are_scored(generated: Path) -> None:
    record = json.loads((run_of(generated) / "record.json").read_text())
    (block,) = record["quality"].values()
    assert {"fvd_motion", "fid", "efid", "sync_c"} <= set(block["scores"]["videos"])
    for path in videos(run_of(generated) / "clips").values():
        frames = read_video(path).astype(float)
        assert frames.shape == (32, 64, 64, 3)
        moved = np.abs(frames[1:] - frames[:-1]).mean(axis=(1, 2, 3))
        assert moved.mean() > 0.3, "a talking head does not stand still"
        assert moved[15] < 4 * np.median(moved), "segments join without a jump"
