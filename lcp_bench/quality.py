"""The quality stage of a run: score its videos, the real ones and those of its unaccelerated twin.

What is scored is no part of a run's identity. The scores are a block of the run's record, named by the set of metrics,
its settings and its weights; the record is replaced as a whole when the block is there. A run that was made without
metrics, or before its twin existed, is scored by giving its command again: nothing is generated then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcp_bench.config import baseline_of
from lcp_bench.errors import LcpBenchError
from lcp_bench.measure.clock import utc_now
from lcp_bench.metric_sets import check_set, metric_set, not_computed, set_identity
from lcp_bench.provenance import command_line, git_state, tidy_paths, versions
from lcp_bench.quality_block import block_key, still_valid, videos_digest, with_quality
from lcp_bench.quality_twin import Twin, find_twin, twin_command
from lcp_bench.score import ScoreRequest, Videos
from lcp_bench.score_run import ScoreRow, score_set
from metrics.errors import MetricError
from metrics.fidelity import Fidelity
from metrics.metric import FrechetMetric, Metric

if TYPE_CHECKING:
    from lcp_bench.runner import RunPlan

log = logging.getLogger(__name__)

FEATURES = "features"
"""Folder of the features below `paths.cache`."""
NUMERIC = ("torch", "numpy", "scipy", "torchmetrics", "av", "opencv-python-headless")
SIDE_OF = {"videos": "videos", "baseline": "baseline", "videos - baseline": "difference", "reference": "reference"}
ITSELF = "this run is the unaccelerated one: it is what the others are compared with"
NO_REAL = "the data set has no real videos to compare with: its clips are pairs of a portrait and speech"


class Quality:
    """Scores the videos of one run, when the configuration asks for it and its record does not have it yet.

    Args:
        planned: What names the run.
        overrides: The words that made it, to spell the command that makes its twin.
    """

    def __init__(self, planned: RunPlan, overrides: Sequence[str]) -> None:
        self.planned, self.overrides = planned, overrides
        self.asked_for = planned.config.metric
        self.store = planned.store
        self.clips = [clip.id for clip in planned.clips]
        chosen = self.asked_for.backbones
        self.backbones = None if chosen is None else Path(chosen)

    @property
    def wanted(self) -> bool:
        """Whether this run may carry scores; random weights may not."""
        return self.asked_for.name != "none" and self.planned.weights.label != "seeded"

    def check(self) -> None:
        """Refuse, before anything is generated, a set of metrics whose files are not there.

        Raises:
            MetricError: One message for all missing files.
        """
        if not self.wanted:
            return
        try:
            check_set(self.asked_for.name, self.asked_for.metrics, self.backbones)
        except MetricError as error:
            raise MetricError(
                f"{error}\nor choose with metric.metrics=[...] what is computed (fidelity alone gives PSNR and SSIM "
                "without any file), name another folder with metric.backbones=DIR, take the small networks with "
                "+metric=mini, or leave the scores for later with +metric=none"
            ) from error

    def is_done(self, record: Mapping[str, Any]) -> bool:
        """Whether the record answers what is asked, about the videos that are there now."""
        if not self.wanted or not record["clips"]["n_ok"]:
            return True
        block = (record["quality"] or {}).get(self.key)
        return block is not None and _same_inputs(block["inputs"], self.inputs)

    def keep(self, record: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
        """The new record of a run that was gone on with, with the old one's blocks that still hold."""
        if old is None or not old["quality"]:
            return dict(record)
        return with_quality(record, still_valid(old, videos_digest(self.store.rows(), self.clips)))

    def score(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Score what is missing and put it into the record; the store must be locked.

        Raises:
            MetricError: A network or the cache failed; the record on disk is as before.
        """
        if self.is_done(record):
            return dict(record)
        log.info("scoring run %s with the %s metrics: %s", self.store.run_id, self.asked_for.name,
                 ", ".join(self.asked_for.metrics))  # fmt: skip
        try:
            block = self._block(record)
        except (LcpBenchError, OSError, RuntimeError) as error:
            raise MetricError(
                f"the videos of run {self.store.run_id} are made and recorded, but scoring them failed: {error}; give "
                "the command again to score them, nothing is generated anew"
            ) from error
        scored = with_quality(record, {self.key: block})
        self.store.write_record(scored)
        return scored

    # What is asked, and about what

    @cached_property
    def asked(self) -> dict[str, Any]:
        """The question: settings and weights, as JSON without nulls."""
        config = self.asked_for
        return {
            "set": config.name,
            "metrics": list(config.metrics),
            "bootstrap": "as each protocol says" if config.bootstrap is None else config.bootstrap,
            "min_clips": config.min_clips,
            "intervals": "over people where the data set knows them, else over clips",
            "weights": set_identity(config.name, config.metrics, self.backbones),
        }

    @property
    def key(self) -> str:
        """Name of the block that answers it."""
        return block_key(self.asked)

    @cached_property
    def twin(self) -> Twin | None:
        """The unaccelerated run; None for itself, and where there is none."""
        if self.is_baseline:
            return None
        baseline = baseline_of(self.planned.config).accel
        return find_twin(self.planned.identity, baseline, self.store.path.parent, self.clips)

    @property
    def is_baseline(self) -> bool:
        """Whether this run is the unaccelerated one."""
        return self.planned.config.accel == baseline_of(self.planned.config).accel

    @property
    def inputs(self) -> dict[str, Any]:
        """Which videos are scored: hashes of the run's own frames and of its twin's."""
        found: dict[str, Any] = {"videos": videos_digest(self.store.rows(), self.clips)}
        if self.twin is None:
            return found | {"baseline": None, "baseline_reason": self._no_twin()}
        return found | {"baseline": self.twin.as_dict()}

    def _no_twin(self) -> str:
        if self.is_baseline:
            return ITSELF
        return (
            f"no unaccelerated run of the same clips and settings is beside this one; make it with "
            f"{twin_command(self.overrides)}, then give this run's command again"
        )

    # Scoring

    def _block(self, record: Mapping[str, Any]) -> dict[str, Any]:
        request = self._request()
        metrics = self._metrics()
        reasons = self._not_scored(metrics, request)
        usable = {
            name: metric
            for name, metric in metrics.items()
            if request.reference is not None or not isinstance(metric, FrechetMetric)
        }
        rows, protocols = score_set(usable, request)
        failed = {item["clip"]: item for item in record["clips"]["failed"]}
        return {
            "set": self.asked_for.name,
            "asked": self.asked,
            "inputs": self.inputs,
            "scores": _scores(rows, reasons, failed),
            "protocols": {key: _no_nulls(protocol.as_dict()) for key, protocol in protocols.items()},
            "created_utc": utc_now(),
            "command_line": command_line(),
            "versions": versions(NUMERIC),
            "git": git_state(),
        }

    def _request(self) -> ScoreRequest:
        """All expected clips count: one that failed, or that has no real video, is a gap of the scores."""
        real: Videos = {clip.id: Path(clip.video) for clip in self.planned.clips if clip.video is not None}
        twin = self.twin
        return ScoreRequest(
            videos={clip: self.store.clip_path(clip) for clip in self.clips},
            reference=real or None,
            baseline=None if twin is None else {clip: twin.store.clip_path(clip) for clip in self.clips},
            metrics=self.asked_for.metrics,
            left_out={},
            metric=self.asked_for.name,
            backbones=self.backbones,
            cache=Path(self.planned.config.paths.cache) / FEATURES,
            min_clips=self.asked_for.min_clips,
            identities={clip.id: clip.identity for clip in self.planned.clips if clip.identity},
        )

    def _metrics(self) -> dict[str, Metric]:
        config = self.asked_for
        metrics = metric_set(config.name, config.metrics, self.backbones, self.planned.device)
        if config.bootstrap is not None:
            for metric in metrics.values():
                metric.protocol = replace(metric.protocol, bootstrap=config.bootstrap)
        return metrics

    def _not_scored(self, metrics: Mapping[str, Metric], request: ScoreRequest) -> dict[str, str]:
        """Name of each score that will not be there to its reason."""
        found: dict[str, str] = {}
        if request.reference is None:
            found = {each.protocol.metric: NO_REAL for each in metrics.values() if isinstance(each, FrechetMetric)}
        for metric in metrics.values():
            if isinstance(metric, Fidelity) and request.baseline is None:
                found |= dict.fromkeys(metric.quantities, self._no_twin())
        left_out = not_computed(self.asked_for.name, self.asked_for.metrics, self.backbones)
        found |= {f"{name}_vs_unaccelerated": why for name, why in left_out.items()}
        return {name: tidy_paths(why) for name, why in found.items()}


def _scores(
    rows: Sequence[ScoreRow], reasons: Mapping[str, str], failed: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """Scores by side and name; what is not there is null with its reason."""
    found: dict[str, dict[str, Any]] = {"videos": {}}
    for name, why in reasons.items():
        found["videos"] |= {name: None, f"{name}_reason": why}
    for row in rows:
        block = row.score.as_dict()
        block["gaps"] = [_gap(gap, failed) for gap in block["gaps"]]
        found.setdefault(SIDE_OF[row.of], {})[row.score.name] = block
    return found


def _gap(gap: Mapping[str, str], failed: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A gap in words for the reader: a clip that failed says where and why, and paths are shortened."""
    clip, message = gap["clip"], gap["message"]
    if gap["reason"] == "missing" and clip in failed:
        message = f"it was not generated: failed at {failed[clip]['stage']}: {failed[clip]['reason']}"
    return {"clip": clip, "reason": gap["reason"], "message": tidy_paths(message)}


def _same_inputs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the same videos are meant; the reason for an absent twin is only words."""
    return (one["videos"], one.get("baseline")) == (other["videos"], other.get("baseline"))


def _no_nulls(value: Any) -> Any:
    """A protocol for the record, where every null would need a reason: an option that is None is left out."""
    if isinstance(value, Mapping):
        return {str(key): _no_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_no_nulls(inner) for inner in value if inner is not None]
    return value
