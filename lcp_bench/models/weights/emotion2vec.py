"""emotion2vec, the speech encoder behind MEMO's emotion labels, as an extra with the user's own package and files.

Needs the package funasr and, below the weights folder, the public files of `emotion2vec_plus_large`
(`python -m lcp_bench.fetch +model=memo extras=emotion2vec`). Without them an emotion label can be given.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.models.weights.report import WeightsReport, hash_files

PACKAGE = "funasr"
FOLDER = "emotion2vec_plus_large"
WEIGHTS = "model.pt"
FILES = ("config.yaml", "configuration.json", WEIGHTS)
"""Files without which the package builds no network; others of the folder change no feature."""
ALTERNATIVE = "or give the label yourself with model.emotion=0..8 (9: none)"


class Emotion2vec(nn.Module):
    """The package's network behind this project's interface.

    Args:
        network: What the package loaded.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, sound: Tensor) -> Tensor:
        """Layer-normalised 16 kHz sound (samples,) to features (steps, 1024), extra tokens removed."""
        features: Tensor = self.network.extract_features(sound[None], padding_mask=None)["x"][0]
        return features


def describe_emotion2vec(root: Path) -> WeightsReport:
    """The files with their hashes; refuses at once what would fail after everything else was loaded.

    Args:
        root: The weights folder.

    Raises:
        ConfigError: The package is not installed.
        WeightsError: Files are missing or changed since they were fetched.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(
            f"model.emotion=classified needs the package {PACKAGE}, which is not installed; install it, {ALTERNATIVE}"
        )
    missing = [name for name in FILES if not (root / FOLDER / name).is_file()]
    if missing:
        raise WeightsError(
            f"model.emotion=classified needs emotion2vec; expected {', '.join(missing)} in {root / FOLDER}, found "
            f"nothing; get them with python -m lcp_bench.fetch +model=memo extras=emotion2vec paths.weights={root}, "
            f"{ALTERNATIVE}"
        )
    return hash_files("memo", root, [f"{FOLDER}/{name}" for name in FILES])


def load_emotion2vec(root: Path, device: torch.device) -> Emotion2vec:
    """Build the encoder with its weights, in float32 and eval mode.

    The package may unpickle its file without limits, so the file is first read as plain tensors; one that holds
    anything else is never handed on.

    Raises:
        ConfigError: See `describe_emotion2vec`.
        WeightsError: Files are missing, damaged, or hold more than tensors.
    """
    describe_emotion2vec(root)
    path = root / FOLDER / WEIGHTS
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: truncated, or holds more than tensors ({reason}); {ALTERNATIVE}") from error
    package: Any = importlib.import_module(PACKAGE)
    loaded = package.AutoModel(
        model=str(path.parent), device=str(device), disable_update=True, disable_pbar=True, trust_remote_code=False
    )
    return Emotion2vec(loaded.model.eval().requires_grad_(False))
