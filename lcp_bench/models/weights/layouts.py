"""Public folder layouts: which file and prefix holds which component, and how its keys are named there.

A layout is a table; `load_layout` walks it. Hallo's table follows the public repository
`fudan-generative-ai/hallo`: one `net.pth` with five prefixes, the Stable Diffusion autoencoder and wav2vec2.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.weights.checkpoint import (
    KeyPlan,
    Rename,
    TensorFile,
    assign_planned,
    match_keys,
)
from lcp_bench.models.weights.report import WeightsReport, hash_files

log = logging.getLogger(__name__)

_OLD_ATTENTION = re.compile(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.")
_NEW_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_WEIGHT_NORM = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


def rename_vae(key: str) -> str:
    """Current diffusers name of an autoencoder key; files of 2022 name the mid-block attention differently.

    >>> rename_vae("encoder.mid_block.attentions.0.proj_attn.bias")
    'encoder.mid_block.attentions.0.to_out.0.bias'
    """
    return _OLD_ATTENTION.sub(lambda match: f"{match[1]}{_NEW_ATTENTION[match[2]]}.", key)


def rename_wav2vec(key: str) -> str | None:
    """Current `Wav2Vec2Model` name of a key of a speech recogniser's file; its output head is dropped (`None`).

    >>> rename_wav2vec("wav2vec2.encoder.pos_conv_embed.conv.weight_g")
    'encoder.pos_conv_embed.conv.parametrizations.weight.original0'
    """
    if key.startswith("lm_head."):
        return None
    key = key.removeprefix("wav2vec2.")
    for old, new in _WEIGHT_NORM.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSource:
    """Where one component's tensors lie.

    Attributes:
        file: path below the weights folder.
        more: further files below the weights folder that hold the rest of the component's tensors.
        prefix: begin of its keys in that file.
        rename: maps a key after the prefix to the module's key.
        optional: module keys the file may lack (nothing reads them; they become zero).
        dtype: fixed type of the component; `None` follows the model.
        config: configuration file below the weights folder.
        config_keys: values in it that must equal those of `module.config`.
    """

    file: str
    more: tuple[str, ...] = ()
    prefix: str = ""
    rename: Rename | None = None
    optional: frozenset[str] = frozenset()
    dtype: torch.dtype | None = None
    config: str | None = None
    config_keys: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the component."""
        return (self.file, *self.more)


Layout = Mapping[str, ComponentSource]

HALLO_NET = "hallo/net.pth"
HALLO_LAYOUT: Layout = {
    "denoising_unet": ComponentSource(file=HALLO_NET, prefix="denoising_unet."),
    "reference_unet": ComponentSource(file=HALLO_NET, prefix="reference_unet."),
    "face_locator": ComponentSource(file=HALLO_NET, prefix="face_locator."),
    "image_proj": ComponentSource(file=HALLO_NET, prefix="imageproj."),
    "audio_proj": ComponentSource(file=HALLO_NET, prefix="audioproj."),
    "vae": ComponentSource(
        file="sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        rename=rename_vae,
        config="sd-vae-ft-mse/config.json",
        config_keys=(
            "block_out_channels",
            "latent_channels",
            "layers_per_block",
            "norm_num_groups",
            "act_fn",
        ),
    ),
    "wav2vec": ComponentSource(
        file="wav2vec/wav2vec2-base-960h/model.safetensors",
        rename=rename_wav2vec,
        optional=frozenset({"masked_spec_embed"}),
        dtype=torch.float32,
        config="wav2vec/wav2vec2-base-960h/config.json",
        config_keys=(
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "conv_dim",
            "conv_stride",
            "feat_extract_norm",
            "do_stable_layer_norm",
            "layer_norm_eps",
        ),
    ),
}

HALLO_UNET_CONFIG_FILE = "stable-diffusion-v1-5/unet/config.json"
HALLO_UNET_CONFIG: Mapping[str, object] = {
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "center_input_sample": False,
    "in_channels": 4,
    "out_channels": 4,
}
"""Values of the base UNet that our modules are built with; shapes alone would not reveal a difference in most."""


def load_hallo(
    modules: Mapping[str, nn.Module],
    root: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    unet_config: Mapping[str, object] = HALLO_UNET_CONFIG,
) -> WeightsReport:
    """Load Hallo's public files into its components (specification: the public repository's readme and net.pth).

    Args:
        modules: `denoising_unet reference_unet face_locator image_proj audio_proj vae wav2vec`, usually on the meta
            device; all of them, since `net.pth` is checked as a whole.
        root: the weights folder (`paths.weights`), laid out as the public repository.
        device: where the weights go.
        dtype: floating-point type of all components but wav2vec2, which stays float32 as upstream.
        unet_config: values that `stable-diffusion-v1-5/unet/config.json` must have.

    Returns:
        The files that were read, with size and SHA-256.

    Raises:
        WeightsError: files missing, truncated, changed since they were fetched, or not fitting; names the file and the
            first bad keys. No module has been changed unless a file turns unreadable half way.
    """
    return load_layout(
        "hallo",
        HALLO_LAYOUT,
        modules,
        root,
        device,
        dtype,
        configs={HALLO_UNET_CONFIG_FILE: unet_config},
    )


def describe_hallo(root: Path) -> WeightsReport:
    """Hallo's public files with their hashes, without loading them; hashes are remembered, so this is quick.

    Raises:
        WeightsError: files are missing or changed since they were fetched.
    """
    return describe_layout("hallo", HALLO_LAYOUT, root, (HALLO_UNET_CONFIG_FILE,))


