"""Read weight files without running any code in them, and load them strictly.

Safetensors files are read tensor by tensor; torch files through `torch.load(weights_only=True, mmap=True)`. Keys and
shapes are compared before the first tensor is read, and each tensor is cast and moved on its own, so that there is
never a second copy of the weights.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.weights.assign import assign_tensor, refuse_meta

Rename = Callable[[str], str | None]
"""Maps a key of a file to a key of the module; `None` drops the tensor on purpose."""

WRAPPERS = ("state_dict", "model_state_dict")
TORCH_SUFFIXES = (".pth", ".ckpt", ".bin", ".pt")
SHOWN = 5


class TensorFile(Mapping[str, torch.Tensor]):
    """The tensors of a weight file by key, on the CPU; a context manager.

    A tensor is read when it is asked for, and shapes are known without reading. Tensors of a torch file lie in the
    mapped file: copy what has to outlive it.

    Args:
        path: `.safetensors`, or a file written by `torch.save` (`.pth .ckpt .bin .pt`).
        advice: what the user can do if the file is bad, the last part of every error message.

    Raises:
        WeightsError: the file is missing, empty, truncated, of another kind, or holds more than tensors.
    """

    def __init__(self, path: Path, *, advice: str = "") -> None:
        self.path = path
        self._advice = advice
        self._tensors: dict[str, torch.Tensor] = {}
        self._handle: Any = None
        self._refuse_wrong_kind()
        if path.suffix == ".safetensors":
            self._shapes = self._open_safetensors()
        else:
            self._tensors = self._read_torch()
            self._shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._shapes[key]

    def __getitem__(self, key: str) -> torch.Tensor:
        if self._handle is None:
            return self._tensors[key]
        try:
            tensor: torch.Tensor = self._handle.get_tensor(key)
        except Exception as error:
            if key not in self._shapes:
                raise KeyError(key) from error
            raise self._error(f"tensor {key!r} cannot be read ({_line(error)})") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tensors, self._handle, self._shapes = {}, None, {}

    def _error(self, problem: str) -> WeightsError:
        return WeightsError(f"{self.path}: {problem}" + (f"; {self._advice}" if self._advice else ""))

    def _refuse_wrong_kind(self) -> None:
        """Recognise what people really find in place of a weight file."""
        if self.path.suffix not in (".safetensors", *TORCH_SUFFIXES):
            raise self._error(f"expected a weight file ({', '.join(('.safetensors', *TORCH_SUFFIXES))})")
        if not self.path.is_file():
            raise self._error("expected a weight file, the file is missing")
        try:
            with self.path.open("rb") as stream:
                head = stream.read(512)
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        text = head.lstrip().lower()
        if not head:
            raise self._error("expected a weight file, the file is empty")
        if text.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise self._error("expected a weight file, got a web page (a download that returned an error page)")
        if text.startswith(b"version https://git-lfs"):
            raise self._error("expected a weight file, got a git-lfs pointer (`git lfs pull` was not run)")

    def _open_safetensors(self) -> dict[str, tuple[int, ...]]:
        from safetensors import SafetensorError, safe_open

        try:
            handle: Any = safe_open(str(self.path), framework="pt", device="cpu")
            self._handle = handle
            return {key: tuple(handle.get_slice(key).get_shape()) for key in list(handle.keys())}
        except (SafetensorError, OSError, ValueError) as error:
            raise self._error(f"truncated, or not a safetensors file ({_line(error)})") from error

    def _read_torch(self) -> dict[str, torch.Tensor]:
        mapped = zipfile.is_zipfile(self.path)
        try:
            content = torch.load(self.path, map_location="cpu", mmap=mapped, weights_only=True)
        except pickle.UnpicklingError as error:
            raise self._error(f"truncated, not a torch file, or holds more than tensors ({_line(error)})") from error
        except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ValueError, OSError on bad bytes
            raise self._error(f"truncated, or not a torch file ({_line(error)})") from error
        for name in WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
                content = content[name]
        if not isinstance(content, Mapping) or not content:
            raise self._error(f"expected a dictionary of tensors, got {type(content).__name__}")
        foreign = [key for key, value in content.items() if not isinstance(value, torch.Tensor)]
        if foreign:
            raise self._error(f"expected only tensors, got {len(foreign)} other values: {foreign[:SHOWN]}")
        return {str(key): value for key, value in content.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """Which file tensor goes where.

    Attributes:
        source: module key -> key in the file.
        zeros: module keys that the file may lack and that are then zero (nothing reads them).
    """

    source: Mapping[str, str]
    zeros: tuple[str, ...]


def match_keys(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    file: Path | str,
    prefix: str = "",
    rename: Rename | None = None,
    optional: Collection[str] = (),
    advice: str = "",
) -> KeyPlan:
    """Compare a module's state dict with a file's tensors, without reading any tensor.

    Args:
        module: module, usually on the meta device.
        tensors: `TensorFile` or a plain state dict.
        file: name for the message.
        prefix: only keys that begin with it belong to this module; it is cut off.
        rename: maps a key (after the prefix is cut) to the module's key, `None` drops it on purpose.
        optional: module keys that may be absent.
        advice: what to do, the last part of the message.

    Raises:
        WeightsError: missing or unexpected keys, or other shapes; with counts and the first five of each.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict(keep_vars=True).items()}
    source: dict[str, str] = {}
    unexpected: list[str] = []
    for raw in tensors:
        if not raw.startswith(prefix):
            continue
        key = rename(raw[len(prefix) :]) if rename else raw[len(prefix) :]
        if key is None:
            continue
        if key not in wanted or key in source:
            unexpected.append(raw)
        else:
            source[key] = raw
    problems = {
        "missing": [prefix + key for key in wanted if key not in source and key not in optional],
        "unexpected": unexpected,
        "of another shape": _wrong_shapes(wanted, source, tensors),
    }
    if any(problems.values()):
        part = f" ({prefix}*)" if prefix else ""
        listed = "; ".join(_listed(what, names) for what, names in problems.items() if names)
        got = len(source) + len(unexpected)
        raise WeightsError(
            f"{file}{part} does not fit the model: expected {len(wanted)} tensors, got {got}: {listed}"
            + (f"; {advice}" if advice else "")
        )
    return KeyPlan(source=source, zeros=tuple(key for key in wanted if key not in source))


