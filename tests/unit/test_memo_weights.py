"""MEMO's public folder layout, written here with tiny components under the public names and loaded strictly."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.fetch import usage
from lcp_bench.models.emotion import emotion_labels
from lcp_bench.models.memo_networks import build_modules
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights import emotion2vec
from lcp_bench.models.weights.emotion2vec import describe_emotion2vec, load_emotion2vec
from lcp_bench.models.weights.layout_memo import (
    CONFIG_FILES,
    FOLDERS,
    MEMO_LAYOUT,
    build_memo,
    describe_memo,
    load_memo,
)
from lcp_bench.models.weights.seeded import draw_on_device
from lcp_bench.models.weights.sources import files_for
from lcp_bench.preflight import load_run_config

OPTIONS: dict[str, Any] = {
    "_class_name": "UNet3DConditionModel",
    "in_channels": 4,
    "block_out_channels": [32, 32, 32, 32],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "norm_eps": 1e-5,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "audio_attention_dim": 16,
    "use_inflated_groupnorm": True,
    "emo_drop_rate": 0.3,
    "center_input_sample": False,
    "motion_module_kwargs": {
        "num_attention_heads": 4,
        "attention_block_types": ["Temporal_Self", "Temporal_Self"],
        "temporal_position_encoding_max_len": 20,
    },
}
UNETS = ("denoising_unet", "reference_unet")
State = dict[str, torch.Tensor]


def place(component: str, name: str) -> str:
    """A component's file below the weights folder."""
    return f"{FOLDERS[component]}/{name}"


DENOISING_CONFIG = place("denoising_unet", "config.json")


@pytest.fixture(scope="module")
def originals() -> dict[str, State]:
    """State dicts that `tree` holds."""
    modules = build_modules("tiny", "meta", OPTIONS)
    for component, module in modules.items():
        draw_on_device(module, 0, "cpu", torch.float32, component=component)
    return {component: dict(module.state_dict()) for component, module in modules.items()}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, originals: dict[str, State]) -> Path:
    """A weights folder in the public layout, written once."""
    root, modules = tmp_path_factory.mktemp("public"), build_modules("tiny", "meta", OPTIONS)
    for component, source in MEMO_LAYOUT.items():
        (root / source.file).parent.mkdir(parents=True)
        save_file(originals[component], root / source.file)
        built = getattr(modules[component], "config", None)
        stated = {key: getattr(built, key) for key in source.config_keys} | {"_class_name": "Module"}
        (root / source.file).with_name("config.json").write_text(json.dumps(OPTIONS if component in UNETS else stated))
    return root


