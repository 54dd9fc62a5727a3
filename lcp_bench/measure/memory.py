"""Peak memory of a stretch of work, on the host and on the device."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class MemoryScope:
    """Peak memory between entering and leaving the block.

    `peaks` (after the block) has, in bytes: `host_peak_rss_bytes`, `device_peak_allocated_bytes` and
    `device_peak_reserved_bytes` (null with a reason without CUDA), and `host_scope`: `block` where the kernel let the
    peak be reset on entry, else `process` with `host_scope_reason`: then the number is the peak since the process
    began, an upper bound of the block's.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Args: device: whose allocator is read besides the host's (`cpu`, `cuda`, `cuda:1`, or a torch.device)."""
        self._device = str(device)
        self._on_cuda = self._device.split(":")[0] == "cuda"
        self._refused: str | None = None
        self.peaks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._refused = reset_host_peak()
        if self._on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.peaks = {"host_peak_rss_bytes": host_peak_bytes()}
        self.peaks["host_scope"] = "block" if self._refused is None else "process"
        if self._refused is not None:
            self.peaks["host_scope_reason"] = self._refused
        self.peaks |= self._device_peaks()

    def _device_peaks(self) -> dict[str, Any]:
        names = ("device_peak_allocated_bytes", "device_peak_reserved_bytes")
        if not self._on_cuda:
            why = f"no device memory is tracked on {self._device}"
            return {key: value for name in names for key, value in ((name, None), (f"{name}_reason", why))}
        import torch

        allocated = torch.cuda.max_memory_allocated(self._device)
        return dict(zip(names, (allocated, torch.cuda.max_memory_reserved(self._device)), strict=True))


def reset_host_peak() -> str | None:
    """Set the process's peak resident size back to its current size; returns why not where that is refused."""
    try:
        _CLEAR_REFS.write_text("5")  # proc(5): 5 resets the high-water mark
    except OSError as error:
        return f"the peak cannot be reset here ({_CLEAR_REFS}: {error.strerror or error})"
    return None


def host_peak_bytes() -> int:
    """Peak resident size of this process in bytes, since its start or the last `reset_host_peak`."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc: the portable source below
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def worst(peaks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The peak over several scopes (a run's clips): the largest of each number, and the weakest `host_scope`.

    Raises:
        ValueError: no peaks were given.
    """
    merged: dict[str, Any] = {}
    for peak in peaks:
        for key, value in peak.items():
            old = merged.get(key)
            if key == "host_scope":
                merged[key] = "process" if "process" in (old, value) else value
            elif isinstance(value, int) and isinstance(old, int):
                merged[key] = max(old, value)
            elif old is None:
                merged[key] = value
    if not merged:
        raise ValueError("the peak over no scopes is undefined; measure at least one clip")
    return {key: value for key, value in merged.items() if not _stale_reason(key, merged)}


def _stale_reason(key: str, merged: Mapping[str, Any]) -> bool:
    name = key.removesuffix("_reason")
    return key != name and name.startswith("device_") and merged.get(name) is not None