def assign_planned(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    plan: KeyPlan,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Copy a file's tensors into a module, each cast and moved on its own; integer tensors keep their type.

    Raises:
        WeightsError: a tensor cannot be read, or tensors outside the state dict have no value.
    """
    shapes = {key: tensor.shape for key, tensor in module.state_dict(keep_vars=True).items()}
    for key, raw in plan.source.items():
        tensor = tensors[raw]
        target = dtype if tensor.is_floating_point() else tensor.dtype
        assign_tensor(module, key, tensor.to(device=device, dtype=target, copy=True).contiguous())
    for key in plan.zeros:
        assign_tensor(module, key, torch.zeros(shapes[key], device=device, dtype=dtype))
    module.requires_grad_(False)
    refuse_meta(module, "the file's tensors")


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    file: Path | str,
    device: torch.device | str,
    dtype: torch.dtype,
    prefix: str = "",
    rename: Rename | None = None,
    optional: Collection[str] = (),
    advice: str = "",
) -> None:
    """Load tensors into a module (usually on the meta device): every key, every shape, nothing left over.

    Keys and shapes are checked before the first tensor is read; the arguments are those of `match_keys` and
    `assign_planned`.

    Raises:
        WeightsError: missing or unexpected keys, other shapes, unreadable tensors.
    """
    plan = match_keys(
        module,
        tensors,
        file=file,
        prefix=prefix,
        rename=rename,
        optional=optional,
        advice=advice,
    )
    assign_planned(module, tensors, plan, device=device, dtype=dtype)


def _wrong_shapes(
    wanted: Mapping[str, tuple[int, ...]],
    source: Mapping[str, str],
    tensors: Mapping[str, torch.Tensor],
) -> list[str]:
    shapes = ((raw, wanted[key], _shape(tensors, raw)) for key, raw in source.items())
    return [f"{raw} expected {want} got {got}" for raw, want, got in shapes if want != got]


def _shape(tensors: Mapping[str, torch.Tensor], key: str) -> tuple[int, ...]:
    return tensors.shape(key) if isinstance(tensors, TensorFile) else tuple(tensors[key].shape)


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"


def _line(error: BaseException) -> str:
    """First line of an exception's text, short."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
