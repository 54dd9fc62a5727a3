"""Reading weight files safely and loading them strictly."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.weights.checkpoint import TensorFile, load_strict

ADVICE = "get it with: python -m lcp_bench.fetch +model=hallo"


def _module(device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 32))


def _save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def _load(path: Path, **options: Any) -> nn.Module:
    module = _module("meta")
    with TensorFile(path, advice=ADVICE) as tensors:
        load_strict(module, tensors, file=path, device="cpu", dtype=torch.float32, **options)
    return module


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.ckpt", "a.bin", "a.pt"])
def test_round_trip_is_bit_equal(tmp_path: Path, name: str) -> None:
    state = _module().state_dict()
    loaded = _load(_save(tmp_path / name, state))
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_old_torch_format_and_wrapped_dictionaries_are_read(tmp_path: Path) -> None:
    state = _module().state_dict()
    torch.save(
        {"state_dict": state, "step": 3},
        tmp_path / "old.ckpt",
        _use_new_zipfile_serialization=False,
    )
    assert torch.equal(_load(tmp_path / "old.ckpt").state_dict()["0.weight"], state["0.weight"])


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    """A mapped file that is overwritten later must not change (or crash) a loaded model."""
    state = _module().state_dict()
    path = _save(tmp_path / "a.pth", state)
    loaded = _load(path)
    with path.open("r+b") as stream:
        stream.write(b"\xff" * path.stat().st_size)
    assert torch.equal(loaded.state_dict()["0.weight"], state["0.weight"])


def test_casts_floats_but_not_integers(tmp_path: Path) -> None:
    module = nn.BatchNorm1d(3)
    path = _save(tmp_path / "a.safetensors", module.state_dict())
    with torch.device("meta"):
        target = nn.BatchNorm1d(3)
    with TensorFile(path) as tensors:
        load_strict(target, tensors, file=path, device="cpu", dtype=torch.float16)
    assert target.weight.dtype == torch.float16
    assert target.state_dict()["num_batches_tracked"].dtype == torch.int64


def test_prefix_rename_drop_and_optional(tmp_path: Path) -> None:
    state = _module().state_dict()
    stored = {f"net.{key.replace('2.', 'head.')}": tensor for key, tensor in state.items() if key != "1.bias"}
    stored |= {"net.lm_head.weight": torch.zeros(2), "other.weight": torch.zeros(2)}

    def rename(key: str) -> str | None:
        return None if key.startswith("lm_head.") else key.replace("head.", "2.")

    loaded = _load(
        _save(tmp_path / "a.pth", stored),
        prefix="net.",
        rename=rename,
        optional={"1.bias"},
    ).state_dict()
    assert torch.equal(loaded["2.weight"], state["2.weight"])
    assert torch.equal(loaded["1.bias"], torch.zeros(64))


def test_misfit_is_one_error_with_file_counts_and_first_keys(tmp_path: Path) -> None:
    state = _module().state_dict()
    del state["0.weight"], state["0.bias"]
    state["1.weight"] = torch.zeros(65)
    state |= {f"extra.{number}": torch.zeros(1) for number in range(7)}
    path = _save(tmp_path / "a.pth", state)
    with pytest.raises(WeightsError) as caught:
        _load(path, advice=ADVICE)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit the model: expected 6 tensors, got 11: ")
    assert "2 missing: 0.weight, 0.bias;" in message
    assert "7 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more;" in message
    assert "1 of another shape: 1.weight expected (64,) got (65,);" in message
    assert message.endswith(ADVICE)


def test_two_file_keys_for_one_module_key_are_refused(tmp_path: Path) -> None:
    state = _module().state_dict()
    path = _save(tmp_path / "a.pth", {**state, "old.weight": state["0.weight"].clone()})
    with pytest.raises(WeightsError, match=r"1 unexpected: old\.weight"):
        _load(path, rename=lambda key: key.replace("old.", "0."))


def test_misfit_is_found_before_any_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "a.safetensors", {"0.weight": torch.zeros(64, 64)})
    monkeypatch.setattr(TensorFile, "__getitem__", lambda self, key: pytest.fail(f"read {key}"))
    with pytest.raises(WeightsError, match="5 missing"):
        _load(path)


class Trap:
    """Pickles to a call of os.mkdir."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["torch", "torch-old", "plain"])
def test_no_code_in_a_file_is_ever_run(tmp_path: Path, kind: str) -> None:
    trap = {"0.weight": Trap(tmp_path / "owned")}
    path = tmp_path / "a.pth"
    if kind == "plain":
        path.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(WeightsError, match=r"a\.pth: .*(more than tensors|not a torch file)"):
        TensorFile(path)
    assert not (tmp_path / "owned").exists()


def _truncate(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.pth", lambda path: path.unlink(), "the file is missing"),
    "empty": ("a.pth", lambda path: path.write_bytes(b""), "the file is empty"),
    "web page": (
        "a.pth",
        lambda path: path.write_text("\n<!DOCTYPE html><html>404"),
        "got a web page",
    ),
    "pointer": (
        "a.pth",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git-lfs pointer",
    ),
    "text": (
        "a.pth",
        lambda path: path.write_text("not weights at all"),
        "not a torch file",
    ),
    "truncated torch": (
        "a.pth",
        lambda path: _truncate(path, 0.6),
        "truncated, or not a torch file",
    ),
    "nearly whole torch": (
        "a.pth",
        lambda path: _truncate(path, 0.999),
        "truncated, or not a torch file",
    ),
    "truncated header": (
        "a.safetensors",
        lambda path: _truncate(path, 0.005),
        "truncated, or not a safetensors file",
    ),
    "truncated safetensors": (
        "a.safetensors",
        lambda path: _truncate(path, 0.6),
        "truncated, or not a safetensors",
    ),
    "one byte short": (
        "a.safetensors",
        lambda path: _truncate(path, 0.9999),
        "truncated, or not a safetensors file",
    ),
    "empty safetensors": (
        "a.safetensors",
        lambda path: path.write_bytes(b""),
        "the file is empty",
    ),
    "a list": (
        "a.pth",
        lambda path: torch.save([torch.zeros(1)], path),
        "expected a dictionary of tensors, got list",
    ),
    "numbers": (
        "a.pth",
        lambda path: torch.save({"a": torch.zeros(1), "b": 2}, path),
        r"only tensors, got 1 .*\['b'\]",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_one_error_that_names_file_and_remedy(tmp_path: Path, case: str) -> None:
    name, spoil, problem = BAD_FILES[case]
    path = _save(tmp_path / name, _module().state_dict())
    spoil(path)
    with pytest.raises(WeightsError, match=problem) as caught:
        TensorFile(path, advice=ADVICE)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(ADVICE)
    assert "\n" not in str(caught.value)


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"\.safetensors, \.pth"):
        TensorFile(tmp_path / "weights.npz")
