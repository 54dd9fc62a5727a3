"""Quality blocks made by hand, for the tests of records, tables and trackers."""

from __future__ import annotations

from typing import Any

WEIGHTS = [{"file": "net.safetensors", "sha256": "0" * 64, "bytes": 1}]


def score(name: str, value: float | None = 1.0, **changes: Any) -> dict[str, Any]:
    """A score as `Score.as_dict` gives it."""
    made: dict[str, Any] = {
        "name": name, "value": value, "unit": "1", "direction": "lower", "n": 10, "n_expected": 10, "samples": 100,
        "low": None if value is None else value - 0.5, "high": None if value is None else value + 0.5, "level": 0.95,
        "resamples": 200, "protocol": "a" * 16, "label": "mini", "gaps": [], "notes": [],
    } | changes  # fmt: skip
    if made["value"] is None:
        made |= {"value_reason": "too few clips", "low_reason": "too few clips", "high_reason": "too few clips"}
    return made


def block(*videos: dict[str, Any], name: str = "mini", **sides: list[dict[str, Any]]) -> dict[str, Any]:
    """A block with scores of the videos and of other sides."""
    scores = {side: {each["name"]: each for each in found} for side, found in {"videos": videos, **sides}.items()}
    protocols = {each["protocol"]: {"metric": each["name"]} for found in scores.values() for each in found.values()}
    return {
        "set": name, "asked": {"set": name}, "inputs": {"videos": "0" * 16, "baseline": {"run_id": "x", "videos": "y"}},
        "scores": scores, "protocols": protocols, "created_utc": "2025-01-31T12:00:00Z", "command_line": "python",
        "versions": {}, "git": {},
    }  # fmt: skip


def scored(quality: dict[str, Any], weights: str = "mini") -> dict[str, Any]:
    """Changes to `make_record` for a run of trained weights with this quality."""
    labels = {"weights": weights, "metric_backbones": "mini", "dataset": "synth:0a1b2c3d"}
    return {"quality": quality, "labels": labels, "weights": WEIGHTS}
