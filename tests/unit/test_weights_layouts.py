"""The public Hallo folder layout, written here with tiny components under the public names and loaded strictly."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.temporal import PositionTable
from lcp_bench.models.weights import hashing
from lcp_bench.models.weights.layouts import (
    HALLO_LAYOUT,
    WeightsReport,
    describe_hallo,
    load_hallo,
    rename_vae,
    rename_wav2vec,
)
from lcp_bench.models.weights.lockfile import LockEntry, write_lock
from lcp_bench.models.weights.seeded import draw_on_device

State = dict[str, torch.Tensor]

NET = "hallo/net.pth"
VAE = "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"
SPEECH = "wav2vec/wav2vec2-base-960h/model.safetensors"
UNET_CONFIG = "stable-diffusion-v1-5/unet/config.json"
TINY_UNET = {"block_out_channels": [32, 64], "attention_head_dim": 8}
NET_PREFIXES = {
    "denoising_unet": "denoising_unet.",
    "reference_unet": "reference_unet.",
    "face_locator": "face_locator.",
    "image_proj": "imageproj.",
    "audio_proj": "audioproj.",
}


@cache
def _blueprint() -> dict[str, nn.Module]:
    from lcp_bench.models.hallo import build_modules

    return build_modules(size="tiny", device="meta")


def build(real: bool = False) -> dict[str, nn.Module]:
    """Tiny components on the meta device; large ones are replaced by smaller ones, for speed."""
    small = () if real else ("denoising_unet", "reference_unet", "audio_proj")
    modules = {name: deepcopy(module) for name, module in _blueprint().items() if name not in small}
    if not real:
        with torch.device("meta"):
            for name in ("denoising_unet", "reference_unet"):
                modules[name] = nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3), "pos_encoder": PositionTable(8, 4)})
            modules["audio_proj"] = nn.ModuleDict({"proj1": nn.Linear(8, 8)})
    return modules


def old_vae_name(key: str) -> str:
    """The name of an autoencoder key in files of 2022."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return key


def public_speech(state: State) -> State:
    """A speech recogniser's file of 2022: prefix, output head, split weight norm, no masking vector."""
    names = {
        ".parametrizations.weight.original0": ".weight_g",
        ".parametrizations.weight.original1": ".weight_v",
    }
    public = {"lm_head.weight": torch.zeros(3, 3), "lm_head.bias": torch.zeros(3)}
    for key, tensor in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        if key != "masked_spec_embed":
            public[f"wav2vec2.{key}"] = tensor
    return public


def write_tree(root: Path, originals: dict[str, State]) -> None:
    """Write state dicts, named as the model names them, as the public files."""
    for place in (NET, VAE, SPEECH, UNET_CONFIG):
        (root / place).parent.mkdir(parents=True)
    net = {prefix + key: tensor for name, prefix in NET_PREFIXES.items() for key, tensor in originals[name].items()}
    torch.save(net, root / NET)
    save_file(
        {old_vae_name(key): tensor for key, tensor in originals["vae"].items()},
        root / VAE,
    )
    save_file(public_speech(originals["wav2vec"]), root / SPEECH)
    (root / UNET_CONFIG).write_text(json.dumps(TINY_UNET | {"cross_attention_dim": 768}))
    for component, place in (("vae", VAE), ("wav2vec", SPEECH)):
        built = build()[component].config
        values = {key: getattr(built, key) for key in HALLO_LAYOUT[component].config_keys}
        (root / place).with_name("config.json").write_text(json.dumps(values))


def drawn(modules: dict[str, nn.Module]) -> dict[str, State]:
    """State dicts of components with seeded weights."""
    for component, module in modules.items():
        draw_on_device(module, 0, "cpu", torch.float32, component=component)
    return {component: dict(module.state_dict()) for component, module in modules.items()}


@pytest.fixture(scope="module")
def originals() -> dict[str, State]:
    """State dicts that `tree` holds."""
    return drawn(build())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, originals: dict[str, State]) -> Path:
    """A weights folder in the public layout, written once."""
    root = tmp_path_factory.mktemp("public")
    write_tree(root, originals)
    return root