@pytest.fixture
def tree(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the public layout that a test may spoil."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(template, tmp_path / "weights"))


def load(root: Path, dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
    modules = build_memo(root, "tiny")
    load_memo(modules, root, torch.device("cpu"), dtype)
    return modules


def change(path: Path, **values: Any) -> None:
    """Replace values of a configuration; None removes one."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_the_folders_configuration_shapes_the_unets_and_every_weight_arrives(
    tree: Path, originals: dict[str, State]
) -> None:
    modules = load(tree)
    for component, state in originals.items():
        loaded = modules[component].state_dict()
        assert [key for key in state if not torch.equal(loaded[key], state[key])] == [], component
        assert not modules[component].training
    unet = modules["denoising_unet"]
    assert isinstance(unet, UNet)
    assert (unet.config.heads, unet.config.norm_groups, unet.config.layers_per_block) == (2, 4, 1)
    assert unet.config.temporal is not None and unet.config.temporal.max_frames == 20


def test_half_precision_but_some_stay_float32(tree: Path) -> None:
    types_of = {name: {tensor.dtype for tensor in module.state_dict().values()} for name, module in
                load(tree, torch.bfloat16).items()}  # fmt: skip
    for component in ("audio_proj", "emotion_classifier", "wav2vec"):
        assert types_of.pop(component) == {torch.float32}
    assert all(found == {torch.bfloat16} for found in types_of.values())


def test_identity_follows_weights_and_configuration(tree: Path) -> None:
    first = describe_memo(tree)
    assert {file.place for file in first.files} >= {*CONFIG_FILES, *(source.file for source in MEMO_LAYOUT.values())}
    change(tree / DENOISING_CONFIG, _diffusers_version="0.31.0")
    assert describe_memo(tree).identity != first.identity


def remove(root: Path) -> None:
    (root / place("audio_proj", "diffusion_pytorch_model.safetensors")).unlink()


def grow_a_key(root: Path) -> None:
    path = root / place("image_proj", "diffusion_pytorch_model.safetensors")
    save_file({**load_file(path), "proj.more": torch.zeros(1)}, path)


def truncate(root: Path) -> None:
    path = root / place("reference_unet", "diffusion_pytorch_model.safetensors")
    path.write_bytes(path.read_bytes()[:5000])


def web_page(root: Path) -> None:
    (root / DENOISING_CONFIG).write_text("<html>")


MOTION = OPTIONS["motion_module_kwargs"]
SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (remove, r"1 of 14 weight files are missing.*audio_proj.*lcp_bench\.fetch \+model=memo"),
    "key": (grow_a_key, r"1 unexpected: proj\.more"),
    "truncated": (truncate, "truncated, or not a safetensors file"),
    "no heads": (
        lambda root: change(root / DENOISING_CONFIG, attention_head_dim=None),
        r"does not say attention_head_dim, which the weights alone do not reveal",
    ),
    "no motion": (
        lambda root: change(root / DENOISING_CONFIG, motion_module_kwargs={}),
        r"does not say attention_block_types, num_attention_heads, temporal_position_encoding_max_len",
    ),
    "length": (
        lambda root: change(
            root / DENOISING_CONFIG, motion_module_kwargs=MOTION | {"temporal_position_encoding_max_len": 24}
        ),
        r"of another shape: .*pos_encoder\.pe expected \(1, 24, 32\) got \(1, 20, 32\)",
    ),
    "not implemented": (
        lambda root: change(root / DENOISING_CONFIG, use_linear_projection=True),
        r"is of another model: MEMO's option use_linear_projection=True is not implemented",
    ),
    "reference": (
        lambda root: change(root / place("reference_unet", "config.json"), norm_num_groups=8),
        r"reference_net/config\.json is of another model: norm_num_groups expected 4 got 8",
    ),
    "classifier": (
        lambda root: change(root / place("emotion_classifier", "config.json"), num_classifier_layers=3),
        r"num_classifier_layers expected 5 got 3",
    ),
    "no json": (web_page, "expected a JSON configuration"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_does_not_fit_is_refused(name: str, tree: Path) -> None:
    spoil, message = SPOILT[name]
    spoil(tree)
    with pytest.raises(WeightsError, match=message):
        load(tree)


def test_fetch_brings_what_the_layout_needs() -> None:
    required = {file.place for file in files_for("memo")}
    configs = {source.config for source in MEMO_LAYOUT.values() if source.config}
    assert required == {*CONFIG_FILES, *configs, *(source.file for source in MEMO_LAYOUT.values())}
    extra = {file.place for file in files_for("memo", ["emotion2vec"])} - required
    assert extra >= {f"{emotion2vec.FOLDER}/{name}" for name in emotion2vec.FILES}
    assert "memo" in usage() and "emotion2vec" in usage()


# ------------------------------------------------------------------ the emotion


def test_emotions_that_nobody_can_have() -> None:
    public = load_run_config(["+model=memo", "+accel=none"]).model
    assert public.emotion == "classified"
    with pytest.raises(ConfigError, match=r"with seeded weights must be a label in 0\.\.9"):
        replace(public, weights="seeded")
    with pytest.raises(ConfigError, match=r"model\.emotion must be in 0\.\.9, got 10"):
        replace(public, emotion=10)
    with pytest.raises(ConfigError, match=r"a label in 0\.\.9, or 'classified', got None"):
        replace(public, emotion=None)
    with pytest.raises(ConfigError, match="absent, only memo has one, got 3"):
        replace(public, name="hallo", emotion=3)


class Network(nn.Module):
    """Stands for emotion2vec: features are the sound's own, cut in steps."""

    def extract_features(self, sound: torch.Tensor, padding_mask: None) -> dict[str, torch.Tensor]:
        assert padding_mask is None
        return {"x": sound.unflatten(1, (-1, 1024))}


@pytest.fixture
def encoder_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with the encoder's files, and a package that loads them."""
    folder = tmp_path / emotion2vec.FOLDER
    folder.mkdir()
    for name in emotion2vec.FILES:
        (folder / name).write_text("{}")
    torch.save({"model": {"weight": torch.zeros(2)}}, folder / emotion2vec.WEIGHTS)
    package = types.ModuleType(emotion2vec.PACKAGE)
    package.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    package.AutoModel = lambda **told: types.SimpleNamespace(model=Network())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, emotion2vec.PACKAGE, package)
    return tmp_path


def test_emotion2vec_through_its_package(encoder_folder: Path) -> None:
    encoder = load_emotion2vec(encoder_folder, torch.device("cpu"))
    assert [file.place for file in describe_emotion2vec(encoder_folder).files] == [
        f"{emotion2vec.FOLDER}/{name}" for name in emotion2vec.FILES
    ]
    classifier = nn.Linear(1024, 9)
    labels = emotion_labels(torch.randn(3 * 1024 * 16), 1024 * 16, 90, encoder, classifier)
    assert labels.shape == (90,) and labels.min() >= 0 and labels.max() < 9
    short = emotion_labels(torch.randn(1024), 1024 * 16, 16, encoder, classifier)
    assert short.unique().numel() == 1


class Unsafe:
    """A pickle that would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def test_emotion2vec_that_is_missing_or_dangerous(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = encoder_folder / emotion2vec.FOLDER / emotion2vec.WEIGHTS
    path.write_bytes(pickle.dumps(Unsafe(), protocol=2))
    with pytest.raises(WeightsError, match=r"holds more than tensors.*model\.emotion=0\.\.8"):
        load_emotion2vec(encoder_folder, torch.device("cpu"))
    assert "unpickled" not in capsys.readouterr().out
    path.unlink()
    with pytest.raises(WeightsError, match=r"expected model\.pt in .*extras=emotion2vec"):
        describe_emotion2vec(encoder_folder)
    monkeypatch.delitem(sys.modules, emotion2vec.PACKAGE)
    with pytest.raises(ConfigError, match=r"needs the package funasr.*give the label yourself with model\.emotion"):
        describe_emotion2vec(encoder_folder)
