"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcp_bench.data.folder import FolderOptions, load_folder
from lcp_bench.data.manifest import Manifest
from lcp_bench.record import run_id


@pytest.fixture(scope="session")
def real_folder(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The real portraits, speech and clips as a data set; listing them takes seconds."""
    return load_folder(shared_dir / "data/real", tmp_path_factory.mktemp("real"), FolderOptions())


RecordMaker = Callable[..., dict[str, Any]]


def _record(accel: str = "none", *, seed: int = 42, **changes: Any) -> dict[str, Any]:
    identity = {"model": "hallo", "accel": accel, "seed": seed}
    estimate = {"value": 12.5, "low": 12.0, "high": 13.0, "n": 4, "level": 0.95}
    record: dict[str, Any] = {
        "schema_version": 1,
        "run_id": run_id(identity),
        "status": "complete",
        "identity": identity,
        "config": {"sampler": {"steps": 40}, "run": {"limit": None}},
        "command_line": f"python -m lcp_bench +model=hallo +accel={accel}",
        "model": {"name": "hallo", "size": "tiny", "dtype": "float32", "weights": "seeded"},
        "accel": {"name": accel},
        "plan": {"steps": 40, "key_steps": list(range(40))},
        "engagement": {"evaluated": 40},
        "labels": {
            "weights": "seeded",
            "metric_backbones": None,
            "metric_backbones_reason": "nothing was scored",
            "dataset": "folder:0a1b2c3d",
        },
        "clips": {"n_expected": 4, "n_ok": 4, "n_failed": 0, "failed": []},
        "timings": {"encode": [0.5, 0.5], "denoise": [11.0, 12.0]},
        "speed": {
            "seconds_per_clip": dict(estimate),
            "frames_per_second": {"value": 2.0, "low": 1.9, "high": 2.1, "n": 4, "level": 0.95},
            "denoise_tflops_per_second": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 4, "level": 0.95},
        },
        "pair": None,
        "pair_reason": "measure.pair is null",
        "quality": None,
        "quality_reason": "seeded weights",
        "flops": {"tflops_per_clip": {"as_published": 3.0, "executed": 2.5}, "speedup_bound": 1.0},
        "memory": {
            "host_peak_rss_bytes": 1_500_000_000,
            "host_scope": "block",
            "device_peak_allocated_bytes": None,
            "device_peak_allocated_bytes_reason": "no device memory is tracked on cpu",
        },
        "cache_bytes": 0,
        "device": {"type": "cpu", "name": "Some CPU", "label": "Some CPU, 2 threads"},
        "versions": {"torch": "2.13.0"},
        "git": {"commit": "a" * 40, "dirty": False},
        "weights": [{"file": "seeded", "sha256": "0" * 64, "bytes": 0}],
        "created_utc": "2025-01-31T12:00:00Z",
        "wall_seconds": 60.0,
    }
    return record | changes


@pytest.fixture
def make_record() -> RecordMaker:
    """Makes a valid record: `make_record(accel, seed=..., **top-level fields to replace)`."""
    return _record
