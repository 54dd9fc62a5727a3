"""The cost of one metric, measured in the process that calls this; see `lcp_bench.score_cost`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from lcp_bench.measure.clock import cpu_s, monotonic_s
from lcp_bench.measure.memory import host_peak_bytes, reset_host_peak
from lcp_bench.metric_sets import metric_set
from lcp_bench.score import Videos
from metrics.cache import FeatureCache
from metrics.fidelity import Fidelity
from metrics.metric import FeatureSet, Files, Metric
from metrics.protocol import SyncProtocol

Result = TypeVar("Result")
CLIPS = 100
"""Costs are given for this many clips."""
DETECTED_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Seconds:
    """What a stretch of work took, by the clock and of the processor (all threads)."""

    wall: float
    cpu: float

    def scaled(self, factor: float) -> Seconds:
        """The same for `factor` times as much work."""
        return Seconds(self.wall * factor, self.cpu * factor)


def measure_metric(name: str, metric: str, videos: Videos) -> dict[str, Any]:
    """Cost of one of `metric_config.METRICS`.

    Args:
        name: set of networks, `mini` or `seeded-v1`.
        metric: which metric; the mini `fvd` is two, measured together.
        videos: clips to their files; fidelity compares each with the next one.

    Returns:
        A row of the record: seconds by the clock and of the processor, scaled to 100 clips where their names say so,
        memory in bytes, and how many of the clips could be scored.

    Raises:
        MetricError: the networks cannot be had.
    """
    refused = reset_host_peak()
    load, metrics = _timed(lambda: metric_set(name, [metric]))
    loaded = host_peak_bytes()
    files = _pairs(videos) if any(isinstance(each, Fidelity) for each in metrics.values()) else dict(videos)
    with tempfile.TemporaryDirectory(prefix="lcp-cost-") as folder:
        first, found = _timed(lambda: _features(metrics, files, folder))
        peak = host_peak_bytes()
        second, _ = _timed(lambda: _features(metrics, files, folder))
    scores, _ = _timed(lambda: [each.scores(*_hundred(found[key])) for key, each in metrics.items()])
    factor = CLIPS / len(files)
    scored = min(len(each.arrays) for each in found.values())
    reasons = sorted({gap.reason for each in found.values() for gap in each.gaps.values()})
    return {
        "set": name,
        "metric": metric,
        "n": len(files),
        "n_ok": scored,
        "gaps": reasons,
        **_named("load{}_s", load),
        **_named("features{}_s_per_100", first.scaled(factor)),
        **_named("cached{}_s_per_100", second.scaled(factor)),
        **_named("scores{}_s_at_100", scores),
        "loaded_bytes": loaded,
        # The kernel counts in batches: a peak can read a page below what was there before.
        "peak_bytes": max(loaded, peak, host_peak_bytes()),
        "peak_scope": "process" if refused else "block",
    }


def measure_detector(name: str, metric: str, videos: Videos) -> dict[str, Any]:
    """Cost of S3FD on every frame of a clip, from some frames of the first clip; arguments as for `measure_metric`."""
    from metrics.faces import s3fd_finder
    from metrics.frames import read_frames
    from metrics.weights import BACKBONES, Loaded

    reset_host_peak()
    protocol = SyncProtocol()

    def build() -> Loaded[Any]:
        return Loaded.of(BACKBONES[metric].build().eval(), metric, name, name)

    load, net = _timed(build)
    finder, loaded = s3fd_finder(net, protocol), host_peak_bytes()
    counts = [len(read_frames(path, protocol.fps)) for path in videos.values()]
    frames = read_frames(next(iter(videos.values())), protocol.fps)[:DETECTED_FRAMES]
    finder.find(frames[0])  # the first call of a network plans its convolutions
    seconds, _ = _timed(lambda: [finder.find(frame) for frame in frames])
    factor = CLIPS * sum(counts) / len(counts) / len(frames)
    nothing = {f"{key}{kind}": None for key in ("cached", "scores") for kind in ("_s", "_cpu_s")}
    return {
        "set": name,
        "metric": metric,
        "n": len(videos),
        "n_ok": len(videos),
        "gaps": [],
        **_named("load{}_s", load),
        **_named("features{}_s_per_100", seconds.scaled(factor)),
        **{f"{key}_per_100" if key.startswith("cached") else f"{key}_at_100": value for key, value in nothing.items()},
        "frames_measured": len(frames),
        "loaded_bytes": loaded,
        "peak_bytes": host_peak_bytes(),
        "peak_scope": "block",
    }


def _named(pattern: str, seconds: Seconds) -> dict[str, float]:
    return {pattern.format(""): seconds.wall, pattern.format("_cpu"): seconds.cpu}


def _timed(work: Callable[[], Result]) -> tuple[Seconds, Result]:
    wall, cpu = monotonic_s(), cpu_s()
    result = work()
    return Seconds(monotonic_s() - wall, cpu_s() - cpu), result


def _features(metrics: Mapping[str, Metric], files: Mapping[str, Files], folder: str) -> dict[str, FeatureSet]:
    """From an object of its own, as a later command would have it: nothing but the files is shared."""
    return {key: each.features(files, FeatureCache(Path(folder))) for key, each in metrics.items()}


def _pairs(videos: Videos) -> dict[str, Files]:
    paths = list(videos.values())
    return {clip: (path, other) for (clip, path), other in zip(videos.items(), [*paths[1:], paths[0]], strict=True)}


def _hundred(found: FeatureSet) -> tuple[FeatureSet, FeatureSet]:
    """100 clips with the features of the measured ones in turn, and a second such set to compare with, shifted by one.

    Raises:
        ValueError: none of the clips could be scored.
    """
    if not found.arrays:
        raise ValueError(f"none of the clips could be scored ({found.gaps}); give others")
    arrays = list(found.arrays.values())

    def repeated(start: int) -> FeatureSet:
        drawn = cycle([*arrays[start:], *arrays[:start]])
        return replace(found, arrays={f"clip_{number:03d}": next(drawn) for number in range(CLIPS)}, gaps={})

    return repeated(0), repeated(1 % len(arrays))
