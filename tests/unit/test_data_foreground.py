"""A foreground as a file: what is taken, what is refused, and where it ends up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lcp_bench.data.demo import load_demo
from lcp_bench.data.folder import FolderOptions, load_folder
from lcp_bench.data.foreground import read_foreground
from lcp_bench.data.images import ImageError
from lcp_bench.data.inputs import ModelInputSpec, prepare_clip
from lcp_bench.data.manifest import Clip, freeze, load
from lcp_bench.errors import ClipError, DatasetError
from lcp_bench.models.foreground import foreground_levels

SPEC = ModelInputSpec(image_size=128, latent_size=16, fps=25.0, frames_per_segment=16)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load_demo(tmp_path_factory.mktemp("demo")).clips[0]


def left_half(height: int, width: int, value: int = 255) -> NDArray[np.uint8]:
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = value
    return pixels


def saved(path: Path, pixels: NDArray[np.uint8], mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "LA"])
def test_white_is_the_foreground_in_every_kind_of_png(tmp_path: Path, mode: str) -> None:
    found = read_foreground(saved(tmp_path / "m.png", left_half(6, 8), mode), 8, 6)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(left_half(6, 8, 1)).float())


def test_smoothed_edges_and_other_sizes(tmp_path: Path) -> None:
    """Half-way values are cut at the middle, also when the file is resized: never interpolated."""
    edge = left_half(3, 4)
    edge[:, 1], edge[:, 2] = 127, 128
    assert read_foreground(saved(tmp_path / "edge.png", edge), 4, 3).tolist() == [[1, 0, 1, 0]] * 3
    large = read_foreground(tmp_path / "edge.png", 8, 6)
    assert large.tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]] * 6


def test_what_is_no_foreground_is_refused(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(ImageError, match=message):
            read_foreground(tmp_path / name, 8, 6)

    refused("gone.png", r"gone\.png, found no file")
    (tmp_path / "text.png").write_text("no picture")
    refused("text.png", "cannot be read as a PNG")
    Image.fromarray(left_half(6, 8)).save(tmp_path / "lossy.jpg")
    refused("lossy.jpg", "cannot be read as a PNG")
    saved(tmp_path / "black.png", left_half(6, 8, 0))
    refused("black.png", "no white pixel.*invert")
    saved(tmp_path / "square.png", left_half(6, 6))
    refused("square.png", "6x6 pixels, its portrait 8x6")
    saved(tmp_path / "colour.png", np.stack([left_half(6, 8)] + [left_half(6, 8, 0)] * 2, axis=2))
    refused("colour.png", "is in colour")
    saved(tmp_path / "clear.png", np.stack([left_half(6, 8)] * 4, axis=2))
    refused("clear.png", "transparent in places")
    Image.fromarray(left_half(6, 8).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    refused("deep.png", "16 or more bits")


def test_it_reaches_the_model_and_the_record(demo: Clip, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", left_half(512, 512))
    inputs = prepare_clip(replace(demo, foreground=str(path)), SPEC)
    assert inputs.notes["foreground_source"] == "given"
    assert inputs.foreground.shape == (512, 512)
    assert [level.ratio for level in foreground_levels(inputs.foreground, (16, 16), 4)] == [0.5] * 4
    default = prepare_clip(demo, SPEC)
    assert default.notes["foreground_source"] == "face region"
    assert torch.equal(inputs.portrait, default.portrait), "nothing but the foreground changes"
    assert torch.equal(inputs.face_region, default.face_region)


def test_a_wrong_one_fails_the_clip(demo: Clip, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"gone\.png, found no file") as error:
        prepare_clip(replace(demo, foreground=str(tmp_path / "gone.png")), SPEC)
    assert error.value.stage == "read"


def test_it_is_part_of_the_manifest(tmp_path: Path) -> None:
    """A changed file is named; a list without the column has the hash that it always had."""
    (tmp_path / "a.png").write_bytes(b"portrait")
    (tmp_path / "a.wav").write_bytes(b"sound")
    saved(tmp_path / "m.png", left_half(4, 4))
    (tmp_path / "pairs.csv").write_text("image,audio,foreground\na.png,a.wav,m.png\n")
    options = FolderOptions(face_detector="manifest")
    manifest = load_folder(tmp_path, tmp_path, options)
    assert manifest.clips[0].foreground == str(tmp_path / "m.png")
    assert load_folder(tmp_path, tmp_path, options) == manifest
    saved(tmp_path / "m.png", left_half(4, 4)[:, ::-1].copy())
    with pytest.raises(DatasetError, match=r"m\.png has changed"):
        load_folder(tmp_path, tmp_path, options)


def test_manifests_without_it_keep_their_hash(tmp_path: Path) -> None:
    """The hash of this very list, taken before the column existed."""
    clip = Clip(id="a", image="/elsewhere/a.png", video=None, audio="/elsewhere/a.wav")
    manifest = freeze(tmp_path / "m.jsonl", "folder", tmp_path, [clip], {}, [])
    assert manifest.sha256 == "22e6ff3c9bb79e6afb7721668f096e61de953354647c7cd171c4f0850f8cdf8f"
    assert "foreground" not in (tmp_path / "m.jsonl").read_text()
    assert load(tmp_path / "m.jsonl", tmp_path) == manifest
