"""EchoMimic's public folder: two files for one network, dimensions in the files, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.echomimic import build_modules
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.layout_echomimic import DIMENSIONS, EchoMimicFiles
from lcp_bench.models.weights.layouts import HALLO_LAYOUT
from lcp_bench.models.weights.seeded import draw_on_device
from lcp_bench.models.weights.sources import files_for
from lcp_bench.models.whisper import WhisperEncoder

State = dict[str, Tensor]
UNET = {
    "attention_head_dim": 8, "block_out_channels": [32, 64, 128, 128], "layers_per_block": 2, "norm_eps": 1e-5,
    "norm_num_groups": 8, "act_fn": "silu", "cross_attention_dim": 768, "sample_size": 64,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
}  # fmt: skip
DIMS = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 32, "n_audio_head": 4, "n_audio_layer": 2, "n_vocab": 9}
VARIANTS = {"echomimic": "", "echomimic_acc": "_acc"}


@pytest.fixture(scope="module")
def originals() -> dict[str, nn.Module]:
    """The tiny networks with seeded weights; the denoising UNet is the accelerated one's."""
    modules = build_modules("tiny", "meta")
    for number, (name, module) in enumerate(modules.items()):
        draw_on_device(module, number, "cpu", torch.float32, component=name)
    return modules


def write_weights(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, originals: dict[str, nn.Module]) -> Path:
    """A weights folder as fetching makes it."""
    root = tmp_path_factory.mktemp("public")
    own = root / "echomimic"
    state: State = dict(originals["denoising_unet"].state_dict())
    spatial = {key: value for key, value in state.items() if "motion_modules" not in key}
    temporal = {key: value for key, value in state.items() if "motion_modules" in key}
    write_weights(own / "denoising_unet_acc.pth", spatial)
    write_weights(own / "motion_module_acc.pth", {key: value for key, value in temporal.items() if ".pe" not in key})
    write_weights(own / "denoising_unet.pth", {key: 2 * value for key, value in spatial.items()})
    write_weights(own / "motion_module.pth", temporal)
    write_weights(own / "reference_unet.pth", dict(originals["reference_unet"].state_dict()))
    write_weights(own / "face_locator.pth", dict(originals["face_locator"].state_dict()))
    heard = {f"encoder.{key}": value.half() for key, value in originals["whisper"].state_dict().items()}
    speech = {"dims": DIMS, "model_state_dict": heard | {"decoder.ln.weight": torch.ones(3)}}
    write_weights(own / "audio_processor/whisper_tiny.pt", speech)
    config = own / "sd-image-variations-diffusers/unet/config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(UNET))
    vae = root / HALLO_LAYOUT["vae"].file
    vae.parent.mkdir()
    save_file(dict(originals["vae"].state_dict()), vae)
    built: Any = originals["vae"].config
    vae.with_name("config.json").write_text(json.dumps({k: built[k] for k in HALLO_LAYOUT["vae"].config_keys}))
    return root