def describe_layout(model: str, layout: Layout, root: Path, configs: Collection[str] = ()) -> WeightsReport:
    """A model's public files with their hashes, without loading them.

    Args:
        model: Its name.
        layout: Its components' files.
        root: The weights folder.
        configs: Configuration files beside those of the layout, below the weights folder.

    Raises:
        WeightsError: files are missing or changed since they were fetched.
    """
    weights = list(_weight_files(layout))
    places = [*weights, *configs, *(source.config for source in layout.values() if source.config)]
    advice = f"get the files with: python -m lcp_bench.fetch +model={model} paths.weights={root}"
    _refuse_missing(model, root, weights, places, advice)
    return hash_files(model, root, places)


def load_layout(
    model: str,
    layout: Layout,
    modules: Mapping[str, nn.Module],
    root: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    configs: Mapping[str, Mapping[str, object]] | None = None,
) -> WeightsReport:
    """Load a model's components from a public folder layout, strictly; see `load_hallo`.

    Everything that can be checked without reading weights (files, configurations, keys, shapes, hashes) is checked for
    all components before the first tensor is assigned.
    """
    advice = f"get the files with: python -m lcp_bench.fetch +model={model} paths.weights={root}"
    if set(modules) != set(layout):
        raise WeightsError(f"{model}: expected the components {sorted(layout)}, got {sorted(modules)}")
    _refuse_missing(
        model,
        root,
        _weight_files(layout),
        [*_config_files(layout, configs)],
        advice,
    )
    _check_configs(layout, modules, root, configs or {}, advice)
    with ExitStack() as stack:
        places = _weight_files(layout)
        files = {place: stack.enter_context(TensorFile(root / place, advice=advice)) for place in places}
        plans = _match_all(layout, modules, files, advice)
        report = hash_files(model, root, [*places, *_config_files(layout, configs)])
        for component, source in layout.items():
            assign_planned(
                modules[component],
                _tensors(source, files),
                plans[component],
                device=device,
                dtype=source.dtype or dtype,
            )
            modules[component].eval()
    log.info(
        "%s: %d weight files loaded from %s, %s",
        model,
        len(report.files),
        root,
        report.identity,
    )
    return report


def _weight_files(layout: Layout) -> dict[str, None]:
    return dict.fromkeys(place for source in layout.values() for place in source.files)


def _tensors(source: ComponentSource, files: Mapping[str, TensorFile]) -> Mapping[str, torch.Tensor]:
    """A component's tensors; those of several torch files together stay in the mapped files until they are read."""
    if not source.more:
        return files[source.file]
    joined: dict[str, torch.Tensor] = {}
    for place in source.files:
        twice = joined.keys() & files[place].keys()
        if twice:
            raise WeightsError(
                f"{files[place].path}: {len(twice)} tensors are in {source.file} too: {sorted(twice)[:5]}; the files "
                "are two parts of one network, use a pair that belongs together"
            )
        joined.update(files[place])
    return joined


def _config_files(layout: Layout, configs: Mapping[str, Mapping[str, object]] | None) -> list[str]:
    return [
        *(configs or {}),
        *(source.config for source in layout.values() if source.config),
    ]


def _refuse_missing(
    model: str,
    root: Path,
    weights: Collection[str],
    configs: Collection[str],
    advice: str,
) -> None:
    needed = dict.fromkeys([*weights, *configs])
    missing = [place for place in needed if not (root / place).is_file()]
    if missing:
        raise WeightsError(
            f"{model}: {len(missing)} of {len(needed)} weight files are missing below {root}: {', '.join(missing)}; "
            f"{advice}; or use model.weights=seeded to measure speed without them"
        )


def _match_all(
    layout: Layout,
    modules: Mapping[str, nn.Module],
    files: Mapping[str, TensorFile],
    advice: str,
) -> dict[str, KeyPlan]:
    plans = {
        component: match_keys(
            modules[component],
            _tensors(source, files),
            file=" and ".join(str(files[place].path) for place in source.files),
            prefix=source.prefix,
            rename=source.rename,
            optional=source.optional,
            advice=f"{advice}; or choose the model.size the file is of",
        )
        for component, source in layout.items()
    }
    for place, tensors in files.items():
        prefixes = tuple(source.prefix for source in layout.values() if place in source.files)
        foreign = [key for key in tensors if not key.startswith(prefixes)]
        if foreign:
            raise WeightsError(
                f"{tensors.path} does not fit the model: {len(foreign)} keys outside the prefixes "
                f"{', '.join(prefixes)}: {foreign[:5]}; {advice}"
            )
    return plans


def _check_configs(
    layout: Layout,
    modules: Mapping[str, nn.Module],
    root: Path,
    configs: Mapping[str, Mapping[str, object]],
    advice: str,
) -> None:
    for place, expected in configs.items():
        _compare_config(root / place, expected, advice)
    for component, source in layout.items():
        if source.config:
            built = getattr(modules[component], "config", None)
            expected = {key: getattr(built, key) for key in source.config_keys if hasattr(built, key)}
            _compare_config(root / source.config, expected, advice)


def _compare_config(path: Path, expected: Mapping[str, object], advice: str) -> None:
    """Refuse a configuration whose stated values are not those the modules are built with."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: expected a JSON configuration, got {str(error)[:120]}; {advice}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(content).__name__}; {advice}")
    wrong = [
        f"{key} expected {_plain(value)} got {content[key]}"
        for key, value in expected.items()
        if key in content and _plain(content[key]) != _plain(value)
    ]
    if wrong:
        raise WeightsError(f"{path} is of another model: {'; '.join(wrong[:5])}; {advice}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