@pytest.fixture
def tree(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the public layout that a test may spoil."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(template, tmp_path / "weights"))


def load(root: Path, dtype: torch.dtype = torch.float32) -> tuple[dict[str, nn.Module], WeightsReport]:
    modules = build()
    return modules, load_hallo(modules, root, "cpu", dtype, unet_config=TINY_UNET)


def assert_equal(modules: dict[str, nn.Module], originals: dict[str, State]) -> None:
    for component, state in originals.items():
        loaded = modules[component].state_dict()
        assert loaded.keys() == state.keys()
        wrong = [key for key in state if key != "masked_spec_embed" and not torch.equal(loaded[key], state[key])]
        assert wrong == [], component
        assert not modules[component].training


def test_real_modules_load_bit_equal(tmp_path: Path) -> None:
    originals = drawn(build(real=True))
    write_tree(tmp_path, originals)
    modules = build(real=True)
    load_hallo(modules, tmp_path, "cpu", torch.float32, unet_config=TINY_UNET)
    assert_equal(modules, originals)


def test_public_names_are_understood_and_the_report_is_complete(tree: Path, originals: dict[str, State]) -> None:
    assert {"decoder.mid_block.attentions.0.proj_attn.weight"} <= load_file(tree / VAE).keys()
    modules, report = load(tree)
    assert_equal(modules, originals)
    assert torch.count_nonzero(modules["wav2vec"].state_dict()["masked_spec_embed"]) == 0
    places = [file.place for file in report.files]
    assert places[:3] == [NET, VAE, SPEECH] and len(places) == 6
    digest = hashlib.sha256((tree / NET).read_bytes()).hexdigest()
    assert (report.files[0].sha256, report.files[0].checked) == (digest, "unknown")
    assert report.files[1].checked == "differs"  # the public autoencoder is pinned, this one is another file
    assert json.loads(json.dumps(report.as_record()))["identity"] == report.identity


def test_half_precision_but_wav2vec_stays_float32(tree: Path) -> None:
    modules, _ = load(tree, torch.bfloat16)
    types = {name: {tensor.dtype for tensor in module.state_dict().values()} for name, module in modules.items()}
    assert types.pop("wav2vec") == {torch.float32}
    assert all(found == {torch.bfloat16} for found in types.values())


def test_identity_follows_the_content(tree: Path) -> None:
    first = load(tree)[1].identity
    assert load(tree)[1].identity == describe_hallo(tree).identity == first
    state = torch.load(tree / NET, weights_only=True)
    state["imageproj.proj.bias"][0] += 1
    torch.save(state, tree / NET)
    assert load(tree)[1].identity != first


def test_files_are_hashed_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tree)
    hashed: list[str] = []
    real = hashing.sha256_file

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(hashing, "sha256_file", counting)
    load(tree)
    assert hashed == []
    os.utime(tree / VAE, ns=(1, 1))
    load(tree)
    assert hashed == [Path(VAE).name]


