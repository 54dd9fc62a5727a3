"""MEAD's folder tree becomes a prepared data set, balanced over actors, emotions and levels."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from lcp_bench.data import load_dataset
from lcp_bench.data.demo import wav_bytes
from lcp_bench.data.manifest import Manifest
from lcp_bench.data.mead import mead_sources
from lcp_bench.data.prepare_crop import FaceWindow
from lcp_bench.errors import DatasetError
from lcp_bench.prepare import main
from lcp_bench.video import probe, read_audio, read_video, write_video
from prepare_sources import hum, video

CROP = FaceWindow(2.0, "cascade")
CELLS = [("neutral", 1), *[(emotion, level) for emotion in ("angry", "happy", "sad") for level in (1, 2, 3)]]
SECONDS = 0.6


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 16:9 video of a (photographed) person who moves a little, 30 fps, without sound, as MEAD's are."""
    person = np.asarray(Image.fromarray(np.asarray(astronaut())).resize((180, 180)))
    frames = np.full((round(SECONDS * 30), 180, 320, 3), 128, np.uint8)
    for index, frame in enumerate(frames):
        frame[:, 70 + index % 4 : 250 + index % 4] = person
    path = tmp_path_factory.mktemp("mead") / "talker.mp4"
    write_video(path, frames, 30)
    return path


@pytest.fixture
def tree(talker: Path, tmp_path: Path) -> Path:
    """Three actors, ten cells each, one sentence (two of neutral) per cell."""
    for actor in ("M003", "W009", "W011"):
        for emotion, level in CELLS:
            for number in (1, 2) if emotion == "neutral" else (1,):
                record(tmp_path / "tree", talker, f"{actor}/{{}}/{emotion}/level_{level}/{number:03d}")
    return tmp_path / "tree"


def record(tree: Path, talker: Path, name: str, *, sound_s: float | None = SECONDS) -> None:
    picture, sound = tree / f"{name.format('video/front')}.mp4", tree / f"{name.format('audio')}.wav"
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(talker, picture)
    if sound_s is not None:
        sound.parent.mkdir(parents=True, exist_ok=True)
        sound.write_bytes(wav_bytes(hum(sound_s, 16000)))


def words(tree: Path, root: Path, *more: str) -> list[str]:
    return ["+dataset=mead", f"sources={tree}", f"dataset.root={root}", "image_size=128", *more]


def loaded(root: Path) -> Manifest:
    return load_dataset(SimpleNamespace(name="mead", root=str(root)), SimpleNamespace(cache=""))  # type: ignore[arg-type]


def test_tree_becomes_face_crops(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "prepared"
    assert main(words(tree, root, "clips=3")) == 0
    assert "mead: 3 of 3 clips" in (said := capsys.readouterr().out) and "33 of 33 available" in said
    manifest = loaded(root)
    assert Counter(clip.identity for clip in manifest.clips) == {"M003": 1, "W009": 1, "W011": 1}
    for clip in manifest.clips:
        assert clip.video is not None and clip.duration_s == SECONDS
        info = probe(clip.video)
        assert (info.width, info.height, info.fps, info.frames) == (128, 128, 25, 15)
        assert (info.audio_rate_hz, info.audio_channels) == (16000, 1) and read_audio(clip.audio).size == 9600
        # Twice the box of a face that moves by 3 of about 40 pixels: the face fills about half, around the middle.
        assert clip.box is not None and clip.box_source == "cascade"
        x0, y0, x1, y1 = clip.box
        assert 0.4 < (x1 - x0) / 128 < 0.6 and abs((x0 + x1) / 2 - 64) < 10 and abs((y0 + y1) / 2 - 64) < 10
    assert not (root / "missing_video_url.txt").exists()


def test_one_square_per_clip(tree: Path, tmp_path: Path) -> None:
    """The crop does not follow the head: the person moves in it as in the source."""
    root = tmp_path / "prepared"
    assert main(words(tree, root, "clips=1", "dataset.face_detector=cascade")) == 0
    frames = read_video(loaded(root).clips[0].video or "").astype(float)
    assert np.abs(frames[2] - frames[0]).mean() > 2


def test_ids_and_balance(tree: Path) -> None:
    from lcp_bench.data.selection import choose

    sources = mead_sources(tree, CROP, None)
    assert len(sources) == 33 and sources[0].id == "M003_front_angry_level_1_001"
    assert sources[0].audio == tree / "M003/audio/angry/level_1/001.wav" and sources[0].strata == ("angry", "level_1")
    chosen = choose(sources, 12, 0, lambda _: True)
    assert Counter(each.identity for each in chosen) == {"M003": 4, "W009": 4, "W011": 4}
    assert Counter(each.strata[0] for each in chosen) == {"neutral": 3, "angry": 3, "happy": 3, "sad": 3}
    assert all(count == 1 for cell, count in Counter(each.strata for each in chosen).items() if cell[0] != "neutral")


def test_gaps_are_named(talker: Path, tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "W009/video")
    (tree / "W009/video/down/sad/level_1").mkdir(parents=True)
    record(tree, talker, "W011/{}/sad/level_9/001")
    for emotion in ("angry", "happy"):
        shutil.rmtree(tree / "W011/video/front" / emotion)
    shutil.rmtree(tree / "M003")
    record(tree, talker, "M005/{}/sad/level_1/001", sound_s=None)
    record(tree, talker, "M005/{}/sad/level_2/001", sound_s=2.0)
    record(tree, talker, "M005/{}/sad/level_3/001")
    (tree / "M005/video/front/sad/level_3/001.mp4").write_bytes(talker.read_bytes()[:500])
    blank = tree / "M005/video/front/fear/level_1/001.mp4"
    blank.parent.mkdir(parents=True)
    video(blank, SECONDS, size=(320, 180))
    root = tmp_path / "prepared"
    assert main(words(tree, root)) == 0
    with (root / "sources.csv").open() as file:
        rows = {row["id"]: (row["state"], row["reason"]) for row in csv.DictReader(file)}
    assert Counter(state for state, _ in rows.values()) == {"chosen": 5, "missing": 1, "unusable": 1, "broken": 4}
    assert rows["W009_front"] == ("missing", f"no videos in {tree / 'W009/video/front'}")
    assert "EMOTION/level_N" in rows["W011_front_sad_level_9_001"][1]
    assert "no sound stream" in rows["M005_front_sad_level_1_001"][1]
    assert "not one recording" in rows["M005_front_sad_level_2_001"][1]
    assert "cannot be decoded" in rows["M005_front_sad_level_3_001"][1]
    assert "face was found in 0 of 2" in rows["M005_front_fear_level_1_001"][1]


def test_own_sound_and_length_limit(tmp_path: Path, talker: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "prepared"
    record(tree, talker, "M003/{}/sad/level_1/001", sound_s=None)
    path = tree / "M003/video/front/sad/level_1/001.mp4"
    write_video(path, read_video(talker), 30, hum(SECONDS, 44100), sample_rate=44100)
    assert main(words(tree, root, "clip_seconds=0.4")) == 0
    assert loaded(root).clips[0].duration_s == 0.4


def test_wrong_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatasetError, match=r"M003/video/front/angry/level_1/001\.mp4"):
        mead_sources(tmp_path, CROP, None)
    assert main(words(tmp_path / "nowhere", tmp_path / "x")) == 1
    assert "actor folders" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert main(words(tmp_path, tmp_path / "x", "dataset.face_detector=manifest")) == 2
