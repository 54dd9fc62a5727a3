"""The backbones have exactly the keys and shapes of the public weight files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lcp_bench.models.weights.seeded import apply_seeded_v1
from metrics.errors import MetricError
from metrics.nets.bisenet import BiSeNet
from metrics.nets.i3d import I3d
from metrics.nets.inception import FidInception
from metrics.nets.lpips import Lpips
from metrics.nets.recon import ReconNet
from metrics.nets.s3fd import S3fd
from metrics.nets.syncnet import SyncNet

NETS: dict[str, Callable[[], nn.Module]] = {
    "i3d_piergiaj": lambda: I3d("piergiaj"),
    "i3d_videogpt": lambda: I3d("videogpt"),
    "fid_inception": FidInception,
    "syncnet": SyncNet,
    "s3fd": S3fd,
    "recon_resnet50": ReconNet,
    "bisenet": BiSeNet,
    "bisenet_yakhyo_resnet18": lambda: BiSeNet("yakhyo"),
    "bisenet_yakhyo_resnet34": lambda: BiSeNet("yakhyo", "resnet34"),
    "lpips_alex": lambda: Lpips("alex"),
    "lpips_vgg": lambda: Lpips("vgg"),
}
FLOATS_TIMES_4 = {
    "i3d_videogpt": 50_847_296,
    "fid_inception": 95_541_568,
    "syncnet": 54_561_024,
    "s3fd": 89_836_440,
    "recon_resnet50": 96_350_980,
    "bisenet": 53_252_352,
    "bisenet_yakhyo_resnet18": 55_304_352,
    "bisenet_yakhyo_resnet34": 95_766_688,
}
"""Bytes of the floating-point numbers of each public file; the file is slightly larger."""
MANIFESTS = Path(__file__).parents[1] / "golden" / "manifests" / "metrics.json.gz"


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, list[int]]]:
    content: dict[str, dict[str, list[int]]] = json.loads(gzip.decompress(MANIFESTS.read_bytes()))
    return content


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return NETS[name]()


@pytest.mark.parametrize("name", NETS)
def test_keys_and_shapes(name: str, manifests: dict[str, dict[str, list[int]]]) -> None:
    built = {key: list(tensor.shape) for key, tensor in meta(name).state_dict().items()}
    expected = manifests[name]
    assert sorted(expected.keys() - built.keys())[:5] == []
    assert sorted(built.keys() - expected.keys())[:5] == []
    assert [f"{key} {built[key]}" for key in expected if built[key] != expected[key]] == []


@pytest.mark.parametrize("name", NETS)
def test_nothing_lies_outside_the_state_dict(name: str) -> None:
    """A buffer that is not saved would have no value after a strict load onto a meta module."""
    module = meta(name)
    tensors = {*dict(module.named_parameters()), *dict(module.named_buffers())}
    assert tensors - module.state_dict().keys() == set()


@pytest.mark.parametrize("name", FLOATS_TIMES_4)
def test_sizes_of_the_public_files(name: str) -> None:
    numbers = sum(tensor.numel() for tensor in meta(name).state_dict().values() if tensor.is_floating_point())
    assert 4 * numbers == FLOATS_TIMES_4[name]


def test_copy_equals_the_shared_manifests(shared_dir: Path, manifests: dict[str, dict[str, list[int]]]) -> None:
    found = {
        path.stem.removeprefix("metrics_"): json.loads(path.read_text())
        for path in (shared_dir / "specs" / "manifests").glob("metrics_*.json")
    }
    assert found == manifests
    assert set(found) == set(NETS)


def test_both_namings_are_one_network() -> None:
    """The published renaming, applied to one set of weights, gives the same logits."""
    first, second = BiSeNet("zllrunning").eval(), BiSeNet("yakhyo").eval()
    apply_seeded_v1(first, 3)
    renamed = {}
    for key, tensor in first.state_dict().items():
        if key.startswith("cp.resnet."):
            renamed[key.replace("cp.resnet.", "fpn.backbone.")] = tensor
            continue
        key = key.replace("cp.", "fpn.", 1) if key.startswith("cp.") else key
        if ".arm" in key:
            key = key.replace(".conv.", ".conv_block.", 1).replace("conv_atten", "attention.0")
            key = key.replace("bn_atten", "attention.1").replace("conv_block.bn", "conv_block.conv.bn", 1)
            key = key.replace("conv_block.conv.bn", "conv_block.bn")
        key = key.replace("ffm.convblk", "ffm.conv_block")
        if key.startswith("conv_out"):
            head, _, rest = key.partition(".")
            key = f"{head}." + (rest.replace("conv.", "conv_block.", 1) if rest.startswith("conv.") else "conv.weight")
        renamed[key.replace(".bn.", ".norm.")] = tensor
    extra = {key: value for key, value in second.state_dict().items() if ".fc." in key}
    second.load_state_dict(renamed | extra, strict=True)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(first(image), second(image), rtol=0, atol=0)


def test_wrong_layouts_and_names_are_refused() -> None:
    wrong = torch.zeros(1, 4, 32, 32)
    for name, message in (
        ("fid_inception", "299"),
        ("recon_resnet50", "224"),
        ("s3fd", "height, width"),
        ("bisenet", "height, width"),
    ):
        with pytest.raises(MetricError, match=message):
            meta(name)(wrong)
    with pytest.raises(MetricError, match="at least 9 frames"):
        meta("i3d_videogpt")(torch.zeros(1, 3, 8, 224, 224))
    with pytest.raises(MetricError, match="videogpt"):
        I3d("inflated")  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="yakhyo"):
        BiSeNet("other")  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="alex"):
        Lpips("squeeze")  # type: ignore[arg-type]


def test_the_disco_pool_keeps_time() -> None:
    """Its window is one step of time, so eight latent steps of two give two logits, where the others give one."""
    with torch.device("meta"):
        pooled = I3d("disco").eval().pooled(torch.zeros(1, 3, 16, 224, 224))
    assert pooled.shape == (1, 1024, 2, 1, 1)
