"""The only module that reads a clock: stage times, whole-call times, and the date of a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STAGES = ("preprocess", "encode", "reference", "denoise", "decode", "write")
# These stages work on the CPU whatever the device; the host clock times them, so that work still queued on the GPU
# is not charged to them.
HOST_STAGES = frozenset({"preprocess", "write"})


class Stopwatch:
    """Times stages without waiting for the device inside them.

    On CUDA a stage is two events on the current stream, read after a single synchronisation in `seconds`; elsewhere,
    and for `HOST_STAGES`, it is the monotonic host clock. Every sample is kept, in the order of measurement.

    >>> watch = Stopwatch("cpu")
    >>> with watch.stage("encode"):
    ...     pass
    >>> [len(samples) for samples in watch.seconds().values()]
    [1]
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Args: device: where the timed work runs (`cpu`, `cuda`, `cuda:1`, or a torch.device)."""
        self._device = str(device)
        self._on_cuda = self._device.split(":")[0] == "cuda"
        self._samples: dict[str, list[float | tuple[Any, Any]]] = {}
        self._active: str | None = None

    @contextmanager
    def stage(self, name: str, *, host: bool | None = None) -> Iterator[None]:
        """Time the enclosed work as one sample of stage `name`; a stage that raises leaves no sample.

        Args:
            name: one of `STAGES`, or any other word.
            host: read the host clock even on CUDA; default: for `HOST_STAGES` only.

        Raises:
            RuntimeError: another stage is running; nested stages would count the same time twice.
        """
        if self._active is not None:
            raise RuntimeError(f"stage {name!r} must not start inside stage {self._active!r}; end that one first")
        self._active = name
        sample: float | tuple[Any, Any]
        try:
            if self._on_cuda and not (name in HOST_STAGES if host is None else host):
                sample = yield from self._cuda_sample()
            else:
                start = time.perf_counter()
                yield
                sample = time.perf_counter() - start
            self._samples.setdefault(name, []).append(sample)
        finally:
            self._active = None

    def _cuda_sample(self) -> Generator[None, None, tuple[Any, Any]]:
        import torch

        make: Callable[..., Any] = torch.cuda.Event
        start, end = make(enable_timing=True), make(enable_timing=True)
        stream = torch.cuda.current_stream(self._device)
        start.record(stream)
        yield
        end.record(stream)
        return start, end

    def seconds(self) -> dict[str, list[float]]:
        """Stage -> samples in seconds, in the order of the stages' first use; synchronises once on CUDA."""
        if self._on_cuda:
            synchronize(self._device)
        return {name: [_to_seconds(sample) for sample in samples] for name, samples in self._samples.items()}

    def totals(self) -> dict[str, float]:
        """Stage -> sum of its samples in seconds."""
        return {name: sum(samples) for name, samples in self.seconds().items()}

    def reset(self) -> None:
        """Forget all samples, for example after a warm-up."""
        self._samples.clear()


def _to_seconds(sample: float | tuple[Any, Any]) -> float:
    if isinstance(sample, float):
        return sample
    start, end = sample
    return float(start.elapsed_time(end)) / 1000.0  # events count milliseconds


def synchronize(device: torch.device | str) -> None:
    """Wait until `device` has finished its queued work; does nothing on the CPU."""
    if str(device).split(":")[0] == "cuda":
        import torch

        torch.cuda.synchronize(device)


def time_call(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Wall seconds of one call, from an idle device to an idle device."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def monotonic_s() -> float:
    """Seconds on a clock that never goes back; only differences mean anything."""
    return time.perf_counter()


def cpu_s() -> float:
    """Processor seconds of this process, all its threads together; only differences mean anything."""
    return time.process_time()


def utc_now() -> str:
    """The date as `2025-01-31T12:00:00Z` (UTC, whole seconds)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_seconds() -> float:
    """Seconds since 1970, as file systems count them."""
    return time.time()


def pause(seconds: float) -> None:
    """Sleep for `seconds`; used while waiting for a lock, never inside timed work."""
    time.sleep(seconds)
