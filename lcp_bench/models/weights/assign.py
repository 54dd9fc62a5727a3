"""Put tensors into a module in place of those it was built with (usually on the meta device)."""

from __future__ import annotations

import torch
from torch import nn

from lcp_bench.errors import WeightsError


def assign_tensor(module: nn.Module, key: str, tensor: torch.Tensor) -> None:
    """Replace the tensor behind a state-dict key, whatever its device and dtype; parameters stop requiring gradients.

    Args:
        module: module that has `key` in its state dict.
        key: state-dict key.
        tensor: new value; its shape must be that of the old one.

    Raises:
        WeightsError: the module has no such tensor, or the shape differs.
    """
    owner_path, _, name = key.rpartition(".")
    owner = module.get_submodule(owner_path)
    store = owner._parameters if name in owner._parameters else owner._buffers
    old = store.get(name)
    if old is None:
        raise WeightsError(f"{type(module).__name__} has no tensor {key!r} to assign")
    if old.shape != tensor.shape:
        raise WeightsError(f"{key}: expected shape {tuple(old.shape)}, got {tuple(tensor.shape)}")
    if store is owner._parameters:
        owner._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[name] = tensor


def refuse_meta(module: nn.Module, source: str) -> None:
    """Check that no tensor of a module is left without a value.

    Raises:
        WeightsError: parameters or buffers are still on the meta device.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    left = [key for key, tensor in tensors if tensor.is_meta]
    if left:
        raise WeightsError(
            f"{type(module).__name__}: {len(left)} tensors have no value after {source} were assigned: {left[:5]}; "
            "they are outside the state dict or integer, so the module has to be built with them on a real device"
        )
