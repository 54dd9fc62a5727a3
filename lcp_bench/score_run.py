"""Scores of sets of videos: what they are compared with, their paired differences, and their floor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lcp_bench.metric_sets import (
    NEEDED,
    SEEDED,
    SEEDED_WARNING,
    against_ground_truth,
    check_set,
    metric_set,
    not_computed,
)
from lcp_bench.score import ScoreRequest, Videos
from metrics.cache import FeatureCache
from metrics.efid import Efid
from metrics.errors import MetricError
from metrics.fidelity import Fidelity
from metrics.intervals import Interval
from metrics.metric import ClipMetric, FeatureSet, Files, FrechetMetric, Metric
from metrics.protocol import Protocol
from metrics.score import Score

__all__ = ["NEEDED", "SEEDED", "SEEDED_WARNING", "ScoreReport", "ScoreRow", "score_set", "score_videos"]

log = logging.getLogger(__name__)

FLOOR_NOTE = "real against real: what equal distributions score at this n; with more clips the floor is lower"
LANDMARK_NOTE = (
    "the five points are estimated from the face's box: compare E-FID only with scores of the same protocol hash, "
    "never with published values"
)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score and what it is of: `videos`, `baseline`, `videos - baseline`, or `reference`."""

    of: str
    score: Score


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """All scores of one command.

    Attributes:
        rows: in the order of the metrics.
        protocols: hash to protocol.
        clips: folder (`videos`, `reference`, `baseline`) to the number of its videos.
        left_out: metric to why it is not computed.
        warnings: what must stand above every number.
    """

    rows: tuple[ScoreRow, ...]
    protocols: dict[str, Protocol]
    clips: dict[str, int]
    left_out: dict[str, str]
    warnings: tuple[str, ...]


def score_videos(request: ScoreRequest) -> ScoreReport:
    """Compute all scores of a request.

    A clip that any folder has is expected in `videos` and `baseline`: where it is absent it is a gap.

    Raises:
        MetricError: weight files are missing or wrong, torchvision breaks this environment, features cannot be kept.
    """
    try:
        check_set(request.metric, request.metrics, request.backbones)
    except MetricError as error:
        raise MetricError(
            f"{error}\nor name another folder with --backbones DIR; --metrics chooses what is computed (fidelity alone "
            "gives PSNR and SSIM without any file); --metric mini takes the small networks of this repository; "
            "--seeded tries the path with numbers that mean nothing"
        ) from error
    metrics = metric_set(request.metric, request.metrics, request.backbones)
    left_out = request.left_out | not_computed(request.metric, request.metrics, request.backbones)
    rows, protocols = score_set(metrics, request)
    folders = {"videos": request.videos, "reference": request.reference, "baseline": request.baseline}
    counts = {name: len(videos) for name, videos in folders.items() if videos is not None}
    warnings = (SEEDED_WARNING,) if request.metric == SEEDED else ()
    return ScoreReport(tuple(rows), protocols, counts, left_out, warnings)


def score_set(metrics: Mapping[str, Metric], request: ScoreRequest) -> tuple[list[ScoreRow], dict[str, Protocol]]:
    """All scores of some metrics, and their protocols by hash.

    Args:
        metrics: name to metric; the request's own `metrics` and `metric` are not read.
        request: the videos, the cache, and how many clips a Fréchet distance needs.

    Raises:
        MetricError: features cannot be kept.
    """
    rows: list[ScoreRow] = []
    protocols: dict[str, Protocol] = {}
    for metric in metrics.values():
        for each, against in _comparisons(metric, request):
            protocols[each.protocol.hash] = each.protocol
            rows += [
                ScoreRow(row.of, _enough(row.score, each, request.min_clips)) for row in _scores(each, against, request)
            ]
    return rows, protocols


def _comparisons(metric: Metric, request: ScoreRequest) -> list[tuple[Metric, Videos | None]]:
    """The metric with the videos that its clips are paired with: two comparisons for fidelity, else one with none."""
    if not isinstance(metric, Fidelity):
        return [(metric, None)]
    found: list[tuple[Metric, Videos | None]] = []
    if request.baseline is not None:
        found.append((metric, request.baseline))
    if request.reference is not None:
        truth = against_ground_truth(metric)
        truth.protocol = replace(truth.protocol, bootstrap=metric.protocol.bootstrap)
        found.append((truth, request.reference))
    return found


def _enough(score: Score, metric: Metric, min_clips: int) -> Score:
    """A Fréchet distance of too few clips becomes null: its number would say little but how few they are."""
    if not isinstance(metric, FrechetMetric) or score.value is None or score.n >= min_clips:
        return score
    reason = f"n = {score.n} clips, and a Fréchet distance of fewer than {min_clips} is not given (metric.min_clips)"
    return replace(score, value=None, interval=Interval(None, None, reason=reason), reason=reason)


def _scores(metric: Metric, against: Videos | None, request: ScoreRequest) -> list[ScoreRow]:
    cache = FeatureCache(request.cache)
    expected = sorted({*request.videos, *(request.reference or {}), *(request.baseline or {})})

    def features(of: str, videos: Videos, clips: list[str]) -> FeatureSet:
        log.info("%s: %d clips of %s", metric.protocol.metric, len(clips), of)
        found = metric.features({clip: _files_of(clip, videos, against) for clip in clips}, cache)
        return replace(found, identities=request.identities)

    videos = features("videos", request.videos, expected)
    reference = baseline = None
    if request.reference is not None and against is None:
        reference = features("reference", request.reference, sorted(request.reference))
    if request.baseline is not None and against is not request.baseline:
        baseline = features("baseline", request.baseline, expected)
    rows = [ScoreRow("videos", score) for score in metric.scores(videos, reference)]
    if baseline is not None:
        rows += [ScoreRow("baseline", score) for score in metric.scores(baseline, reference)]
        rows += [ScoreRow("videos - baseline", score) for score in _differences(metric, videos, baseline, reference)]
    if reference is not None:
        rows += [ScoreRow("reference", score) for score in _ground_truth(metric, reference)]
    return [ScoreRow(row.of, _noted(row.score, metric)) for row in rows]


def _files_of(clip: str, videos: Videos, against: Videos | None) -> Files:
    """The clip's file or pair of files; one that is not there gets the path where it was looked for."""
    folder = next(iter(videos.values())).parent
    path = videos.get(clip, folder / f"{clip}.mp4")
    if against is None:
        return path
    other = next(iter(against.values())).parent
    return path, against.get(clip, other / f"{clip}.mp4")


def _differences(metric: Metric, videos: FeatureSet, baseline: FeatureSet, reference: FeatureSet | None) -> list[Score]:
    if isinstance(metric, ClipMetric):
        return metric.differences(videos, baseline)
    if isinstance(metric, FrechetMetric) and reference is not None:
        return [metric.difference(videos, baseline, reference)]
    return []


def _ground_truth(metric: Metric, reference: FeatureSet) -> list[Score]:
    """The real videos' own scores; for Fréchet distances the floor."""
    if isinstance(metric, FrechetMetric):
        floor = metric.floor(reference)
        return [replace(floor, notes=(*floor.notes, FLOOR_NOTE))]
    return metric.scores(reference)


def _noted(score: Score, metric: Metric) -> Score:
    notes = score.notes
    if isinstance(metric, Efid):
        notes = (*notes, LANDMARK_NOTE)
    if metric.protocol.label == SEEDED:
        notes = (*notes, SEEDED_WARNING)
    return replace(score, notes=notes)
