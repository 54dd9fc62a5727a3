"""The row of a finished clip, and how a row reads in the log."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lcp_bench.clip_runner import GeneratedClip, PreparedClip
from lcp_bench.data.manifest import Clip
from lcp_bench.open_plans import decisions_row
from lcp_bench.store import RunStore


def clip_row(
    clip: Clip,
    prepared: PreparedClip,
    samples: Sequence[GeneratedClip],
    host_seconds: dict[str, float],
    store: RunStore,
) -> dict[str, Any]:
    """The row of a finished clip; every timing sample is kept."""
    first = samples[0]
    stages = {name: [seconds] for name, seconds in host_seconds.items()}
    for sample in samples:
        for name, seconds in sample.seconds.items():
            stages.setdefault(name, []).append(seconds)
    return {
        "clip": clip.id,
        "status": "ok",
        "frames": first.frames,
        "segments": first.segments,
        "passes": first.passes,
        "video": os.path.relpath(store.clip_path(clip.id), store.path),
        "frames_sha256": first.frames_sha256,
        "repeats_equal": len({sample.frames_sha256 for sample in samples}) == 1,
        "stages_s": stages,
        "cache_bytes": first.cache_bytes,
        "engagement": first.engagement.per_layer(),
        **({"decisions": decisions_row(first.decisions)} if first.decisions else {}),
        "inputs": prepared.inputs.notes,
    }


def row_line(row: Mapping[str, Any]) -> str:
    """One line for the log."""
    if row["status"] == "failed":
        return f"clip {row['clip']}: failed at {row['stage']}: {row['reason']}"
    seconds = sum(sum(samples) / len(samples) for samples in row["stages_s"].values())
    denoise = row["stages_s"]["denoise"][0]
    return f"clip {row['clip']}: {row['frames']} frames in {seconds:.2f} s (denoise {denoise:.2f} s)"
