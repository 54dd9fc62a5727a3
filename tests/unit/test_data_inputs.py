"""One clip's way to tensors, and every kind of bad input with the message a user sees."""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lcp_bench.data.demo import load_demo, wav_bytes
from lcp_bench.data.inputs import ModelInputSpec, portrait_tensor, prepare_clip
from lcp_bench.data.manifest import Clip, Manifest
from lcp_bench.errors import ClipError

SPEC = ModelInputSpec(image_size=128, latent_size=16, fps=25.0, frames_per_segment=16)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load_demo(tmp_path_factory.mktemp("demo")).clips[0]


@pytest.fixture
def speech() -> NDArray[np.float32]:
    return (0.3 * np.sin(np.arange(16000) / 9)).astype(np.float32)


def bare(clip: Clip) -> Clip:
    """The same files without anything that is known about the face."""
    return replace(clip, box=None, landmarks5=None, lip_box=None, box_source=None)


def saved(path: Path, pixels: NDArray[np.uint8]) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def portrait_of(clip: Clip) -> NDArray[np.uint8]:
    return np.asarray(Image.open(clip.image or "").convert("RGB"))


def wav(path: Path, samples: NDArray[np.float32]) -> str:
    path.write_bytes(wav_bytes(samples))
    return str(path)


def refused(clip: Clip, stage: str, message: str, spec: ModelInputSpec = SPEC) -> None:
    with pytest.raises(ClipError, match=message) as error:
        prepare_clip(clip, spec)
    assert (error.value.clip, error.value.stage) == (clip.id, stage)


def test_a_good_clip_is_complete(demo: Clip) -> None:
    inputs = prepare_clip(demo, SPEC)
    assert inputs.portrait.shape == (3, 128, 128) and inputs.portrait.dtype == torch.float32
    assert -1 <= inputs.portrait.min() < -0.3 and 0.3 < inputs.portrait.max() <= 1
    assert inputs.face_region.shape == (3, 128, 128) and set(inputs.face_region.flatten().tolist()) >= {0.0, 1.0}
    assert list(inputs.masks) == ["full", "face", "lip"]
    for masks in inputs.masks.values():
        assert [tuple(mask.shape) for mask in masks] == [(1, 256), (1, 64), (1, 16), (1, 4)]
    assert inputs.frame_count == 50 and inputs.waveform.shape == (32000,) and inputs.waveform.dtype == np.float32
    assert inputs.face_embedding is None
    assert inputs.notes == {
        "face_source": "given",
        "landmarks_source": "given",
        "embedding": "absent",
        "foreground_source": "face region",
        "portrait_size": [512, 512],
    }


def test_repeating_gives_the_same(demo: Clip) -> None:
    first, second = prepare_clip(demo, SPEC), prepare_clip(demo, SPEC)
    assert torch.equal(first.portrait, second.portrait)
    pairs = [(a, b) for name in first.masks for a, b in zip(first.masks[name], second.masks[name], strict=True)]
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_cascade_stands_in_for_a_missing_box(demo: Clip) -> None:
    inputs = prepare_clip(bare(demo), SPEC)
    assert (inputs.notes["face_source"], inputs.notes["landmarks_source"]) == ("cascade", "estimated from the box")
    known = prepare_clip(demo, SPEC)
    assert (inputs.masks["face"][0] - known.masks["face"][0]).abs().mean() < 0.06


def test_manifest_detector_wants_a_box(demo: Clip) -> None:
    refused(bare(demo), "face", r"face_detector=manifest.*pairs\.csv", replace(SPEC, face_detector="manifest"))
    by_points = replace(bare(demo), landmarks5=demo.landmarks5)
    assert prepare_clip(by_points, replace(SPEC, face_detector="manifest")).notes["face_source"] == "landmarks"


def test_no_face(demo: Clip, tmp_path: Path) -> None:
    path = saved(tmp_path / "wall.png", np.full((300, 300, 3), 128, np.uint8))
    refused(replace(bare(demo), image=path), "face", r"wall\.png.*found none")


def test_two_faces_and_the_box_that_helps(demo: Clip, tmp_path: Path) -> None:
    path = saved(tmp_path / "two.png", np.hstack([portrait_of(demo), portrait_of(demo)]))
    refused(replace(bare(demo), image=path), "face", r"two\.png.*found 2.*pairs\.csv")
    assert prepare_clip(replace(demo, image=path), SPEC).notes["face_source"] == "given"


@pytest.mark.parametrize("level", [0.0, 0.0002])
def test_silent_sound(demo: Clip, tmp_path: Path, speech: NDArray[np.float32], level: float) -> None:
    refused(replace(demo, audio=wav(tmp_path / "quiet.wav", speech * level)), "audio", r"quiet\.wav is silent")


