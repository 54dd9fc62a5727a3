"""Public weight files load strictly under their own names; whatever is wrong with one is said."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lcp_bench.models.weights.seeded import apply_seeded_v1
from metrics import weights
from metrics.cache import file_sha256
from metrics.errors import MetricError
from metrics.nets.lpips import PLANS, Lpips, trunk_key
from metrics.nets.syncnet import SyncNet
from metrics.weights import BACKBONES, load_backbone

NAME = "syncnet_v2.model"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    net = SyncNet()
    apply_seeded_v1(net, 5)
    return dict(net.state_dict())


def pin(monkeypatch: pytest.MonkeyPatch, name: str, **facts: Any) -> None:
    """Let a backbone expect the checksum of a file that a test made."""
    backbone = BACKBONES[name]
    monkeypatch.setitem(BACKBONES, name, replace(backbone, file=replace(backbone.file, **facts)))


def equal(module: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


def test_a_torch_file_loads(state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state, tmp_path / NAME)
    sha256 = file_sha256(tmp_path / NAME)
    pin(monkeypatch, "syncnet", sha256=sha256)
    loaded = load_backbone("syncnet", tmp_path)
    assert equal(loaded.module, state) and not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert (loaded.identity.name, loaded.identity.identity, loaded.identity.label) == (
        "syncnet",
        f"sha256:{sha256}",
        "public",
    )


def test_a_converted_file_keeps_the_identity_of_its_source(state: dict[str, Tensor], tmp_path: Path) -> None:
    source = BACKBONES["syncnet"].file.sha256
    assert source is not None
    save_file(state, tmp_path / "syncnet_v2.safetensors", {weights.SOURCE: source})
    loaded = load_backbone("syncnet", tmp_path)
    assert loaded.identity.identity == f"sha256:{source}" and loaded.identity.label == "public"


def test_old_files_may_lack_batch_counters(state: dict[str, Tensor], tmp_path: Path) -> None:
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, tmp_path / NAME)
    loaded = load_backbone("syncnet", tmp_path, allow_unpinned=True)
    assert equal(loaded.module, state) and loaded.identity.label == "unpinned"


def test_missing_extra_and_wrong_keys_are_listed(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = dict(state)
    wrong["extra.weight"] = wrong.pop("netfcaud.0.weight")
    wrong["netfclip.3.bias"] = torch.zeros(7)
    torch.save(wrong, tmp_path / NAME)
    with pytest.raises(MetricError) as caught:
        load_backbone("syncnet", tmp_path, allow_unpinned=True)
    text = str(caught.value)
    assert "1 missing: netfcaud.0.weight" in text and "1 unexpected: extra.weight" in text
    assert "netfclip.3.bias (7,) for (1024,)" in text and "SyncNet" in text


@pytest.mark.parametrize(
    ("key", "shape", "message"), [("extra.weight", (3,), "1 unexpected"), ("netfclip.3.bias", (7,), "another shape")]
)
def test_one_odd_tensor_is_enough(
    key: str, shape: tuple[int, ...], message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(state | {key: torch.zeros(shape)}, tmp_path / NAME)
    with pytest.raises(MetricError, match=message):
        load_backbone("syncnet", tmp_path, allow_unpinned=True)


def test_another_checksum_is_an_error(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / NAME)
    with pytest.raises(MetricError, match="not the published file: expected 961e8696"):
        load_backbone("syncnet", tmp_path)


def test_an_absent_file_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(MetricError) as caught:
        load_backbone("fid_inception", tmp_path)
    text = str(caught.value)
    assert "pt_inception-2015-12-05-6726825d.pth" in text and str(tmp_path) in text
    assert "https://github.com/mseitzer/pytorch-fid" in text and "6726825d0af5" in text
    with pytest.raises(MetricError, match="syncnet"):
        load_backbone("arcface", tmp_path)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1",))


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(pickle.dumps(_Code(), protocol=2))
    with pytest.raises(MetricError, match="plain tensors"):
        load_backbone("syncnet", tmp_path)
    (tmp_path / NAME).write_bytes(b"")
    with pytest.raises(MetricError, match="plain tensors"):
        load_backbone("syncnet", tmp_path)
    torch.save([1, 2], tmp_path / NAME)
    with pytest.raises(MetricError, match="mapping from names to tensors, got list"):
        load_backbone("syncnet", tmp_path)


def test_one_entry_of_a_file_with_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = nn.Linear(2, 3)
    torch.save({"net_recon": small.state_dict(), "opt_00": {"step": 3}}, tmp_path / "epoch_20.pth")
    monkeypatch.setitem(
        BACKBONES, "recon_resnet50", replace(BACKBONES["recon_resnet50"], build=lambda: nn.Linear(2, 3))
    )
    loaded = load_backbone("recon_resnet50", tmp_path, allow_unpinned=True)
    assert equal(loaded.module, dict(small.state_dict()))


def test_git_blob_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "i3d_pretrained_400.pt"
    torch.save(nn.Linear(2, 3).state_dict(), path)
    content = path.read_bytes()
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    monkeypatch.setitem(BACKBONES, "i3d_videogpt", replace(BACKBONES["i3d_videogpt"], build=lambda: nn.Linear(2, 3)))
    with pytest.raises(MetricError, match="git blob a867b87a"):
        load_backbone("i3d_videogpt", tmp_path)
    pin(monkeypatch, "i3d_videogpt", git_blob=blob)
    assert load_backbone("i3d_videogpt", tmp_path).identity.label == "public"
    converted = tmp_path / "i3d_pretrained_400.safetensors"
    save_file(dict(nn.Linear(2, 3).state_dict()), converted, {weights.SOURCE: "0" * 64, weights.SOURCE_BLOB: blob})
    assert load_backbone("i3d_videogpt", tmp_path).identity.label == "public"
    save_file(dict(nn.Linear(2, 3).state_dict()), converted)
    with pytest.raises(MetricError, match="not the published file"):
        load_backbone("i3d_videogpt", tmp_path)


def features(trunk: str) -> nn.Sequential:
    """torchvision's `features`, written from its published layer list."""
    if trunk == "alex":
        layers = [
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.MaxPool2d(3, 2))
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        channels = width or channels
    return nn.Sequential(*layers)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_equals_torchmetrics_given_the_same_trunk(
    trunk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trunk file in torchvision's naming, the real linear heads, and torchmetrics' own network around them."""
    import torchmetrics.functional.image.lpips as theirs

    net = features(trunk)
    torch.manual_seed(3)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    file = {f"features.{key}": value for key, value in net.state_dict().items()} | {"classifier.1.bias": torch.ones(3)}
    torch.save(file, tmp_path / BACKBONES[f"lpips_{trunk}"].file.names[0])
    ours = load_backbone(f"lpips_{trunk}", tmp_path, allow_unpinned=True)
    assert isinstance(ours.module, Lpips)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: net)
    reference = theirs._LPIPS(pretrained=True, net=trunk, pnet_rand=True)
    first, second = torch.rand(2, 2, 3, 64, 72, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.inference_mode():
        expected = reference(first, second).flatten()
        torch.testing.assert_close(ours.module(first, second), expected, rtol=1e-6, atol=0)
        assert float(expected.min()) > 0 and ours.module(first, first).abs().max() == 0


def test_trunk_keys_cover_every_layer() -> None:
    for trunk, plan in PLANS.items():
        keys = [f"features.{layer}.bias" for layer, what in enumerate(plan.layers) if len(what) == 4 and what != "relu"]
        assert {trunk_key(trunk, key) for key in keys} <= set(Lpips(trunk).state_dict())
        assert trunk_key(trunk, "classifier.6.weight") is None
