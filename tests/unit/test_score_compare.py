"""Several folders of videos against the same real ones, in one table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lcp_bench.score_compare import main
from lcp_bench.video import write_video

CLIPS = 4


def write(folder: Path, amount: float, clips: int = CLIPS) -> None:
    """Small moving pictures; `amount` is how much noise they carry."""
    for clip in range(clips):
        generator = np.random.default_rng(clip)
        rows = np.linspace(40, 200, 64)[None, :, None, None] + 10 * np.sin(np.arange(40) / 3)[:, None, None, None]
        noise = amount * generator.standard_normal((40, 64, 64, 3))
        frames = np.clip(np.broadcast_to(rows, noise.shape) + 3 * clip + noise, 0, 255).astype(np.uint8)
        write_video(folder / f"c{clip}.mp4", frames, 25)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real videos, and two sets that are farther and farther from them; an empty folder for their features."""
    root, amounts = tmp_path_factory.mktemp("compared"), {"clean": 0.0, "near": 4.0, "far": 30.0}
    for name, amount in amounts.items():
        write(root / name, amount)
    return {name: root / name for name in (*amounts, "cache")}


def test_rows_stand_beside_each_other_with_n_interval_and_protocol(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "table.md"
    words = [f"near={folders['near']}", f"far={folders['far']}", "--reference", str(folders["clean"])]
    assert main([*words, "--metrics", "fvd", "--cache", str(folders["cache"]), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == shown
    assert "4 real clips; label `mini`" in shown and "Protocols: " in shown
    document = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    rows = {row["label"]: row["scores"] for row in document["rows"]}
    assert list(rows) == ["near", "far", "real"]
    for near, far, floor in zip(*rows.values(), strict=True):
        assert near["n"] == CLIPS and near["label"] == "mini"
        assert 0 < near["value"] < far["value"]
        assert floor["n"] == CLIPS // 2, "the floor compares halves"
    assert [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")][-3:] == [*rows]
    assert f"n={CLIPS // 2}" in shown.splitlines()[-3]


def test_a_clip_that_is_not_there_is_seen_in_the_n(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = shutil.copytree(folders["near"], tmp_path / "near")
    (near / "c3.mp4").unlink()
    words = [f"near={near}", "--reference", str(folders["clean"]), "--metrics", "fvd"]
    assert main([*words, "--cache", str(folders["cache"])]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| near"))
    assert "n=3" in row


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["near"], "LABEL=FOLDER, got 'near'"),
        (["real=REF"], "the label 'real' is taken"),
        (["a=REF", "a=REF"], "the label 'a' is taken"),
        (["a=REF", "--metrics", "fvd,psnr"], "got psnr"),
        (["a=nowhere"], "expected a folder of videos at nowhere"),
    ],
)
def test_wrong_words_are_refused(
    folders: dict[str, Path], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = str(folders["clean"])
    assert main([word.replace("REF", reference) for word in words] + ["--reference", reference]) == 2
    assert message in capsys.readouterr().err
