"""Short views of a record's `quality`, and how its blocks come into a record; `quality_check` has their form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from lcp_bench.quality_check import block_scores
from lcp_bench.record import canonical_json

NO_BACKBONE = "no backbone"


def block_key(asked: Mapping[str, Any]) -> str:
    """Name of the block that answers a question: the set, and 8 hex digits over everything asked.

    Args:
        asked: `set`, `metrics`, `bootstrap`, `min_clips`, `intervals` and `weights` (their hashes).
    """
    return f"{asked['set']}:{hashlib.sha256(canonical_json(dict(asked)).encode()).hexdigest()[:8]}"


def videos_digest(rows: Sequence[Mapping[str, Any]], clips: Sequence[str]) -> str:
    """16 hex digits over the frames of a run's finished clips; it changes when a clip is made again or added."""
    wanted = set(clips)
    frames = sorted(
        (row["clip"], row["frames_sha256"]) for row in rows if row["status"] == "ok" and row["clip"] in wanted
    )
    return hashlib.sha256(canonical_json([list(pair) for pair in frames]).encode()).hexdigest()[:16]


def with_quality(record: Mapping[str, Any], blocks: Mapping[str, Any]) -> dict[str, Any]:
    """The record with these blocks beside those it has; one of the same key is replaced."""
    quality = {**(record["quality"] or {}), **blocks}
    if not quality:
        return dict(record)
    kept = {key: value for key, value in record.items() if key != "quality_reason"}
    return {**kept, "quality": quality, "labels": _labels(record["labels"], quality)}


def still_valid(old: Mapping[str, Any] | None, digest: str) -> dict[str, Any]:
    """Blocks of an earlier record of the same run that scored the very same frames."""
    quality = (old or {}).get("quality") or {}
    return {key: block for key, block in quality.items() if block["inputs"]["videos"] == digest}


def _labels(labels: Mapping[str, Any], quality: Mapping[str, Any]) -> dict[str, Any]:
    every = {score["label"] for block in quality.values() for _, _, score in block_scores(block)}
    found = every - {NO_BACKBONE} or every  # PSNR and SSIM have none; the others' labels are what matters
    kept = {key: value for key, value in labels.items() if not key.startswith("metric_backbones")}
    if not found:
        return {**kept, "metric_backbones": None, "metric_backbones_reason": "no score could be computed"}
    return {**kept, "metric_backbones": "; ".join(sorted(found))}


def short(quality: Mapping[str, Any] | None, sides: Sequence[str] = ("videos", "difference")) -> dict[str, Any] | None:
    """Block and score name to value, interval, n and label: what a headline or a tracker shows."""
    if quality is None:
        return None
    shown = ("value", "low", "high", "n", "n_expected", "direction", "label", "protocol")
    return {
        key: {name: {each: score[each] for each in shown} for side, name, score in block_scores(block) if side in sides}
        for key, block in quality.items()
    }
