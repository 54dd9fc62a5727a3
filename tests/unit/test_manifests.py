"""At full size every component has exactly the keys and shapes of the public checkpoint."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from lcp_bench.models.registry import kind_of

Manifest = dict[str, list[int]]

HALLO = ("denoising_unet", "reference_unet", "face_locator", "image_proj", "audio_proj", "vae", "wav2vec")
FILES: dict[str, dict[str, str]] = {
    "hallo": {name: name for name in HALLO},
    "echomimic": {
        "denoising_unet": "denoising_unet",
        "reference_unet": "reference_unet",
        "face_locator": "face_locator",
        "vae": "vae",
        "whisper": "whisper_tiny",
    },
    "memo": {
        "denoising_unet": "diffusion_net",
        "reference_unet": "reference_net",
        "image_proj": "image_proj",
        "audio_proj": "audio_proj",
        "emotion_classifier": "audio_emotion_classifier",
        "vae": "vae",
        "wav2vec": "wav2vec2",
    },
}
"""Model to its components and the manifests of their public files."""
NET_PREFIXES = {
    "denoising_unet": "denoising_unet.",
    "reference_unet": "reference_unet.",
    "face_locator": "face_locator.",
    "image_proj": "imageproj.",
    "audio_proj": "audioproj.",
}
"""Hallo's components in its one public file, net.pth."""
SPEECH = "encoder."
"""Whisper's file has a decoder too, which nobody reads."""
MANIFESTS = Path(__file__).resolve().parents[1] / "golden" / "manifests"


@cache
def manifests(model: str) -> dict[str, Manifest]:
    """Keys and shapes of each public file, from the compact copy in the repository."""
    content: dict[str, Manifest] = json.loads(gzip.decompress((MANIFESTS / f"{model}.json.gz").read_bytes()))
    return content


@cache
def modules(model: str) -> dict[str, nn.Module]:
    """Full-size components without memory."""
    return kind_of(model, "full").build_modules("full", "meta")


def count(shapes: Iterable[list[int]]) -> int:
    """Numbers in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize(("model", "component"), [(model, name) for model, files in FILES.items() for name in files])
def test_full_size_keys_and_shapes(model: str, component: str) -> None:
    built = {key: list(tensor.shape) for key, tensor in modules(model)[component].state_dict().items()}
    expected = manifests(model)[FILES[model][component]]
    if component == "whisper":
        expected = {key.removeprefix(SPEECH): shape for key, shape in expected.items() if key.startswith(SPEECH)}
    assert sorted(expected.keys() - built.keys())[:5] == []
    assert sorted(built.keys() - expected.keys())[:5] == []
    assert [f"{key} {built[key]}" for key in expected if built[key] != expected[key]] == []


@pytest.mark.parametrize("model", FILES)
def test_every_component_is_compared(model: str) -> None:
    assert set(modules(model)) == set(FILES[model])


@pytest.mark.parametrize("model", FILES)
def test_nothing_lies_outside_the_state_dict(model: str) -> None:
    """A buffer that is not saved would have no value after a strict load onto a meta module."""
    for component, module in modules(model).items():
        tensors = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        assert tensors - module.state_dict().keys() == set(), component


def test_totals_of_hallo() -> None:
    """The counts of the public net.pth: tensors, and numbers including the 42 position tables."""
    net = [shape for component in NET_PREFIXES for shape in manifests("hallo")[component].values()]
    assert (len(net), count(net)) == (2656, 2_424_802_964)


def test_the_two_files_of_echomimics_denoising_unet() -> None:
    """Its temporal modules are published apart, with their 42 position tables."""
    whole = manifests("echomimic")["denoising_unet"]
    own = [shape for key, shape in whole.items() if "motion_modules" not in key]
    apart = {key: shape for key, shape in whole.items() if "motion_modules" in key}
    tables = [shape for key, shape in apart.items() if key.endswith(".pe")]
    assert (len(own), len(apart), len(tables)) == (686, 588, 42)
    assert (count(own), count(apart.values()), count(tables)) == (849_936_324, 453_209_280 + 1_208_320, 1_208_320)


def test_totals_of_memo() -> None:
    """Tensors and numbers of the two large public files, the 42 position tables included."""
    files = {name: manifests("memo")[name] for name in ("diffusion_net", "reference_net")}
    counted = {name: (len(manifest), count(manifest.values())) for name, manifest in files.items()}
    assert counted == {"diffusion_net": (2114, 1_678_033_540), "reference_net": (662, 857_066_560)}


@pytest.mark.parametrize("model", FILES)
def test_copy_equals_the_shared_manifests(shared_dir: Path, model: str) -> None:
    folder = shared_dir / "specs" / "manifests"
    for name, manifest in manifests(model).items():
        assert json.loads((folder / f"{model}_{name}.json").read_text()) == manifest, name


def test_hallos_one_file_is_its_components(shared_dir: Path) -> None:
    parts = manifests("hallo")
    joined = {NET_PREFIXES[name] + key: shape for name in NET_PREFIXES for key, shape in parts[name].items()}
    assert json.loads((shared_dir / "specs" / "manifests" / "hallo_net.json").read_text()) == joined
