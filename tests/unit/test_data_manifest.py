"""Folders become manifests: layouts, pairing, ids, and freezing."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcp_bench.data import Manifest, load_dataset
from lcp_bench.data.demo import load_demo, wav_bytes
from lcp_bench.data.folder import FolderOptions, load_folder
from lcp_bench.errors import ConfigError, DatasetError
from lcp_bench.video import write_video

NO_FACES = FolderOptions(face_detector="manifest")


def image(path: Path, shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(path)
    return path


def sound(path: Path, seconds: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(np.sin(np.arange(round(seconds * 16000)) / 5).astype(np.float32)))
    return path


def video(path: Path, *, silent: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voice = None if silent else np.sin(np.arange(3200) / 5).astype(np.float32)
    write_video(path, np.full((5, 32, 32, 3), 120, np.uint8), 25, voice)
    return path


def listed(root: Path, cache: Path, **options: Any) -> Manifest:
    return load_folder(root, cache, FolderOptions(**{"face_detector": "manifest", **options}))


def names(manifest: Manifest) -> list[tuple[str, str]]:
    return [(Path(clip.image or clip.video or "").name, Path(clip.audio).name) for clip in manifest.clips]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_unequal_names_are_zipped_in_order(root: Path, cache: Path) -> None:
    for name in ("a", "b"):
        image(root / f"portraits/{name}.png")
    for name in ("s1", "s2", "s3"):
        sound(root / f"speech/{name}.wav")
    manifest = listed(root, cache)
    assert names(manifest) == [("a.png", "s1.wav"), ("b.png", "s2.wav"), ("a.png", "s3.wav")]
    assert [clip.id for clip in manifest.clips] == ["a__s1", "b__s2", "a__s3"]
    assert manifest.clips[0].duration_s == pytest.approx(0.2)


def test_spare_portraits_are_reported(root: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        image(root / f"portraits/{name}.png")
    sound(root / "speech/s1.wav")
    with caplog.at_level(logging.WARNING):
        manifest = listed(root, cache)
    assert [each.file for each in manifest.skipped] == ["portraits/b.png"]
    assert "more portraits than speech" in caplog.text


def test_same_names_are_joined_in_a_flat_folder(root: Path, cache: Path) -> None:
    for name in ("x", "y", "alone"):
        image(root / f"{name}.png")
    for name in ("x", "y"):
        sound(root / f"{name}.wav")
    manifest = listed(root, cache)
    assert [clip.id for clip in manifest.clips] == ["x", "y"]
    assert [(each.file, "stem" in each.reason) for each in manifest.skipped] == [("alone.png", True)]


def test_product_and_unmatched_stem(root: Path, cache: Path) -> None:
    for name in ("a", "b"):
        image(root / f"portraits/{name}.png")
        sound(root / f"speech/s{name}.wav")
    assert [clip.id for clip in listed(root, cache, pairing="product").clips] == ["a__sa", "a__sb", "b__sa", "b__sb"]
    with pytest.raises(DatasetError, match="no partner of the same name"):
        listed(root, cache, pairing="stem")


def test_talking_clips_need_sound(root: Path, cache: Path) -> None:
    video(root / "t1.mp4")
    video(root / "t2.mp4", silent=True)
    (root / "broken.mp4").write_bytes(b"no video at all")
    manifest = listed(root, cache)
    assert [clip.id for clip in manifest.clips] == ["broken", "t1"]
    assert manifest.clips[1].image is None and manifest.clips[1].video == manifest.clips[1].audio
    assert manifest.clips[1].source == "talking"
    assert [each.file for each in manifest.skipped] == ["t2.mp4"]


def test_kind_selects_and_all_takes_pairs_first(root: Path, cache: Path) -> None:
    image(root / "portraits/a.png")
    sound(root / "speech/a.wav")
    video(root / "clips/a.mp4")
    everything = [clip.id for clip in listed(root, cache).clips]
    assert everything[0] == "a" and everything[1].startswith("a-") and len(everything) == 2
    assert [clip.source for clip in listed(root, cache, kind="pairs").clips] == ["pair"]
    assert [clip.source for clip in listed(root, cache, kind="clips").clips] == ["talking"]


def test_broken_files_stay_in_the_list(root: Path, cache: Path) -> None:
    image(root / "good.png")
    (root / "good.wav").write_bytes(b"")
    (root / "text.png").write_text("not an image")
    sound(root / "text.wav")
    manifest = load_folder(root, cache, FolderOptions())
    assert [(clip.id, clip.duration_s is None, clip.box) for clip in manifest.clips] == [
        ("good", True, None),
        ("text", False, None),
    ]


def test_ids_are_safe_and_unique(root: Path, cache: Path) -> None:
    for name in ("Ünï çode!", "a b", "a-b", "A-B"):
        image(root / f"{name}.png")
        sound(root / f"{name}.wav")
    ids = [clip.id for clip in listed(root, cache).clips]
    assert len({each.lower() for each in ids}) == 4
    assert all(each.isascii() and " " not in each and "/" not in each and not each.startswith(".") for each in ids)
    assert "a-b" in ids or "A-B" in ids


def test_pairs_csv_gives_everything(root: Path, cache: Path) -> None:
    image(root / "img/p.png")
    sound(root / "snd/s.wav")
    video(root / "v.mp4")
    np.save(root / "e.npy", np.ones(512, np.float32))
    image(root / "img/person.png")
    (root / "pairs.csv").write_text(
        "id,image,audio,video,identity,box,landmarks,embedding,foreground\n"
        "one,img/p.png,snd/s.wav,,anna,2 3 28 30,10 10 20 10 15 15 11 20 19 20,e.npy,img/person.png\n"
        ",,,v.mp4,,,,,\n"
        "gone,img/missing.png,snd/s.wav,,,,,,\n"
    )
    first, second, third = listed(root, cache).clips
    assert (first.id, first.identity, first.box, first.box_source) == ("one", "anna", (2, 3, 28, 30), "given")
    assert first.landmarks5 is not None and first.landmarks5[2] == (15, 15)
    assert first.embedding_sha256 is not None
    assert (first.foreground, second.foreground) == (str(root / "img/person.png"), None)
    assert first.foreground_sha256 is not None
    assert (second.id, second.audio) == ("v", str(root / "v.mp4"))
    assert third.image_sha256 is None
    assert listed(root / "pairs.csv", cache).clips == (first, second, third)


@pytest.mark.parametrize(
    ("line", "message"),
    [("p.png,s.wav,1 2 3", "4 numbers"), ("p.png,s.wav,a b c d", "4 numbers"), (",s.wav,", "image and audio")],
)
def test_bad_lines_of_pairs_csv_are_named(root: Path, cache: Path, line: str, message: str) -> None:
    (root / "pairs.csv").write_text(f"image,audio,box\n{line}\n")
    with pytest.raises(DatasetError, match=rf"pairs\.csv:2.*{message}"):
        listed(root, cache)


def test_doubled_ids_are_refused_or_told_apart(root: Path, cache: Path) -> None:
    (root / "pairs.csv").write_text("id,image,audio\nx,p.png,s.wav\nx,q.png,s.wav\n")
    first, second = (clip.id for clip in listed(root, cache).clips)
    assert first == "x" and second.startswith("x-")


def test_frozen_manifest_repeats_and_survives_a_move(root: Path, cache: Path, tmp_path: Path) -> None:
    image(root / "a.png")
    sound(root / "a.wav")
    first = listed(root, cache)
    assert listed(root, cache) == first
    shutil.copytree(root, tmp_path / "copy")
    moved = listed(tmp_path / "copy", cache)
    assert moved.sha256 == first.sha256 and moved.clips[0].image == str(tmp_path / "copy/a.png")


@pytest.mark.parametrize("state", ["has changed", "is missing"])
def test_a_changed_file_is_named(root: Path, cache: Path, state: str) -> None:
    image(root / "a.png")
    path = sound(root / "a.wav")
    listed(root, cache)
    sound(path, 0.3) if state == "has changed" else path.unlink()
    with pytest.raises(DatasetError, match=rf"a\.wav {state}.*manifest"):
        listed(root, cache)


def test_new_files_are_told_and_not_used(root: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    image(root / "a.png")
    sound(root / "a.wav")
    first = listed(root, cache)
    image(root / "b.png")
    sound(root / "b.wav")
    with caplog.at_level(logging.WARNING):
        assert listed(root, cache) == first
    assert "1 clips" in caplog.text


def test_new_and_changed_labels_are_named(root: Path, cache: Path) -> None:
    image(root / "a.png")
    sound(root / "a.wav")
    path = Path(listed(root, cache).path)
    (root / "pairs.csv").write_text("image,audio,box\na.png,a.wav,2 2 30 30\n")
    with pytest.raises(DatasetError, match=r"pairs\.csv has appeared.*delete"):
        listed(root, cache)
    path.unlink()
    assert listed(root, cache).clips[0].box == (2, 2, 30, 30)
    (root / "pairs.csv").write_text("image,audio,box\na.png,a.wav,2 2 20 20\n")
    with pytest.raises(DatasetError, match=r"pairs\.csv has changed"):
        listed(root, cache)


@pytest.mark.parametrize("damage", ["edit", "truncate", "schema", "garbage", "empty"])
def test_a_damaged_manifest_is_refused(root: Path, cache: Path, damage: str) -> None:
    image(root / "a.png")
    sound(root / "a.wav")
    path = Path(listed(root, cache).path)
    header, clip = path.read_text().splitlines()
    edited = clip.replace('"source":"pair"', '"source":"else"')
    text = {
        "edit": f"{header}\n{edited}\n",
        "truncate": f"{header}\n",
        "schema": json.dumps({**json.loads(header), "schema": 99}) + f"\n{clip}\n",
        "garbage": "what\n",
        "empty": "",
    }[damage]
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"delete .*manifest"):
        listed(root, cache)


def test_other_options_have_another_manifest(root: Path, cache: Path) -> None:
    image(root / "a.png")
    sound(root / "a.wav")
    plain, product = (load_folder(root, cache, FolderOptions()), listed(root, cache, pairing="product"))
    assert Path(plain.path).name == "manifest.lcp.jsonl" and plain.path != product.path
    assert plain.sha256 != product.sha256


def test_read_only_root_keeps_its_manifest_in_the_cache(root: Path, cache: Path) -> None:
    image(root / "a.png")
    sound(root / "a.wav")
    os.chmod(root, 0o555)
    try:
        manifest = listed(root, cache)
        assert Path(manifest.path).is_relative_to(cache) and listed(root, cache) == manifest
        assert sorted(each.name for each in root.iterdir()) == ["a.png", "a.wav"]
    finally:
        os.chmod(root, 0o755)


def test_useless_roots_and_options_are_refused(root: Path, cache: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.root"):
        listed(root / "nowhere", cache)
    with pytest.raises(DatasetError, match="at least one clip"):
        listed(root, cache)
    with pytest.raises(ConfigError, match=r"dataset\.pairing.*'random'"):
        FolderOptions(pairing="random")


def dataset(**values: Any) -> Any:
    return SimpleNamespace(**{"root": None, "pairing": "auto", "face_detector": "cascade", **values})


def test_load_dataset_knows_demo_and_folder(tmp_path: Path) -> None:
    paths: Any = SimpleNamespace(data=str(tmp_path / "data"), cache=str(tmp_path / "cache"))
    manifest = load_dataset(dataset(name="demo"), paths)
    assert manifest.dataset == "demo" and manifest.root == str(tmp_path / "data/demo")
    again = load_dataset(dataset(name="folder", root=manifest.root, face_detector="manifest"), paths)
    assert again.dataset == "folder" and [clip.id for clip in again.clips] == ["demo_ada", "demo_ben"]
    with pytest.raises(ConfigError, match="demo, folder"):
        load_dataset(dataset(name="hdft"), paths)


def test_demo_is_the_same_everywhere(tmp_path: Path) -> None:
    first, second = load_demo(tmp_path / "a"), load_demo(tmp_path / "b")
    assert first.sha256 == second.sha256 and load_demo(tmp_path / "a") == first
    assert len({clip.identity for clip in first.clips}) == 2
    assert all(clip.box and clip.landmarks5 and clip.lip_box for clip in first.clips)
    assert [clip.duration_s for clip in first.clips] == [2.0, 2.0]
    (tmp_path / "a/speech/demo_ada.wav").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"demo_ada\.wav has changed"):
        load_demo(tmp_path / "a")


def test_real_folder_pairs_then_talking_clips(shared_dir: Path, tmp_path: Path, real_folder: Manifest) -> None:
    manifest = real_folder
    sources = [clip.source for clip in manifest.clips]
    assert sources == ["pair"] * 15 + ["talking"] * 28
    assert names(manifest)[0] == ("landmark_01.jpg", "singing_01.wav")
    assert [clip.id for clip in manifest.clips if clip.box is None] == ["mask_11__speech_10"]
    assert {clip.box_source for clip in manifest.clips[:10]} == {"landmarks"}
    assert {clip.box_source for clip in manifest.clips[15:]} == {"cascade"}
    assert len(manifest.skipped) == 12
    pairs = load_folder(shared_dir / "data/real", tmp_path, FolderOptions(kind="pairs"))
    assert pairs.clips == manifest.clips[:15] and Path(pairs.path).is_relative_to(tmp_path)
