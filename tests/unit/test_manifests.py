"""At full size every component has exactly the keys and shapes of the public checkpoint."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from torch import nn

Manifest = dict[str, list[int]]

COMPONENTS = (
    "denoising_unet",
    "reference_unet",
    "face_locator",
    "image_proj",
    "audio_proj",
    "vae",
    "wav2vec",
)
NET_PREFIXES = {
    "denoising_unet": "denoising_unet.",
    "reference_unet": "reference_unet.",
    "face_locator": "face_locator.",
    "image_proj": "imageproj.",
    "audio_proj": "audioproj.",
}


@pytest.fixture(scope="module")
def manifests(repository: Path) -> dict[str, Manifest]:
    """Keys and shapes of each component, from the compact copy in the repository."""
    path = repository / "tests" / "golden" / "manifests" / "hallo.json.gz"
    content: dict[str, Manifest] = json.loads(gzip.decompress(path.read_bytes()))
    return content


@pytest.fixture(scope="module")
def modules() -> dict[str, nn.Module]:
    """Full-size components without memory."""
    from lcp_bench.models.hallo import build_modules

    return build_modules(size="full", device="meta")


@pytest.mark.parametrize("component", COMPONENTS)
def test_full_size_keys_and_shapes(
    component: str, modules: dict[str, nn.Module], manifests: dict[str, Manifest]
) -> None:
    built = {key: list(tensor.shape) for key, tensor in modules[component].state_dict().items()}
    expected = manifests[component]
    assert sorted(expected.keys() - built.keys())[:5] == []
    assert sorted(built.keys() - expected.keys())[:5] == []
    assert [f"{key} {built[key]}" for key in expected if built[key] != expected[key]] == []


def test_nothing_lies_outside_the_state_dict(modules: dict[str, nn.Module]) -> None:
    """A buffer that is not saved would have no value after a strict load onto a meta module."""
    for component, module in modules.items():
        tensors = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        assert tensors - module.state_dict().keys() == set(), component


def test_totals(manifests: dict[str, Manifest]) -> None:
    """The counts of the public net.pth: tensors, and numbers including the 42 position tables."""
    net = [shape for component in NET_PREFIXES for shape in manifests[component].values()]
    numbers = sum(_product(shape) for shape in net)
    assert (len(net), numbers) == (2656, 2_424_802_964)


def test_copy_equals_the_shared_manifests(shared_dir: Path, manifests: dict[str, Manifest]) -> None:
    folder = shared_dir / "specs" / "manifests"
    for component in COMPONENTS:
        assert json.loads((folder / f"hallo_{component}.json").read_text()) == manifests[component], component
    joined = {NET_PREFIXES[name] + key: shape for name in NET_PREFIXES for key, shape in manifests[name].items()}
    assert json.loads((folder / "hallo_net.json").read_text()) == joined


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
