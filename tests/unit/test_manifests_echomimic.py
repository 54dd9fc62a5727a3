"""At full size every component of EchoMimic has exactly the keys and shapes of the public checkpoint."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from torch import nn

Manifest = dict[str, list[int]]

FILES = {
    "denoising_unet": "denoising_unet",
    "reference_unet": "reference_unet",
    "face_locator": "face_locator",
    "vae": "vae",
    "whisper": "whisper_tiny",
}
"""Component to the manifest of its public file."""
SPEECH = "encoder."
"""Whisper's file has a decoder too, which nobody reads."""


@pytest.fixture(scope="module")
def manifests(repository: Path) -> dict[str, Manifest]:
    """Keys and shapes of each component, from the compact copy in the repository."""
    path = repository / "tests" / "golden" / "manifests" / "echomimic.json.gz"
    content: dict[str, Manifest] = json.loads(gzip.decompress(path.read_bytes()))
    return content


@pytest.fixture(scope="module")
def modules() -> dict[str, nn.Module]:
    """Full-size components without memory."""
    from lcp_bench.models.echomimic import build_modules

    return build_modules(size="full", device="meta")


@pytest.mark.parametrize("component", FILES)
def test_full_size_keys_and_shapes(
    component: str, modules: dict[str, nn.Module], manifests: dict[str, Manifest]
) -> None:
    built = {key: list(tensor.shape) for key, tensor in modules[component].state_dict().items()}
    expected = manifests[FILES[component]]
    if component == "whisper":
        expected = {key.removeprefix(SPEECH): shape for key, shape in expected.items() if key.startswith(SPEECH)}
    assert sorted(expected.keys() - built.keys())[:5] == []
    assert sorted(built.keys() - expected.keys())[:5] == []
    assert [f"{key} {built[key]}" for key in expected if built[key] != expected[key]] == []


def test_nothing_lies_outside_the_state_dict(modules: dict[str, nn.Module]) -> None:
    """A buffer that is not saved would have no value after a strict load onto a meta module."""
    for component, module in modules.items():
        tensors = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        assert tensors - module.state_dict().keys() == set(), component


def test_the_two_files_of_the_denoising_unet(manifests: dict[str, Manifest]) -> None:
    """Its temporal modules are published apart, with their 42 position tables."""
    own = {key: shape for key, shape in manifests["denoising_unet"].items() if "motion_modules" not in key}
    apart = {key: shape for key, shape in manifests["denoising_unet"].items() if "motion_modules" in key}
    tables = [shape for key, shape in apart.items() if key.endswith(".pe")]
    numbers = [sum(math.prod(shape) for shape in each) for each in (own.values(), apart.values(), tables)]
    assert (len(own), len(apart), len(tables)) == (686, 588, 42)
    assert numbers == [849_936_324, 453_209_280 + 1_208_320, 1_208_320]


def test_copy_equals_the_shared_manifests(shared_dir: Path, manifests: dict[str, Manifest]) -> None:
    folder = shared_dir / "specs" / "manifests"
    for name in FILES.values():
        assert json.loads((folder / f"echomimic_{name}.json").read_text()) == manifests[name], name
