"""Weights that this repository trains: float16 safetensors, one file per component, with their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lcp_bench.errors import WeightsError

SHIPPED = Path(__file__).parent / "mini_weights"
"""Where `python -m lcp_bench.train +model=mini` puts the weights of the mini model."""


def write_shipped(folder: Path, component: str, tensors: Mapping[str, Tensor]) -> Path:
    """Write one component's weights, floating-point ones as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{component}.safetensors"
    stored = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for key, tensor in tensors.items()
    }
    save_file(stored, path)
    return path


def shipped_hash(folder: Path, component: str) -> tuple[Path, str]:
    """A component's file and the sha256 of its bytes.

    Raises:
        WeightsError: The file is missing.
    """
    path = folder / f"{component}.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"expected {path}, found nothing; train it with python -m lcp_bench.train +model=mini, name the folder of "
            "a training with model.checkpoint=FOLDER, or use model.weights=seeded for speed only"
        )
    with path.open("rb") as file:
        return path, hashlib.file_digest(file, "sha256").hexdigest()


def load_shipped(modules: Mapping[str, nn.Module], folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Give every module (built on `meta` or not) its weights.

    Raises:
        WeightsError: A file is missing, damaged, or does not fit its module.
    """
    for component, module in modules.items():
        path, _ = shipped_hash(folder, component)
        try:
            tensors = {
                key: (tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device))
                for key, tensor in load_file(path).items()
            }
            module.load_state_dict(tensors, strict=True, assign=True)
        except (SafetensorError, RuntimeError) as error:
            raise WeightsError(
                f"{path} does not fit the {component} of mini: {error}; restore the file, or train again"
            ) from error
        module.eval().requires_grad_(False)
