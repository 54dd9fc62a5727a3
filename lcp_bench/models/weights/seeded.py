"""Weights drawn from a seed: rule "seeded-v1" for tests and golden cases, and full-size draws on the device.

Seeded weights serve speed measurements and tests. They say nothing about quality.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.temporal import PositionTable
from lcp_bench.models.weights.assign import assign_tensor, refuse_meta
from lcp_bench.models.whisper import position_table as whisper_positions

Shape: TypeAlias = tuple[int, ...]


def seeded_v1(key: str, shape: Shape, seed: int) -> NDArray[np.float32]:
    """Values of one tensor by the rule "seeded-v1" of the golden cases.

    Args:
        key: full state-dict key in the original project's naming, relative to its component.
        shape: shape of the tensor.
        seed: seed of the component, >= 0.

    Returns:
        float32 array of `shape`: |x|-based in [0.5, inf) for running variances, x/sqrt(fan-in) for two or more
        dimensions, 1 + 0.1 x for one-dimensional scales, 0.1 x otherwise, with x standard normal.

    >>> seeded_v1("norm.weight", (3,), 0).shape
    (3,)
    """
    generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
    normal = generator.standard_normal(shape).astype(np.float32)
    scale, offset, absolute = _rule(key, shape)
    values = np.abs(normal) if absolute else normal
    result: NDArray[np.float32] = np.asarray(values * np.float32(scale) + np.float32(offset), dtype=np.float32)
    return result


def apply_seeded_v1(
    module: nn.Module,
    seed: int,
    computed_buffers: Collection[str] = (),
    prefix: str = "",
) -> None:
    """Fill a module's state dict by the rule "seeded-v1", in place.

    Tensors keep their device and dtype, except those on the meta device, which become float32 on the CPU. Integer
    tensors are left alone.

    Args:
        module: module whose state-dict keys are the original project's.
        seed: seed of the component.
        computed_buffers: keys of `module` that keep the values the module computed itself.
        prefix: text in front of a key of `module` that makes it the full key (a module that is part of a component).

    Raises:
        WeightsError: a key of `computed_buffers` is unknown, or a tensor that should keep its value has none (meta).
    """
    state = module.state_dict(keep_vars=True)
    unknown = sorted(set(computed_buffers) - set(state))
    if unknown:
        raise WeightsError(f"computed buffers {unknown[:5]} are not in the module; it has {len(state)} tensors")
    for key, old in state.items():
        if key in computed_buffers or not old.is_floating_point():
            continue
        values = torch.from_numpy(seeded_v1(prefix + key, tuple(old.shape), seed))
        if old.is_meta:
            assign_tensor(module, key, values)
        else:
            with torch.no_grad():
                old.copy_(values)
    refuse_meta(module, "seeded-v1 weights")


def position_table(shape: Shape) -> torch.Tensor:
    """Sinusoidal position table of the temporal modules, float32 (1, positions, channels), on the CPU.

    Raises:
        WeightsError: `shape` is not (1, positions, even number of channels).
    """
    if len(shape) != 3 or shape[0] != 1 or shape[2] % 2:
        raise WeightsError(f"a position table has shape (1, positions, even channels), got {shape}")
    with torch.device("cpu"):
        return PositionTable(shape[2], shape[1]).pe


def speech_table(shape: Shape) -> torch.Tensor:
    """Position table of Whisper's encoder, float32 (states, width), on the CPU."""
    with torch.device("cpu"):
        return whisper_positions(*shape)


COMPUTED: Mapping[str, Callable[[Shape], torch.Tensor]] = {"pe": position_table, "positional_embedding": speech_table}
"""Buffers that a checkpoint stores although the model can compute them, by the last part of their key."""


@torch.no_grad()
def draw_on_device(
    module: nn.Module,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    component: str = "",
    computed: Mapping[str, Callable[[Shape], torch.Tensor]] = COMPUTED,
) -> None:
    """Give a meta-device module seeded weights, drawn on the target device in the target dtype.

    Scales are those of "seeded-v1", so activations stay finite; the numbers are not, because a device's own generator
    draws them (one per tensor, seeded by component, key and seed). They repeat on the same device and differ between
    device types. One float32 tensor at a time is held beside the weights.

    Args:
        module: module on the meta device (tensors that are not are replaced too, `computed` ones moved).
        seed: seed of the run.
        device: where the weights are to be.
        dtype: floating-point type of the weights.
        component: name of the component, so that equal keys of two components get different values.
        computed: how to compute the buffers that are no weights, by the last part of their key.

    Raises:
        WeightsError: an integer tensor or a buffer outside the state dict has no value (meta device).
    """
    generator = torch.Generator(device=device)
    for key, old in module.state_dict(keep_vars=True).items():
        if not old.is_floating_point():
            if not old.is_meta:
                assign_tensor(module, key, old.detach().to(device))
            continue
        shape = tuple(old.shape)
        compute = computed.get(key.rpartition(".")[2])
        if compute is not None:
            table = compute(shape) if old.is_meta else old.detach()
            assign_tensor(module, key, table.to(device=device, dtype=dtype))
            continue
        scale, offset, absolute = _rule(key, shape)
        generator.manual_seed(_tensor_seed(component, key, seed))
        values = torch.empty(shape, device=device, dtype=torch.float32).normal_(generator=generator)
        if absolute:
            values.abs_()
        assign_tensor(module, key, values.mul_(scale).add_(offset).to(dtype))
    refuse_meta(module, "seeded weights")


def weights_identity(rule: str, seed: int, device: torch.device | str | None = None) -> str:
    """Label of seeded weights for records: `seeded-v1:<seed>` or `seeded-device:<seed>:<device type>`.

    Raises:
        WeightsError: unknown rule, or no device for `seeded-device`.

    >>> weights_identity("seeded-v1", 3), weights_identity("seeded-device", 0, "cpu")
    ('seeded-v1:3', 'seeded-device:0:cpu')
    """
    if rule == "seeded-v1":
        return f"seeded-v1:{seed}"
    if rule == "seeded-device" and device is not None:
        return f"seeded-device:{seed}:{torch.device(device).type}"
    raise WeightsError(f"expected rule 'seeded-v1', or 'seeded-device' with a device, got {rule!r} on {device}")


def _rule(key: str, shape: Shape) -> tuple[float, float, bool]:
    """Scale, offset and whether the absolute value is taken, for one tensor."""
    if key.endswith("running_var"):
        return 0.5, 0.5, True
    if len(shape) >= 2:
        return 1.0 / math.sqrt(math.prod(shape[1:])), 0.0, False
    return (0.1, 1.0, False) if key.endswith("weight") else (0.1, 0.0, False)


def _tensor_seed(component: str, key: str, seed: int) -> int:
    """63-bit seed of one tensor."""
    text = f"{seed}\n{component}\n{key}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
