"""The procedural data set on disk: layout, manifest, resumption, damaged variants, and the keys that choose it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lcp_bench.assemble import describe_weights
from lcp_bench.data import load_dataset
from lcp_bench.data.inputs import ModelInputSpec, prepare_clip
from lcp_bench.data.manifest import Clip, Manifest, freeze, load, with_hashes
from lcp_bench.data.synthetic import dataset
from lcp_bench.data.synthetic.clip import make_clip
from lcp_bench.data.synthetic.dataset import load_synthetic, settings_of
from lcp_bench.data.synthetic.variants import DEFAULT, VARIANTS, main
from lcp_bench.errors import ConfigError, DatasetError
from lcp_bench.identity import run_identity
from lcp_bench.preflight import load_run_config
from lcp_bench.synthetic_config import SyntheticConfig
from lcp_bench.video import probe, read_audio, read_video

SMALL = SyntheticConfig(family="synth_mead", people=2, seconds=0.4)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small data set; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("synthetic")
    load_synthetic(folder, SMALL)
    return folder


def test_layout_and_manifest(root: Path) -> None:
    manifest = load_synthetic(root, SMALL)
    assert manifest.dataset == "synth_mead" and [clip.id for clip in manifest.clips] == ["m_232_0", "m_233_0"]
    made = make_clip("synth_mead", None, 233, 0, frames=10)
    clip = manifest.clips[1]
    assert (clip.identity, clip.source, clip.duration_s) == ("m_233", "synthetic", 0.4)
    assert clip.image == str(root / "ref/m_233_0.png") and clip.video == str(root / "clips/m_233_0.mp4")
    assert clip.audio == str(root / "audio/m_233_0.wav")
    assert np.array_equal(np.asarray(Image.open(clip.image)), made.frames[0])
    assert clip.box == tuple(made.rendered.face_box.tolist()) and clip.box_source == "given"
    assert clip.lip_box == tuple(made.rendered.mouth_box[0].tolist())
    np.testing.assert_allclose(clip.landmarks5 or (), made.rendered.landmarks5[0])
    assert np.array_equal(np.rint(read_audio(clip.audio) * 32768).astype(np.int16), made.waveform)
    video = read_video(clip.video)
    assert video.shape == made.frames.shape
    assert np.abs(video.astype(int) - made.frames).mean() < 6
    info = probe(clip.video)
    assert (info.fps, info.audio_rate_hz) == (25, 16000)


def test_truth_and_masks(root: Path) -> None:
    made = make_clip("synth_mead", None, 232, 0, frames=10)
    with np.load(root / "truth/m_232_0.npz", allow_pickle=False) as truth:
        assert np.array_equal(truth["mouth"], made.mouth) and np.array_equal(truth["pose"], made.motion.pose)
        assert (int(truth["person"]), str(truth["emotion"]), int(truth["root"])) == (232, made.emotion, 2)
        assert np.array_equal(truth["visemes"], made.speech.visemes)
        background = truth["background"]
    with np.load(root / "masks/m_232_0.npz", allow_pickle=False) as stored:
        count = int(np.prod(stored["shape"]))
        masks = np.unpackbits(stored["masks"], count=count).reshape(stored["shape"]).astype(bool)
        assert np.array_equal(masks, made.rendered.masks)
    assert np.abs(made.frames.astype(int) - background)[~masks].max() <= 1


def test_two_makings_give_the_same_bytes_and_a_finished_set_is_reused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_synthetic(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(root)
    monkeypatch.setattr(dataset, "make_clip", lambda **_: pytest.fail("a finished clip was made again"))
    assert load_synthetic(tmp_path / "again", SMALL).sha256 == first.sha256


def test_making_goes_on_where_it_stopped(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    stop_at: int | None = 233

    def recorded(**arguments: Any) -> Any:
        if arguments["person"] == stop_at:
            raise KeyboardInterrupt
        made.append(arguments["person"])
        return make_clip(**arguments)

    monkeypatch.setattr(dataset, "make_clip", recorded)
    with pytest.raises(KeyboardInterrupt):
        load_synthetic(tmp_path, SMALL)
    stop_at = None
    load_synthetic(tmp_path, SMALL)
    assert made == [232, 233]
    assert contents(tmp_path) == contents(root)


def test_more_clips_of_the_same_kind_share_a_folder_and_other_kinds_do_not(tmp_path: Path) -> None:
    small = load_synthetic(tmp_path, replace(SMALL, people=1))
    more = load_synthetic(tmp_path, replace(SMALL, people=1, takes=2))
    assert [clip.id for clip in more.clips] == ["m_232_0", "m_232_1"]
    assert more.clips[0] == small.clips[0] and more.sha256 != small.sha256
    with pytest.raises(DatasetError, match="'image_size': 64.*another folder"):
        load_synthetic(tmp_path, replace(SMALL, image_size=128))


def test_a_folder_of_another_renderer_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(SMALL, people=1)
    load_synthetic(tmp_path, one)
    before = contents(tmp_path)
    monkeypatch.setattr(dataset, "renderer_hash", lambda: "other")
    load_synthetic(tmp_path, one)  # frozen: as it is
    with pytest.raises(DatasetError, match="another version"):
        load_synthetic(tmp_path, replace(one, takes=2))
    with pytest.raises(DatasetError, match="another version"):
        settings_of(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("file", ["clips/m_232_0.mp4", "ref/m_232_0.png", "audio/m_232_0.wav"])
def test_a_changed_file_is_noticed(tmp_path: Path, file: str) -> None:
    load_synthetic(tmp_path, replace(SMALL, people=1))
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes() + b"x")
    with pytest.raises(DatasetError, match=f"{file} has changed"):
        load_synthetic(tmp_path, replace(SMALL, people=1))


def test_a_clip_becomes_model_inputs_without_a_detector(root: Path) -> None:
    clip = load_synthetic(root, SMALL).clips[0]
    inputs = prepare_clip(clip, ModelInputSpec(64, 8, 25, 16, face_detector="manifest"))
    assert inputs.frame_count == 10 and inputs.notes["face_source"] == "given"
    made = make_clip("synth_mead", None, 232, 0, frames=10)
    exact = np.moveaxis(made.frames[0], -1, 0) / 127.5 - 1
    np.testing.assert_allclose(inputs.portrait.numpy(), exact, atol=1e-5)  # the png, not the first frame of the mp4


def test_manifests_without_a_second_picture_are_as_they_were(tmp_path: Path) -> None:
    """The field for the real video must not move the hash of data sets that have none."""
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "a.wav").write_bytes(b"sound")
    clip = with_hashes(Clip(id="a", image=str(tmp_path / "a.png"), video=None, audio=str(tmp_path / "a.wav")))
    made = freeze(tmp_path / "manifest.lcp.jsonl", "folder", tmp_path, [clip], {"kind": "all"}, [])
    line = json.loads((tmp_path / "manifest.lcp.jsonl").read_text().splitlines()[1])
    assert sorted(line) == [
        "audio", "audio_sha256", "box", "box_source", "duration_s", "embedding", "embedding_sha256", "id", "identity",
        "image", "image_sha256", "landmarks5", "lip_box", "source", "video",
    ]  # fmt: skip
    assert load(Path(made.path), tmp_path) == made
    assert made.sha256 == "03131e28d67946a5567786e1cd06ba4b2175179d25d3681e0bc4c27dd69d0f34"


def small_clip() -> tuple[Any, Any]:
    settings = {"family": "synth_mead", "seed": 2, "seconds": 0.6, "background": "still", "image_size": 64}
    return dataset.remake(settings, 237, 0), settings


def test_variants_do_the_damage_that_they_name() -> None:
    clip, settings = small_clip()
    frames = clip.frames.astype(float)
    made = {name: make(clip, settings).astype(float) for name, (_, make) in VARIANTS.items()}
    assert all(each.shape == frames.shape for each in made.values())
    moved = {name: np.abs(np.diff(each, axis=0)).mean() for name, each in {**made, "real": frames}.items()}
    assert moved["frozen"] == 0 < moved["averaged5"] < moved["averaged3"] < moved["real"] < moved["noise"]
    assert np.array_equal(made["repeat2"][::2], frames[::2]) and np.array_equal(made["repeat2"][0], made["repeat2"][1])
    assert np.std(made["noise"] - frames) == pytest.approx(12, rel=0.1)
    assert np.std(made["noise_light"] - frames) == pytest.approx(4, rel=0.1)
    sharp = {name: np.abs(np.diff(made[name], axis=2)).mean() for name in ("blur", "blur_light", "reroll")}
    assert sharp["blur"] < sharp["blur_light"] < sharp["reroll"]
    below = clip.rendered.mouth_box[:, 1].min().astype(int)
    for name in ("wrong_sound", "half_mouth", "neutral"):
        change = np.abs(made[name] - frames)
        assert change.max() > 60, name
        if name != "neutral":
            assert change[:, : below - 6].max() <= 2, name  # only the mouth and the jaw differ
    assert not np.array_equal(made["reroll"], made["reroll2"])


def test_variants_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset-root", str(root), "--out", str(tmp_path)]
    assert main([*words, "--variants", "frozen,half_mouth"]) == 0
    assert "4 videos" in capsys.readouterr().out
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4")) == [
        f"{variant}/{clip}.mp4" for variant in ("frozen", "half_mouth") for clip in ("m_232_0", "m_233_0")
    ]
    sound, real = (read_audio(path / "m_232_0.mp4") for path in (tmp_path / "frozen", root / "clips"))
    assert np.array_equal(sound, real)
    assert np.ptp(read_video(tmp_path / "frozen/m_232_0.mp4").astype(int), axis=0).mean() < 1
    assert main([*words, "--variants", "melted"]) == 2
    assert "melted" in capsys.readouterr().err
    assert main(["--dataset-root", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "no procedural data set" in capsys.readouterr().err
    assert len(DEFAULT) == 10


def chosen(*words: str) -> Any:
    return load_run_config(["+model=hallo", "model.size=tiny", "model.weights=seeded", "+accel=none", *words])


def test_data_sets_are_chosen_by_name(tmp_path: Path) -> None:
    config = chosen(
        "+dataset=synthetic", f"paths.data={tmp_path}", "dataset.synthetic.family=synth_mead",
        "dataset.synthetic.people=1", "dataset.synthetic.seconds=0.2",
    )  # fmt: skip
    manifest: Manifest = load_dataset(config.dataset, config.paths)
    assert Path(manifest.root) == tmp_path / "synthetic" / "synth_mead" and len(manifest.clips) == 1
    own = chosen("+dataset=synth_hdtf")
    assert own.dataset.synthetic == SyntheticConfig(family="synth_hdtf") and own.dataset.face_detector == "manifest"
    with pytest.raises(ConfigError, match="must be synth_hdtf"):
        load_dataset(chosen("+dataset=synth_hdtf", "dataset.synthetic.family=synth_mead").dataset, own.paths)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("people=33", "in 1..32 for split test"),
        ("people=0", "in 1..32"),
        ("takes=0", "in 1..10000"),
        ("seconds=0.01", "in 0.04..600"),
        ("image_size=65", "an even number in 32..512"),
        ("background=fast", "one of still, moving"),
        ("splt=test", "did you mean 'dataset.synthetic.split'"),
    ],
)
def test_wrong_options_are_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen("+dataset=synth_mead", f"dataset.synthetic.{word}")


def test_identity_has_the_options_only_where_there_are_some() -> None:
    def identity(config: Any) -> Any:
        device = torch.device("cpu")
        manifest: Any = type("Stub", (), {"sha256": "a" * 64})
        return run_identity(config, manifest, describe_weights(config, device), device)["dataset"]

    assert "synthetic" not in identity(chosen())
    assert identity(chosen("+dataset=synth_mead"))["synthetic"]["people"] == 8