def test_read_only_folder_remembers_hashes_in_the_cache(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashing.write_json

    def refuse(path: Path, content: object) -> None:
        if path.is_relative_to(tree):
            raise PermissionError(30, "read-only", str(path))
        real(path, content)

    monkeypatch.setattr(hashing, "write_json", refuse)
    load(tree)
    assert (tmp_path / "cache" / "lcp_bench").is_dir() and not (tree / hashing.SIDECAR).exists()
    monkeypatch.setattr(hashing, "sha256_file", lambda path: pytest.fail(f"hashed {path} again"))
    load(tree)


def test_missing_files_are_listed_together(tree: Path) -> None:
    (tree / NET).unlink()
    (tree / SPEECH).unlink()
    with pytest.raises(WeightsError) as caught:
        load(tree)
    message = str(caught.value)
    assert f"2 of 6 weight files are missing below {tree}: {NET}, {SPEECH};" in message
    assert f"python -m lcp_bench.fetch +model=hallo paths.weights={tree}" in message


def _rewrite(place: str, change: Callable[[State], object]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / place
        torch_file = path.suffix == ".pth"
        state = torch.load(path, weights_only=True) if torch_file else load_file(path)
        change(state)
        if torch_file:
            torch.save(state, path)
        else:
            save_file(state, path)

    return spoil


def _cut(place: str) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / place, (root / place).stat().st_size // 2)


MISFITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "key missing": (
        _rewrite(NET, lambda state: state.pop("face_locator.conv_in.bias")),
        r"net\.pth \(face_locator\.\*\) does not fit .* 1 missing: face_locator\.conv_in\.bias",
    ),
    "position table missing": (
        _rewrite(
            NET,
            lambda state: [state.pop(key) for key in list(state) if key.endswith(".pe")],
        ),
        r"net\.pth \(denoising_unet\.\*\) .* 1 missing: denoising_unet\.pos_encoder\.pe",
    ),
    "shape": (
        _rewrite(NET, lambda state: state.update({"imageproj.norm.weight": torch.zeros(5)})),
        r"net\.pth \(imageproj\.\*\) .*imageproj\.norm\.weight expected \(32,\) got \(5,\)",
    ),
    "foreign prefix": (
        _rewrite(NET, lambda state: state.update({"optimizer.step": torch.zeros(1)})),
        r"net\.pth .* 1 keys outside the prefixes .*optimizer\.step",
    ),
    "vae key": (
        _rewrite(VAE, lambda state: state.update({"encoder.extra": torch.zeros(1)})),
        r"model\.safetensors does not fit .* 1 unexpected: encoder\.extra",
    ),
    "wav2vec key": (
        _rewrite(
            SPEECH,
            lambda state: state.pop("wav2vec2.encoder.pos_conv_embed.conv.weight_g"),
        ),
        r"1 missing: encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0",
    ),
    "net truncated": (_cut(NET), r"net\.pth: truncated"),
    "vae truncated": (_cut(VAE), r"model\.safetensors: truncated"),
    "unet config": (
        lambda root: (root / UNET_CONFIG).write_text(json.dumps(TINY_UNET | {"attention_head_dim": 5})),
        r"unet/config\.json is of another model: attention_head_dim expected 8 got 5",
    ),
    "vae config": (
        lambda root: (root / VAE).with_name("config.json").write_text('{"norm_num_groups": 7}'),
        r"sd-vae-ft-mse/config\.json is of another model: norm_num_groups expected 16 got 7",
    ),
    "config is no json": (
        lambda root: (root / UNET_CONFIG).write_text("<html>"),
        r"unet/config\.json: expected a JSON configuration",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfit_is_one_error_and_changes_no_module(tree: Path, case: str) -> None:
    spoil, problem = MISFITS[case]
    spoil(tree)
    modules = build()
    with pytest.raises(WeightsError, match=problem) as caught:
        load_hallo(modules, tree, "cpu", torch.float32, unet_config=TINY_UNET)
    assert "lcp_bench.fetch +model=hallo" in str(caught.value) and "\n" not in str(caught.value)
    assert all(parameter.is_meta for name in NET_PREFIXES for parameter in modules[name].parameters())


def test_full_size_configuration_is_the_default(tree: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"block_out_channels expected \[320, 640, 1280, 1280\] got \[32, 64\]",
    ):
        load_hallo(build(), tree, "cpu", torch.float32)


def test_file_that_changed_since_it_was_fetched_is_refused(tree: Path) -> None:
    def entry(sha256: str) -> LockEntry:
        return LockEntry(repository="r", path=NET, revision="c", sha256=sha256, size_bytes=1)

    write_lock(tree, {NET: entry(hashing.sha256_file(tree / NET))})
    assert load(tree)[1].files[0].checked == "locked"
    write_lock(tree, {NET: entry("0" * 64)})
    with pytest.raises(
        WeightsError,
        match=r"net\.pth has changed since it was fetched: expected SHA-256 0000",
    ):
        load(tree)


def test_damaged_lock_is_named(tree: Path) -> None:
    (tree / "weights.lock.json").write_text('{"schema": 99}')
    with pytest.raises(
        WeightsError,
        match=r"weights\.lock\.json: expected a lock file of schema 1, got schema 99",
    ):
        load(tree)


def test_all_components_are_needed(tree: Path) -> None:
    modules = build()
    del modules["vae"]
    with pytest.raises(WeightsError, match=r"expected the components .*'vae'"):
        load_hallo(modules, tree, "cpu", torch.float32, unet_config=TINY_UNET)


def test_current_names_pass_unchanged() -> None:
    assert rename_vae("decoder.mid_block.attentions.0.to_q.weight") == "decoder.mid_block.attentions.0.to_q.weight"
    assert rename_wav2vec("encoder.layer_norm.weight") == "encoder.layer_norm.weight"
    assert rename_wav2vec("lm_head.weight") is None