def test_zero_byte_sound(demo: Clip, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    refused(replace(demo, audio=str(tmp_path / "empty.wav")), "read", r"empty\.wav is empty \(0 bytes\)")


def test_sound_shorter_than_a_frame(demo: Clip, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    refused(replace(demo, audio=wav(tmp_path / "tick.wav", speech[:600])), "audio", "at least one frame")
    refused(replace(demo, audio=wav(tmp_path / "none.wav", speech[:0])), "audio", "at least one frame")


def test_text_named_png(demo: Clip, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("I am no image\n" * 9)
    refused(replace(demo, image=str(tmp_path / "text.png")), "read", r"text\.png cannot be read as an image")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b""])
def test_truncated_image(demo: Clip, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "half.png").write_bytes(damage(Path(demo.image or "").read_bytes()))
    refused(replace(demo, image=str(tmp_path / "half.png")), "read", r"half\.png")


def test_missing_files(demo: Clip, tmp_path: Path) -> None:
    refused(replace(demo, image=str(tmp_path / "gone.png")), "read", r"gone\.png, found no file")
    refused(replace(demo, audio=str(tmp_path / "gone.wav")), "read", r"gone\.wav, found none")


def test_8_khz_stereo(demo: Clip, tmp_path: Path) -> None:
    left = 0.4 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)
    with wave.open(str(tmp_path / "phone.wav"), "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes((np.stack([left, left], axis=1) * 32767).astype("<i2").tobytes())
    inputs = prepare_clip(replace(demo, audio=str(tmp_path / "phone.wav")), SPEC)
    assert abs(inputs.waveform.size - 16000) <= 40 and inputs.frame_count in (25, 26)
    assert np.abs(inputs.waveform).max() == pytest.approx(0.4, abs=0.03)


def test_three_frames(demo: Clip, tmp_path: Path, speech: NDArray[np.float32]) -> None:
    inputs = prepare_clip(replace(demo, audio=wav(tmp_path / "short.wav", speech[: 3 * 640])), SPEC)
    assert inputs.frame_count == 3 and inputs.waveform.size == 1920


def test_max_seconds_cuts_the_sound(demo: Clip) -> None:
    inputs = prepare_clip(demo, replace(SPEC, max_seconds=0.5))
    assert inputs.waveform.size == 8000 and inputs.frame_count == 13


def test_40_by_3000_portrait(demo: Clip, tmp_path: Path) -> None:
    path = saved(tmp_path / "sliver.png", np.full((3000, 40, 3), 90, np.uint8))
    refused(replace(demo, image=path), "read", r"40x3000.*crop")
    wide = saved(tmp_path / "wide.png", np.hstack([portrait_of(demo)] + [np.full((512, 512, 3), 90, np.uint8)] * 2))
    assert prepare_clip(replace(demo, image=wide), SPEC).portrait.shape == (3, 128, 128)


def test_box_outside_of_the_portrait(demo: Clip) -> None:
    refused(replace(demo, box=(400.0, 100.0, 600.0, 300.0)), "face", "inside the 512x512 image")


@pytest.mark.parametrize("name", ["e.npy", "e.txt", "e.csv"])
def test_given_embedding(demo: Clip, tmp_path: Path, name: str) -> None:
    vector, path = np.linspace(-2, 2, 512, dtype=np.float32), tmp_path / name
    np.save(path, vector) if name == "e.npy" else np.savetxt(
        path, vector[None], delimiter="," if "csv" in name else " "
    )
    inputs = prepare_clip(replace(demo, embedding=str(path)), SPEC)
    assert inputs.face_embedding is not None and inputs.notes["embedding"] == "given"
    np.testing.assert_allclose(inputs.face_embedding.numpy(), vector, rtol=1e-6)


@pytest.mark.parametrize("content", [np.ones(128), np.full(512, np.nan)])
def test_wrong_embedding(demo: Clip, tmp_path: Path, content: NDArray[np.float64]) -> None:
    np.save(tmp_path / "e.npy", content)
    refused(replace(demo, embedding=str(tmp_path / "e.npy")), "read", "expected 512 finite")
    (tmp_path / "e.npy").write_text("junk")
    refused(replace(demo, embedding=str(tmp_path / "e.npy")), "read", "cannot be read as 512 numbers")


def test_phone_photos_are_turned_upright(demo: Clip, tmp_path: Path) -> None:
    turned, exif = Image.fromarray(np.rot90(portrait_of(demo)).copy()), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    turned.save(tmp_path / "phone.png", exif=exif)
    inputs = prepare_clip(replace(bare(demo), image=str(tmp_path / "phone.png")), SPEC)
    assert torch.equal(inputs.portrait, prepare_clip(demo, SPEC).portrait)


def test_portrait_range_and_order() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[..., 0] = 255
    tensor = portrait_tensor(pixels, 8)
    assert tensor.shape == (3, 8, 8) and (tensor[0] == 1).all() and (tensor[1:] == -1).all()


def test_real_pairs_and_a_talking_clip(real_folder: Manifest) -> None:
    clips = {clip.id: clip for clip in real_folder.clips}
    inputs = prepare_clip(clips["portrait_02__speech_12"], SPEC)
    assert inputs.frame_count == 240 and inputs.notes["face_source"] == "cascade"
    assert prepare_clip(clips["landmark_01__singing_01"], SPEC).notes["landmarks_source"] == "given"
    talking = prepare_clip(clips["vox_03"], SPEC)
    assert talking.frame_count in (110, 111, 112) and talking.notes["portrait_size"] == [256, 256]
    refused(clips["mask_11__speech_10"], "face", r"mask_11\.png.*found none")
