"""The prepare command: from annotations and videos to a frozen data set, resumable, with every gap named."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcp_bench.data import load_dataset
from lcp_bench.data.manifest import Manifest
from lcp_bench.errors import DatasetError
from lcp_bench.prepare import main
from lcp_bench.video import probe, read_audio, read_video
from prepare_sources import EXCERPT, video

QUICK = ("clip_seconds=0.4", "image_size=64", "dataset.face_detector=manifest")
STARTS = {"AdamSmith": 2, "AndyKim": 2, "BarackObama": 2, "ByronDorgan1": 2, "DebFischer0": 2, "DebFischer1": 2}
"""Videos of the excerpt that start early: short sources do. DebFischer gives two, the others one person each."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hdtf_videos")
    for name, start in STARTS.items():
        video(folder / f"{name}.mp4", start + 0.6)
    video(folder / "CarolynMaloney1.mp4", 5.6)
    return folder


@pytest.fixture
def videos(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "videos"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prepared"


def words(videos: Path, root: Path, *more: str) -> list[str]:
    own = ["+dataset=hdtf", f"annotations={EXCERPT}", f"sources={videos}", f"dataset.root={root}"]
    given = {each.partition("=")[0] for each in more}
    return [*own, *(each for each in QUICK if each.partition("=")[0] not in given), *more]


def loaded(root: Path, name: str = "hdtf") -> Manifest:
    dataset: Any = SimpleNamespace(name=name, root=str(root))
    return load_dataset(dataset, SimpleNamespace(cache=""))  # type: ignore[arg-type]


def states(root: Path) -> dict[str, list[str]]:
    with (root / "sources.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {state: [row["id"] for row in rows if row["state"] == state] for state in {row["state"] for row in rows}}


def clips(root: Path) -> dict[str, tuple[int, bytes]]:
    found = (*root.glob("clips/*"), *root.glob("audio/*"))
    return {each.name: (each.stat().st_mtime_ns, each.read_bytes()) for each in found}


def test_videos_become_square_clips_and_a_frozen_manifest(
    videos: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(videos, root, "clips=5")) == 0
    said = capsys.readouterr().out
    assert "hdtf: 5 of 5 clips" in said and "7 of 21 available (10 missing, 0 broken, 4 unusable)" in said
    manifest = loaded(root)
    assert (manifest.dataset, len(manifest.clips)) == ("hdtf", 5)
    assert len({clip.identity for clip in manifest.clips}) == 5
    assert dict(manifest.options) | {"annotations_sha256": ""} == {
        **{"clips": 5, "seed": 0, "image_size": 64, "fps": 25, "face_detector": "manifest", "clip_seconds": 0.4},
        "annotations_sha256": "",
    }
    for clip in manifest.clips:
        assert clip.video == str(root / f"clips/{clip.id}.mp4") and clip.image is None
        assert clip.audio == str(root / f"audio/{clip.id}.wav") and read_audio(clip.audio).size == 6400
        info = probe(clip.video)
        assert (info.width, info.height, info.fps, info.frames) == (64, 64, 25, 10)
        assert (info.audio_rate_hz, info.audio_channels) == (16000, 1)
        assert clip.duration_s == 0.4 and info.audio_seconds == pytest.approx(0.4, abs=1e-3)
    assert {each.file for each in manifest.skipped} >= {"RD/Radio6", "WRA/MittRomney"}
    assert {each.name for each in root.iterdir()} == {
        *("clips", "audio", "cuts", "manifest.lcp.jsonl", "sources.csv", "missing_video_url.txt", ".prepare.lock")
    }


def test_crop_shows_the_listed_window(videos: Path, root: Path) -> None:
    assert main(words(videos, root, "clips=21")) == 0
    picture = read_video(root / "clips/WDA_AdamSmith_000.mp4")[0].astype(float)
    # AdamSmith_0 is x=532 y=0 side=958 at 1080 lines: in map_picture red is the column and green the row, 0..255.
    assert picture[32, :3, 0].mean() == pytest.approx((532 + 22) / 1920 * 255, abs=8)
    assert picture[32, -3:, 0].mean() == pytest.approx((532 + 958 - 22) / 1920 * 255, abs=8)
    assert picture[-3:, 32, 1].mean() == pytest.approx((958 - 22) / 1080 * 255, abs=8)
    note = json.loads((root / "cuts/WDA_AdamSmith_000.json").read_text())
    assert note["result"]["square"] == [53, 0, 96] and note["recipe"]["start_s"] == 2.0


def test_runner_gets_inputs_from_a_prepared_clip(videos: Path, root: Path) -> None:
    from lcp_bench.data.inputs import ModelInputSpec, prepare_clip

    assert main(words(videos, root, "clips=1")) == 0
    clip = replace(loaded(root).clips[0], box=(16.0, 16.0, 48.0, 48.0))
    inputs = prepare_clip(clip, ModelInputSpec(image_size=128, latent_size=16, fps=25, frames_per_segment=16))
    assert inputs.frame_count == 10 and inputs.waveform.shape == (6400,)


def test_gaps_are_listed_with_reasons_and_addresses(videos: Path, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (videos / "AndyKim.mp4").write_bytes((videos / "AdamSmith.mp4").read_bytes()[:4000])
    (videos / "BarackObama.mp4").write_bytes(b"")
    video(videos / "ByronDorgan1.mp4", 2.1)
    (videos / "AdamSmith.mp4").unlink()
    with caplog.at_level(logging.WARNING):
        assert main(words(videos, root)) == 0
    found = states(root)
    assert sorted(found["chosen"]) == ["WDA_CarolynMaloney1_000", "WRA_DebFischer0_000", "WRA_DebFischer1_000"]
    assert sorted(found["broken"]) == ["WDA_AndyKim_000", "WDA_BarackObama_000", "WDA_ByronDorgan1_000"]
    assert "WDA_AdamSmith_000" in found["missing"] and len(found["unusable"]) == 4
    reasons = {each.file: each.reason for each in loaded(root).skipped}
    assert "0 bytes" in reasons["WDA/BarackObama"] and "cannot be decoded" in reasons["WDA/AndyKim"]
    assert "sound goes from" in reasons["WDA/ByronDorgan1"] and "no video AdamSmith.mp4" in reasons["WDA/AdamSmith"]
    assert "WDA_BarackObama_000 is not used" in caplog.text
    addresses = (root / "missing_video_url.txt").read_text().splitlines()
    assert len(addresses) == len(found["missing"]) == 11
    published = (EXCERPT / "WDA_video_url.txt").read_text(encoding="utf-8-sig").splitlines()
    assert set(addresses) & set(published) and any(each.startswith("AdamSmith https://") for each in addresses)
    assert not list(root.glob("clips/.*"))


def test_nothing_available_still_lists_the_addresses(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    assert main(words(tmp_path / "none", root)) == 1
    said = capsys.readouterr().err
    assert "0 of 21 clips available (17 missing, 0 broken, 4 unusable)" in said and "missing_video_url.txt" in said
    assert len((root / "missing_video_url.txt").read_text().splitlines()) == 17
    assert not (root / "manifest.lcp.jsonl").exists()


def test_killed_in_the_middle_and_issued_again(videos: Path, root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lcp_bench.prepare", *words(videos, root, "image_size=256")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(root.glob("cuts/*.json"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (root / "manifest.lcp.jsonl").exists()
    with pytest.raises(DatasetError, match=r"begun \(\d clips are cut\)"):
        loaded(root)
    finished = {each.stem for each in root.glob("cuts/*.json")}
    before = {name: value for name, value in clips(root).items() if Path(name).stem in finished}
    assert 4 <= len(before) < 14
    # What a kill at the worst moments leaves: a clip without its note, half a file, half a note.
    (root / "clips/WDA_AndyKim_000.mp4").write_bytes(b"half")
    (root / "cuts/WDA_AndyKim_000.json").unlink(missing_ok=True)
    (root / "clips/.WDA_AndyKim_000.mp4.1.partial").write_bytes(b"half")
    before = {name: value for name, value in before.items() if "AndyKim" not in name}
    assert main(words(videos, root, "image_size=256")) == 0
    after = clips(root)
    assert before.items() <= after.items() and len(after) == 14 and not list(root.glob("*/.*"))
    straight = tmp_path / "straight"
    assert main(words(videos, straight, "image_size=256")) == 0
    assert loaded(root).sha256 == loaded(straight).sha256


def test_issued_again_nothing_is_cut(videos: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(videos, root, "clips=3")) == 0
    before, first = clips(root), loaded(root)
    shutil.rmtree(videos)
    videos.mkdir()
    assert main(words(videos, root, "clips=3")) == 0
    assert "3 of 3 clips" in (said := capsys.readouterr().out) and "(0 cut now)" in said
    assert clips(root) == before and loaded(root) == first


@pytest.mark.parametrize("field", ["video", "audio"])
@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_a_damaged_clip_is_cut_again(videos: Path, root: Path, damage: str, field: str) -> None:
    assert main(words(videos, root, "clips=3")) == 0
    first = loaded(root)
    path = Path(getattr(first.clips[1], field))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000]) if damage == "truncated" else path.unlink()
    with pytest.raises(DatasetError, match=path.name):
        loaded(root)
    assert main(words(videos, root, "clips=3")) == 0
    assert path.read_bytes() == whole and loaded(root) == first


def test_a_touched_source_does_not_move_a_frozen_clip(videos: Path, root: Path) -> None:
    assert main(words(videos, root, "clips=7")) == 0
    before = clips(root)
    video(videos / "AndyKim.mp4", 3, fps=25)
    assert main(words(videos, root, "clips=7")) == 0
    assert clips(root) == before
    assert main(words(videos, root, "clips=7", "refreeze=true")) == 0
    changed = {name for name, value in clips(root).items() if value != before[name]}
    assert changed == {"WDA_AndyKim_000.mp4", "WDA_AndyKim_000.wav"} and loaded(root)


def test_later_videos_are_told_and_taken_in_on_request(
    videos: Path, root: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    late = (videos / "AndyKim.mp4").rename(videos.parent / "AndyKim.mp4")
    assert main(words(videos, root)) == 0
    first = loaded(root)
    late.rename(videos / "AndyKim.mp4")
    (root / "foreground").mkdir()
    Image.new("1", (4, 4), 1).save(root / "foreground" / f"{first.clips[0].id}.png")
    with caplog.at_level(logging.WARNING):
        assert main(words(videos, root)) == 0
    assert "6 of 100 clips; 1 further sources" in caplog.text and "refreeze=true" in caplog.text
    assert f"has files for 1 clips that the frozen manifest takes without ({first.clips[0].id})" in caplog.text
    assert loaded(root) == first
    assert main(words(videos, root, "refreeze=true")) == 0
    assert len(loaded(root).clips) == 7 and loaded(root).sha256 != first.sha256
    assert [clip.id for clip in loaded(root).clips if clip.foreground] == [first.clips[0].id]
    assert "(1 cut now)" in capsys.readouterr().out


def test_other_options_need_another_root_or_refreeze(
    videos: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(videos, root, "clips=3")) == 0
    before = clips(root)
    assert main(words(videos, root, "clips=2", "seed=1")) == 1
    assert "clips was 3, is 2, seed was 0, is 1" in capsys.readouterr().err and clips(root) == before
    assert main(words(videos, root, "clips=2", "seed=1", "refreeze=true")) == 0
    assert len(loaded(root).clips) == 2 and len(clips(root)) == 4


def test_a_second_process_waits_outside(videos: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    root.mkdir()
    with (root / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(words(videos, root)) == 1
    assert "another process is preparing" in capsys.readouterr().err


def test_an_unprepared_root_names_the_command(tmp_path: Path, videos: Path, root: Path) -> None:
    with pytest.raises(DatasetError, match=r"python -m lcp_bench\.prepare \+dataset=hdtf annotations=.*root=.*x"):
        loaded(tmp_path / "x")
    with pytest.raises(DatasetError, match=r"prepare \+dataset=mead sources="):
        loaded(tmp_path / "x", "mead")
    assert main(words(videos, root, "clips=1")) == 0
    with pytest.raises(DatasetError, match=r"lists the data set 'hdtf', expected 'mead'"):
        loaded(root, "mead")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["clps=5"], "did you mean 'clips'"),
        (["clips=0"], "clips must be 1 or more"),
        (["clips=ten"], "clips must be an integer"),
        (["clips=5", "clips=6"], "given twice"),
        (["image_size=65"], "even number"),
        (["clip_seconds=0"], "clip_seconds"),
        (["refreeze=1"], "true or false"),
        (["dataset.rot=x"], "did you mean"),
        (["sources="], "given twice"),
    ],
)
def test_wrong_words(
    videos: Path, root: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*words(videos, root)[:4], *more]
    assert main(given) == 2
    assert message in capsys.readouterr().err and not root.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no dataset given; choose one of: hdtf, mead"),
        (["+dataset=demo", "sources=x"], "needs no preparation"),
        (["+dataset=hdtf", "sources=x"], "annotations is missing"),
        (["+dataset=hdtf", "annotations=x"], "sources is missing"),
        (["+dataset=mead", "sources=x", "annotations=y"], "annotations must be absent for mead"),
    ],
)
def test_incomplete_commands(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    assert message in capsys.readouterr().err


def test_malformed_annotations_end_the_command_with_one_line(
    videos: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EXCERPT, tmp_path / "tables")
    with (tmp_path / "tables/WRA_crop_wh.txt").open("a") as file:
        file.write("\nDebFischer0_1.mp4 1 2 3 4\n")
    assert main([*words(videos, root), f"annotations={tmp_path / 'tables'}"][1:]) == 2  # no data set, and twice
    capsys.readouterr()
    given = [
        f"annotations={tmp_path / 'tables'}" if each.startswith("annotations") else each for each in words(videos, root)
    ]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert "WRA_crop_wh.txt:" in said and said.count("\n") == 1 and not root.exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "+dataset=hdtf annotations=FOLDER" in capsys.readouterr().out


def test_flat_sound_beside_a_video_without_any(tmp_path: Path, root: Path) -> None:
    from lcp_bench.data.demo import wav_bytes
    from prepare_sources import hum

    folder = tmp_path / "mute"
    folder.mkdir()
    video(folder / "AndyKim.mp4", 2.6, silent=True)
    assert main(words(folder, root)) == 1
    (folder / "AndyKim.wav").write_bytes(wav_bytes(hum(2.6, 16000)))
    assert main(words(folder, root)) == 0
    assert [clip.id for clip in loaded(root).clips] == ["WDA_AndyKim_000"]
    assert np.abs(read_video(root / "clips/WDA_AndyKim_000.mp4")).max() > 0
