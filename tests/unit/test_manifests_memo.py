"""At full size every network of MEMO has exactly the keys and shapes of the public checkpoint."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from torch import nn

Manifest = dict[str, list[int]]

FILES = {
    "denoising_unet": "diffusion_net",
    "reference_unet": "reference_net",
    "image_proj": "image_proj",
    "audio_proj": "audio_proj",
    "emotion_classifier": "audio_emotion_classifier",
}
"""Component to the manifest of its public file."""
SHARED_WITH_HALLO = {"vae": "vae", "wav2vec": "wav2vec2"}


@pytest.fixture(scope="module")
def manifests(repository: Path) -> dict[str, Manifest]:
    """Keys and shapes of each component, from the compact copy in the repository."""
    path = repository / "tests" / "golden" / "manifests" / "memo.json.gz"
    content: dict[str, Manifest] = json.loads(gzip.decompress(path.read_bytes()))
    return content


@pytest.fixture(scope="module")
def modules() -> dict[str, nn.Module]:
    """Full-size components without memory."""
    from lcp_bench.models.memo_networks import build_modules

    return build_modules("full")


@pytest.mark.parametrize("component", [*FILES, *SHARED_WITH_HALLO])
def test_full_size_keys_and_shapes(
    component: str, modules: dict[str, nn.Module], manifests: dict[str, Manifest]
) -> None:
    built = {key: list(tensor.shape) for key, tensor in modules[component].state_dict().items()}
    expected = manifests[(FILES | SHARED_WITH_HALLO)[component]]
    assert sorted(expected.keys() - built.keys())[:5] == []
    assert sorted(built.keys() - expected.keys())[:5] == []
    assert [f"{key} {built[key]}" for key in expected if built[key] != expected[key]] == []


def test_nothing_lies_outside_the_state_dict(modules: dict[str, nn.Module]) -> None:
    """A buffer that is not saved would have no value after a strict load onto a meta module."""
    for component, module in modules.items():
        tensors = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        assert tensors - module.state_dict().keys() == set(), component


def test_totals(manifests: dict[str, Manifest]) -> None:
    """Tensors and numbers of the two large public files, the 42 position tables included."""
    counted = {
        name: (len(manifests[name]), sum(math.prod(shape) for shape in manifests[name].values()))
        for name in ("diffusion_net", "reference_net")
    }
    assert counted == {"diffusion_net": (2114, 1_678_033_540), "reference_net": (662, 857_066_560)}


def test_copy_equals_the_shared_manifests(shared_dir: Path, manifests: dict[str, Manifest]) -> None:
    for name, manifest in manifests.items():
        path = shared_dir / "specs" / "manifests" / f"memo_{name}.json"
        assert json.loads(path.read_text()) == manifest, name
