"""The paired measurement: a strategy and its baseline on the same clips, interleaved in one process.

Both sides share model, kernels, precision and batching, and take turns (AB, BA, ...), so a drift of the machine hits
both alike. What is compared is the denoising; the whole generation is reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lcp_bench.clip_runner import ClipRunner, GeneratedClip, PreparedClip, generation_seconds
from lcp_bench.config import MeasureConfig
from lcp_bench.measure.statistics import interleave, ratio_interval
from lcp_bench.record import pair_block

SIDES = ("baseline", "accelerated")


def measure_pair(
    baseline: ClipRunner, accelerated: ClipRunner, clips: Sequence[PreparedClip], options: MeasureConfig
) -> dict[str, Any]:
    """Time both runners on the same clips.

    Args:
        baseline: Runner of the strategy named by `measure.pair`.
        accelerated: Runner of the run's strategy.
        clips: At least one prepared clip; the first `pair_clips` are used.
        options: Repeats and bootstrap size.

    Returns:
        The record's `pair`: ratio of denoising times with its interval and all samples, `generation` beside it.
    """
    runners = dict(zip(SIDES, (baseline, accelerated), strict=True))
    samples: dict[str, list[GeneratedClip]] = {side: [] for side in SIDES}
    for prepared in clips[: options.pair_clips]:
        for side in SIDES:
            runners[side].generate(prepared)  # untimed: both sides start warm, at this clip's shapes
        for order in interleave(options.pair_repeats, SIDES):
            for side in order:
                samples[side].append(runners[side].generate(prepared))
    denoise = [[sample.seconds["denoise"] for sample in samples[side]] for side in SIDES]
    whole = [generation_seconds(samples[side]) for side in SIDES]
    block = _block(denoise, options)
    block["stage"] = "denoise"
    block["generation"] = _block(whole, options)
    return block


def assist_pair(accelerated: ClipRunner, clips: Sequence[PreparedClip], options: MeasureConfig) -> None:
    """What another rank does meanwhile: its part of every accelerated generation; the baseline runs on one device."""
    for prepared in clips[: options.pair_clips]:
        for _ in range(1 + options.pair_repeats):
            accelerated.generate(prepared)


def _block(seconds: list[list[float]], options: MeasureConfig) -> dict[str, Any]:
    interval = ratio_interval(seconds[0], seconds[1], resamples=options.bootstrap)
    return dict(pair_block(str(options.pair), interval.as_dict(), seconds[0], seconds[1]))
