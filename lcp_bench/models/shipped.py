"""Weights that this repository trains: safetensors, one file per component, with their hash.

Numbers are stored as float16. Where size matters more, matrices are stored as 8-bit integers, each row with a step of
its own, which rounds a weight by less than 0.4 % of its row's largest.
"""

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
STEP = "::step"
"""What follows a tensor's name in the name of its rows' steps."""
LEVELS = 127


def write_shipped(folder: Path, component: str, tensors: Mapping[str, Tensor], *, small: bool = False) -> Path:
    """Write one component's weights.

    Args:
        folder: Where the file goes.
        component: Its name.
        tensors: Weights and buffers.
        small: Store matrices and kernels as 8-bit integers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{component}.safetensors"
    stored: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if small and tensor.is_floating_point() and tensor.ndim > 1:
            step = (tensor.abs().flatten(1).amax(1) / LEVELS).clamp(min=1e-8)
            rows = step.reshape(-1, *[1] * (tensor.ndim - 1))
            stored[key] = (tensor / rows).round().to(torch.int8).contiguous()
            stored[key + STEP] = step
        else:
            stored[key] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
    save_file(stored, path)
    path.chmod(0o644)
    return path


def read_shipped(path: Path) -> dict[str, Tensor]:
    """Weights of one file, numbers as stored or float32.

    Raises:
        SafetensorError: No such file, or a damaged one.
    """
    stored = load_file(path)
    steps = {key.removesuffix(STEP): stored.pop(key) for key in list(stored) if key.endswith(STEP)}
    for key, step in steps.items():
        stored[key] = stored[key].float() * step.reshape(-1, *[1] * (stored[key].ndim - 1))
    return stored


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
                for key, tensor in read_shipped(path).items()
            }
            module.load_state_dict(tensors, strict=True, assign=True)
        except (SafetensorError, RuntimeError) as error:
            raise WeightsError(
                f"{path} does not fit the {component} of mini: {error}; restore the file, or train again"
            ) from error
        module.eval().requires_grad_(False)
