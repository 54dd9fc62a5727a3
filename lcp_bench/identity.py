"""A run's identity: everything that can change one of its numbers, and nothing else.

The hash of it names the run's folder. Paths, formats and trackers are not in it; code, weights, clips, device and
library versions are.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch

from lcp_bench.assemble import WeightsLabel
from lcp_bench.config import RunConfig
from lcp_bench.data.face_parsing import FaceParser
from lcp_bench.data.manifest import Manifest
from lcp_bench.errors import ConfigError
from lcp_bench.measure.device import device_state
from lcp_bench.provenance import source_hash, versions
from lcp_bench.record import canonical_json

NUMERIC_PACKAGES = (
    "torch", "diffusers", "transformers", "numpy", "av", "opencv-python-headless", "pillow", "scikit-image",
)  # fmt: skip


def run_identity(
    config: RunConfig,
    manifest: Manifest,
    weights: WeightsLabel,
    device: torch.device,
    processes: int = 1,
    parser: FaceParser | None = None,
) -> dict[str, Any]:
    """The identity as plain JSON.

    Args:
        config: The checked configuration.
        manifest: The frozen data set.
        weights: Label of the weights.
        device: Where the run computes.
        processes: How many share the followers of parallel groups, each on such a device.
        parser: What finds the foreground; None where nothing is parsed.
    """
    dataset = _without(asdict(config.dataset), "root", "insightface_root", "face_parser", "foreground_classes")
    if dataset["synthetic"] is None:
        del dataset["synthetic"]  # so that other data sets keep the identity that they had before it existed
    model = _without(asdict(config.model), "presets", "checkpoint")
    if model["emotion"] is None:
        del model["emotion"]  # as above, for models without emotions
    return {
        "schema": 1,
        "model": model,
        "accel": dict(config.accel),
        "sampler": asdict(config.sampler),
        "dataset": {**dataset, "manifest_sha256": manifest.sha256, "limit": config.run.limit},
        "measure": asdict(config.measure),
        "weights": weights.identity,
        "source_sha256": source_hash(),
        "versions": versions(NUMERIC_PACKAGES),
        "device": {"label": device_state(device)["label"], "threads": torch.get_num_threads()},
        **({} if processes == 1 else {"processes": processes}),
        **({} if parser is None else {"foreground": parser.identity}),
    }


def require_equal(own: dict[str, Any], leading: dict[str, Any]) -> None:
    """Refuse that processes of one run would generate different videos.

    Args:
        own: Identity that this process found.
        leading: The leading process' one, as it came through JSON.

    Raises:
        ConfigError: Names what differs.
    """
    plain = json.loads(canonical_json(own))
    differing = sorted(key for key in {*plain, *leading} if plain.get(key) != leading.get(key))
    if differing:
        raise ConfigError(
            "all processes of a run must have the same configuration, files, libraries and kind of device, but "
            f"differ from rank 0 in: {', '.join(differing)}; make them equal on all hosts"
        )


def _without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in keys}
