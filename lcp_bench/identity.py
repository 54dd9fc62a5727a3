"""A run's identity: everything that can change one of its numbers, and nothing else.

The hash of it names the run's folder. Paths, formats and trackers are not in it; code, weights, clips, device and
library versions are.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from lcp_bench.assemble import WeightsLabel
from lcp_bench.config import RunConfig
from lcp_bench.data.manifest import Manifest
from lcp_bench.measure.device import device_state
from lcp_bench.provenance import source_hash, versions

NUMERIC_PACKAGES = (
    "torch", "diffusers", "transformers", "numpy", "av", "opencv-python-headless", "pillow", "scikit-image",
)  # fmt: skip


def run_identity(config: RunConfig, manifest: Manifest, weights: WeightsLabel, device: torch.device) -> dict[str, Any]:
    """The identity as plain JSON.

    Args:
        config: The checked configuration.
        manifest: The frozen data set.
        weights: Label of the weights.
        device: Where the run computes.
    """
    dataset = {key: value for key, value in asdict(config.dataset).items() if key not in ("root", "insightface_root")}
    return {
        "schema": 1,
        "model": _without(asdict(config.model), "presets"),
        "accel": dict(config.accel),
        "sampler": asdict(config.sampler),
        "dataset": {**dataset, "manifest_sha256": manifest.sha256, "limit": config.run.limit},
        "measure": asdict(config.measure),
        "weights": weights.identity,
        "source_sha256": source_hash(),
        "versions": versions(NUMERIC_PACKAGES),
        "device": {"label": device_state(device)["label"], "threads": torch.get_num_threads()},
    }


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}