@pytest.fixture
def tree(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may spoil."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(template, tmp_path / "weights"))


def load(root: Path, model: str = "echomimic") -> dict[str, nn.Module]:
    files = EchoMimicFiles(model, "tiny")
    modules = files.build(root)
    files.load(modules, root, torch.device("cpu"), torch.float32)
    return modules


@pytest.mark.parametrize("model", VARIANTS)
def test_a_variant_loads_its_own_two_files(model: str, tree: Path, originals: dict[str, nn.Module]) -> None:
    """The accelerated files leave the position tables out, which are then computed."""
    other = VARIANTS["echomimic_acc" if model == "echomimic" else "echomimic"]
    for name in ("denoising_unet", "motion_module"):
        (tree / f"echomimic/{name}{other}.pth").unlink()
    for name, module in load(tree, model).items():
        wanted = originals[name].state_dict()
        for key, value in module.state_dict().items():
            scale = 2 if name == "denoising_unet" and model == "echomimic" and "motion_modules" not in key else 1
            rounded = wanted[key].half().float() if name == "whisper" else wanted[key]
            torch.testing.assert_close(value, scale * rounded, rtol=0, atol=1e-6, msg=f"{name} {key}")


def test_places_are_those_that_fetching_fills(tree: Path) -> None:
    for model, variant in VARIANTS.items():
        report = EchoMimicFiles(model).describe(tree)
        assert {file.place for file in report.files} == {file.place for file in files_for(model)}
        assert any(file.place == f"echomimic/motion_module{variant}.pth" for file in report.files)
    assert len({EchoMimicFiles(model).describe(tree).identity for model in VARIANTS}) == 2


def test_what_shapes_do_not_say_is_read(tree: Path) -> None:
    edit_config(tree, attention_head_dim=4, norm_num_groups=16)
    speech = tree / "echomimic/audio_processor/whisper_tiny.pt"
    content = torch.load(speech, weights_only=True)
    torch.save({**content, "dims": {**DIMS, "n_audio_head": 2}}, speech)
    modules = load(tree)
    unet, whisper = modules["denoising_unet"], modules["whisper"]
    assert isinstance(unet, UNet) and isinstance(whisper, WhisperEncoder)
    assert (unet.config.heads, unet.config.norm_groups) == (4, 16)
    assert whisper.blocks[0].attn.heads == 2


def edit_config(tree: Path, **changes: object) -> None:
    path = tree / "echomimic/sd-image-variations-diffusers/unet/config.json"
    options = {key: value for key, value in {**UNET, **changes}.items() if value is not None}
    path.write_text(json.dumps(options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_head_dim": None}, "does not say attention_head_dim"),
        ({"center_input_sample": True}, "config.json is of another model: .*center_input_sample"),
        (
            {"block_out_channels": [64, 64, 128, 128]},
            "denoising_unet.pth and .*motion_module.pth does not fit.*another shape",
        ),
        ({"block_out_channels": [16, 32, 64, 64]}, "config.json is of another model: no network has the sizes"),
        ({"layers_per_block": 3}, "does not fit the model.*missing"),
    ],
)
def test_another_configuration_is_refused(changes: dict[str, object], message: str, tree: Path) -> None:
    edit_config(tree, **changes)
    with pytest.raises(WeightsError, match=message):
        load(tree)


def test_another_speech_file_is_refused(tree: Path) -> None:
    speech = tree / "echomimic/audio_processor/whisper_tiny.pt"
    content = torch.load(speech, weights_only=True)
    for argument in DIMENSIONS:
        torch.save({**content, "dims": {k: v for k, v in DIMS.items() if k != argument}}, speech)
        with pytest.raises(WeightsError, match=f"no dims with whole numbers {argument}"):
            EchoMimicFiles("echomimic", "tiny").build(tree)
    torch.save({**content, "dims": {**DIMS, "n_audio_state": 64}}, speech)
    with pytest.raises(WeightsError, match=r"whisper_tiny.pt.*another shape"):
        load(tree)
    torch.save({"dims": DIMS, "model_state_dict": {"x": Path()}}, speech)
    with pytest.raises(WeightsError, match="truncated, or not a torch file"):
        load(tree)


def test_the_two_files_must_be_one_network(tree: Path) -> None:
    first, second = (tree / f"echomimic/{name}.pth" for name in ("denoising_unet", "motion_module"))
    spatial, temporal = (torch.load(path, weights_only=True) for path in (first, second))
    torch.save({**temporal, "conv_in.bias": spatial["conv_in.bias"]}, second)
    with pytest.raises(
        WeightsError, match=r"motion_module.pth: 1 tensors are in .*denoising_unet.pth too.*conv_in.bias"
    ):
        load(tree)
    torch.save({**temporal, "extra.weight": torch.zeros(1)}, second)
    with pytest.raises(WeightsError, match=r"1 unexpected: extra.weight"):
        load(tree)
    torch.save({key: value for key, value in temporal.items() if "mid_block" not in key}, second)
    with pytest.raises(WeightsError, match=r"missing: mid_block.motion_modules"):
        load(tree)
    second.unlink()
    with pytest.raises(WeightsError, match=r"1 of 8 weight files are missing.*motion_module.pth.*\+model=echomimic"):
        load(tree)
