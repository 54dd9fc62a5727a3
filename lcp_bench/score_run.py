"""Scores of a folder of videos: which networks they need, what they are compared with, and their floor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcp_bench.score import ScoreRequest, Videos
from metrics.cache import FeatureCache
from metrics.efid import Efid
from metrics.environment import torchvision_conflict
from metrics.errors import MetricError
from metrics.faces import BoxFinder, LandmarkFinder, s3fd_finder
from metrics.fid import Fid
from metrics.fidelity import Fidelity
from metrics.frechet import Array
from metrics.fvd import Fvd
from metrics.metric import ClipMetric, FeatureSet, Files, FrechetMetric, Metric
from metrics.protocol import FidelityProtocol, Protocol, SyncProtocol
from metrics.score import Score
from metrics.sync import Sync
from metrics.weights import BACKBONES, Loaded, find_file, load_backbone

log = logging.getLogger(__name__)

SEEDED = "seeded-v1"
SEED = 0
SEEDED_WARNING = (
    "SEEDED BACKBONES: these numbers mean nothing except that the path from video to score works. Do not compare, "
    "average or publish them."
)
NEEDED: dict[str, tuple[str, ...]] = {
    "fvd": ("i3d_videogpt",),
    "fid": ("fid_inception",),
    "efid": ("recon_resnet50",),
    "sync": ("syncnet", "s3fd"),
    "fidelity": ("lpips_alex",),
}
FLOOR_NOTE = (
    "real against real, one half of the clips against the other: what equal distributions score at this n; with more "
    "clips the floor is lower"
)
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
    conflict = torchvision_conflict()
    if conflict is not None:
        raise MetricError(conflict)
    nets, left_out = _networks(request)
    rows: list[ScoreRow] = []
    protocols: dict[str, Protocol] = {}
    for metric_name in request.metrics:
        for metric, against in _metrics(metric_name, nets, request):
            protocols[metric.protocol.hash] = metric.protocol
            rows += _scores(metric, against, request)
    folders = {"videos": request.videos, "reference": request.reference, "baseline": request.baseline}
    counts = {name: len(videos) for name, videos in folders.items() if videos is not None}
    return ScoreReport(tuple(rows), protocols, counts, left_out, (SEEDED_WARNING,) if request.seeded else ())


# Networks


def _networks(request: ScoreRequest) -> tuple[dict[str, Loaded[Any]], dict[str, str]]:
    """All networks, loaded before the first feature so that a wrong file shows at once, and what is left out."""
    names = [name for metric in request.metrics for name in NEEDED[metric]]
    left_out = dict(request.left_out)
    if request.seeded:
        log.warning(SEEDED_WARNING)
        return {name: _seeded(name) for name in names if name != "s3fd"}, left_out
    missing = _missing(names, request.backbones)
    if names == missing == ["lpips_alex"]:  # PSNR and SSIM need no file
        left_out["lpips"] = f"needs {_files('lpips_alex')} in {request.backbones}, from {_source('lpips_alex')}"
        return {}, left_out
    if missing:
        raise MetricError(_explain(request, missing))
    return {name: load_backbone(name, request.backbones) for name in names}, left_out


def _seeded(name: str) -> Loaded[Any]:
    import torch

    from lcp_bench.models.weights.seeded import apply_seeded_v1

    with torch.device("meta"):
        module = BACKBONES[name].build()
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():  # counters of batch norms, which nothing reads in eval mode
            owner, _, last = key.rpartition(".")
            module.get_submodule(owner).register_buffer(last, torch.zeros(tensor.shape, dtype=tensor.dtype))
    apply_seeded_v1(module, SEED)
    return Loaded.of(module, name, f"{SEEDED}:{SEED}", SEEDED)


def _missing(names: list[str], folder: Path) -> list[str]:
    missing = []
    for name in names:
        try:
            find_file(name, folder)
        except MetricError:
            missing.append(name)
    return missing


def _explain(request: ScoreRequest, missing: list[str]) -> str:
    """One message for all weight files that are not there."""
    folder = request.backbones
    lines = [
        f"{len(missing)} weight files are not in {folder.absolute()}; nothing is downloaded while scoring. Put each "
        "there under its published name:"
    ]
    for name in missing:
        file = BACKBONES[name].file
        users = [metric for metric in request.metrics if name in NEEDED[metric]]
        lines += [f"  {folder / file.names[0]}", f"      {name}, for {', '.join(users)}", f"      {file.source}"]
        if len(file.names) > 1:
            lines.append(f"      also found as {', '.join(file.names[1:])}")
        if file.sha256:
            lines.append(f"      SHA-256 {file.sha256}{'' if len(file.sha256) == 64 else ' ... (first digits)'}")
        elif file.git_blob:
            lines.append(f"      git blob {file.git_blob}")
    lines.append(
        "or name another folder with --backbones DIR; --metrics chooses what is computed (fidelity alone gives PSNR "
        "and SSIM without any file); --seeded tries the path with numbers that mean nothing"
    )
    return "\n".join(lines)


def _files(name: str) -> str:
    return " or ".join(BACKBONES[name].file.names)


def _source(name: str) -> str:
    return BACKBONES[name].file.source


# Metrics


def _metrics(name: str, nets: Mapping[str, Loaded[Any]], request: ScoreRequest) -> list[tuple[Metric, Videos | None]]:
    """The metrics of one name, each with the videos that its clips are paired with (fidelity only)."""
    if name == "fidelity":
        net = nets.get("lpips_alex")
        found: list[tuple[Metric, Videos | None]] = []
        if request.baseline is not None:
            found.append((Fidelity(net, FidelityProtocol(against="unaccelerated")), request.baseline))
        if request.reference is not None:
            found.append((Fidelity(net, FidelityProtocol(against="ground truth")), request.reference))
        return found
    makers: dict[str, Callable[[], Metric]] = {
        "fvd": lambda: Fvd(nets["i3d_videogpt"]),
        "fid": lambda: Fid(nets["fid_inception"]),
        "efid": lambda: Efid(nets["recon_resnet50"], LandmarkFinder("cascade, points from its box", _cascade_points)),
        "sync": lambda: Sync(nets["syncnet"], _boxes(nets.get("s3fd"))),
    }
    return [(makers[name](), None)]


def _boxes(net: Loaded[Any] | None) -> BoxFinder:
    """S3FD; without it (seeded, it would see no faces) the project's own cascade stands in."""
    return BoxFinder("cascade", _cascade_boxes) if net is None else s3fd_finder(net, SyncProtocol())


def _cascade_boxes(image: NDArray[np.uint8]) -> Array:
    from lcp_bench.data.faces import detect_faces

    return np.array([[*face.box, face.support] for face in detect_faces(image)], dtype=np.float64).reshape(-1, 5)


def _cascade_points(image: NDArray[np.uint8]) -> Array | None:
    from lcp_bench.data.faces import detect_faces

    faces = detect_faces(image)
    return faces[0].landmarks5 if faces else None


# Scores


def _scores(metric: Metric, against: Videos | None, request: ScoreRequest) -> list[ScoreRow]:
    cache = FeatureCache(request.cache)
    expected = sorted({*request.videos, *(request.reference or {}), *(request.baseline or {})})

    def features(of: str, videos: Videos, clips: list[str]) -> FeatureSet:
        log.info("%s: %d clips of %s", metric.protocol.metric, len(clips), of)
        return metric.features({clip: _files_of(clip, videos, against) for clip in clips}, cache)

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
