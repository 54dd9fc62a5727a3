"""A run: from a checked configuration to videos, rows and a record.

Finished clips are never made again, a failed clip is a row with its reason and does not stop the others, and a finished
run is only reported. The record is written last; a mirror follows it.

Under torchrun several processes make one run: the first does all of this, the others do what it tells them to, which is
to generate the same clips in step with it (`lcp_bench.parallel`), and leave before it writes the record.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lcp_bench.assemble import (
    WeightsLabel,
    describe_parser,
    describe_weights,
    load_model,
    resolve_device,
    set_precision,
)
from lcp_bench.cli import emit_json
from lcp_bench.clip_row import clip_row, row_line
from lcp_bench.clip_runner import ClipRunner, PreparedClip, needs_embedding
from lcp_bench.clip_video import generate_video
from lcp_bench.config import RunConfig, baseline_of, build_strategy
from lcp_bench.data.face_parsing import FaceParser
from lcp_bench.data.manifest import Clip, Manifest
from lcp_bench.data.registry import load_dataset
from lcp_bench.dry import report_dry
from lcp_bench.errors import ClipError, ConfigError, LcpBenchError, RankError, RepeatedError
from lcp_bench.fail_fast import INPUT_STAGES, InARow
from lcp_bench.failure import failure_recorded, request_of, request_recorded
from lcp_bench.identity import require_equal, run_identity
from lcp_bench.launch import launched
from lcp_bench.measure.clock import Stopwatch, monotonic_s
from lcp_bench.measure.memory import MemoryScope
from lcp_bench.models.talking_head import TalkingHead
from lcp_bench.pairing import assist_pair, measure_pair
from lcp_bench.parallel import ENDS_RUN, Ranks, joined
from lcp_bench.plan_report import CostReport, cost_report
from lcp_bench.quality import Quality
from lcp_bench.store import RunStore, run_id
from lcp_bench.summary import build_record, headline
from lcp_bench.tracker import Tracker, make_tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended.

    Attributes:
        record: Path of its record.
        status: `complete`, `partial` or `failed`.
        exit_code: 0 if every clip has its video.
        message: What is wrong if not.
    """

    record: Path
    status: str
    exit_code: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is known of a run before a weight is read.

    Attributes:
        processes: How many make it together.
        parser: What finds the foreground of its portraits, where the strategy wants one and a parser is there.
    """

    config: RunConfig
    device: torch.device
    manifest: Manifest
    clips: tuple[Clip, ...]
    weights: WeightsLabel
    identity: dict[str, Any]
    store: RunStore
    processes: int = 1
    parser: FaceParser | None = None


def run(config: RunConfig, overrides: Sequence[str]) -> RunSummary:
    """Generate and measure what the configuration asks for; see the module's text.

    Args:
        config: The checked configuration.
        overrides: The words that made it, for the record.

    Raises:
        LcpBenchError: Nothing could be done: missing weights, an unusable data set, a run held by another process.
    """
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    set_precision(config)
    launch = launched()
    if config.run.dry:
        return _lead(config, overrides, Ranks(), launch.processes)
    with joined(launch, resolve_device(config), config.run.ranks_timeout_s) as ranks:
        if ranks.leads:
            return _lead(config, overrides, ranks, launch.processes)
        _assist(config, ranks)
    return RunSummary(Path(config.paths.runs), "assisted", 0)


def _lead(config: RunConfig, overrides: Sequence[str], ranks: Ranks, processes: int) -> RunSummary:
    """The run, by its only process or the first of several."""
    tracker = make_tracker(config.tracker)
    if config.run.dry:
        return _dry(plan_run(config, processes), overrides, tracker)
    with request_recorded(config, overrides):
        planned = plan_run(config, processes)
        quality = Quality(planned, overrides)
        done = _is_done(planned)
        if not done:
            require_embeddings(planned)
            quality.check()
    if done:
        ranks.tell(None)
        ranks.part()
        return _report(planned, _score_finished(planned, quality, tracker), resumed=True)
    with planned.store:
        done = _is_done(planned)  # by another process, while this one waited for the lock
        if done:
            ranks.tell(None)
            ranks.part()
        record = quality.score(planned.store.read_record() or {}) if done else _go_on(planned, quality, ranks)
    tracker.mirror(record, planned.store.path, _videos(planned))
    return _report(planned, record, resumed=done)


def _dry(planned: RunPlan, overrides: Sequence[str], tracker: Tracker) -> RunSummary:
    """Say what the command would do; nothing is made."""
    if _is_done(planned):
        return _report(planned, _score_finished(planned, Quality(planned, overrides), tracker), resumed=True)
    return report_dry(planned)


def _go_on(planned: RunPlan, quality: Quality, ranks: Ranks) -> dict[str, Any]:
    """Make what is missing of a locked run, and score it; an error is recorded."""
    old = planned.store.read_record()
    planned.store.write_request(request_of(planned))
    execution = _Execution(planned, ranks)
    with failure_recorded(planned, execution.costs):
        return quality.score(execution.perform(lambda record: quality.keep(record, old)))


def _is_done(planned: RunPlan) -> bool:
    return planned.store.is_complete() and not _wants_retry(planned)


def _assist(config: RunConfig, ranks: Ranks) -> None:
    """Another process than the first: it generates what it is told to, and writes nothing."""
    orders = ranks.tell(None)
    planned = plan_run(config, ranks.processes)  # now, because the first process has made the data set's files
    if orders is not None:
        require_equal(planned.identity, orders["identity"])
        _Execution(planned, ranks).assist(orders["clips"])
    ranks.part()


def _score_finished(planned: RunPlan, quality: Quality, tracker: Tracker) -> Any:
    """The record of a finished run, with the scores that are asked for and were not there."""
    record: Any = planned.store.read_record()
    if quality.is_done(record):
        log.info("run %s is complete, nothing to do", planned.store.run_id)
        return record
    if planned.config.run.dry:
        log.info("run %s is complete, but not scored with the %s metrics", planned.store.run_id, quality.asked_for.name)
        return record
    quality.check()
    with planned.store:
        record = quality.score(record)
    tracker.mirror(record, planned.store.path, _videos(planned))
    return record


def plan_run(config: RunConfig, processes: int = 1) -> RunPlan:
    """Everything that names the run, without weights in memory."""
    device = resolve_device(config)
    weights = describe_weights(config, device)
    manifest = load_dataset(config.dataset, config.paths)
    clips = manifest.clips if config.run.limit is None else manifest.clips[: config.run.limit]
    parser = describe_parser(config, clips)
    identity = run_identity(config, manifest, weights, device, processes, parser)
    store = RunStore(config.paths.runs, run_id(identity), wait_s=config.run.wait_s)
    return RunPlan(config, device, manifest, clips, weights, identity, store, processes, parser)


def _wants_retry(planned: RunPlan) -> bool:
    return planned.config.run.retry_failed and any(row["status"] == "failed" for row in planned.store.rows())


def require_embeddings(planned: RunPlan) -> None:
    """Refuse, before weights are read, a run with public weights whose clips can have no identity embedding.

    Raises:
        ConfigError: Names the clips; zeros instead of an identity would give a stranger's face a published model's
            name.
    """
    config = planned.config
    if not needs_embedding(config) or config.dataset.face_detector == "insightface":
        return
    without = [clip.id for clip in planned.clips if clip.embedding is None]
    if without:
        shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        raise ConfigError(
            "public weights need a 512-d identity embedding for every clip; "
            f"{len(without)} of {len(planned.clips)} have none: {shown}; use dataset.face_detector=insightface with "
            "its files, give embedding files in pairs.csv, or use model.weights=seeded for speed only"
        )


class _Execution:
    """One process' work on one run; the leading one's is under the run's lock."""

    def __init__(self, planned: RunPlan, ranks: Ranks) -> None:
        self.planned, self.config, self.store, self.ranks = planned, planned.config, planned.store, ranks
        self.started = monotonic_s()
        self.costs: CostReport = cost_report(self.config)
        self.accelerated: ClipRunner | None = None
        self.model: TalkingHead | None = None
        self.failures = InARow(self.config.run.fail_fast)

    def perform(self, complete: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Do what is missing and write the record, after `complete` has added what an earlier record knew."""
        retry = self.config.run.retry_failed
        done = {row["clip"] for row in self.store.rows() if row["status"] == "ok" or not retry}
        missing = [clip for clip in self.planned.clips if clip.id not in done]
        if done:
            log.info("run %s goes on: %d clips done, %d to do", self.store.run_id, len(done), len(missing))
        self.ranks.tell({"identity": self.planned.identity, "clips": [clip.id for clip in missing]})
        if missing or self.config.measure.pair:
            self._load()
        if missing:
            self._warm_up(missing)
        with self._progress(missing) as bar:
            for number, clip in enumerate(missing, start=1):
                self._watch(self._process(clip, bar), left=len(missing) - number)
                bar.update()
        pair, pair_reason = self._pair()
        self.ranks.part()
        record = build_record(
            self.planned, self.costs, self.store.rows(), pair, pair_reason, monotonic_s() - self.started
        )
        record = complete(record)
        self.store.write_record(record)
        return record

    def assist(self, wanted: Sequence[str]) -> None:
        """Generate the clips `wanted`, and what the paired measurement needs, in step with the leading process."""
        clips = [clip for clip in self.planned.clips if clip.id in set(wanted)]
        if clips or self.config.measure.pair:
            self._load()
        if clips:
            self._warm_up(clips)
        for clip in clips:
            try:
                with self.ranks.together():
                    prepared = self._runner.prepare(clip)
                    for _ in range(self.config.measure.repeats):
                        self._runner.generate(prepared)
            except ENDS_RUN:
                raise
            except Exception as error:
                log.info("clip %s failed, its row is the leading process' to write: %s", clip.id, error)
        told = set(self.ranks.tell(None))
        pairs = [clip for clip in self.planned.clips if clip.id in told]
        if pairs:
            with self.ranks.together():
                assist_pair(self._runner, [self._runner.prepare(clip) for clip in pairs], self.config.measure)

    def _load(self) -> None:
        model = self.config.model
        log.info("loading %s (%s, %s weights)", model.name, model.size, model.weights)
        self.model = load_model(self.config, self.planned.device)
        strategy, parser = build_strategy(self.config), self.planned.parser
        self.accelerated = ClipRunner(self.config, self.model, strategy, self.costs.plan, self.ranks, parser)

    def _progress(self, clips: Sequence[Clip]) -> tqdm[Any]:
        """A bar on a terminal, nothing elsewhere: there a line per clip is logged."""
        hidden = not sys.stderr.isatty()
        return tqdm(total=len(clips), unit="clip", desc=self.config.accel_name, disable=hidden, leave=False)

    def _warm_up(self, clips: Sequence[Clip]) -> None:
        """Untimed generations at the full schedule; a clip that fails here fails again, as a row, in its turn."""
        wanted = self.config.measure.warmup_clips
        for clip in clips:
            if wanted <= 0:
                return
            try:
                with self.ranks.together():
                    self._runner.generate(self._runner.prepare(clip))
            except RankError:
                raise
            except Exception as error:
                log.warning("warm-up on clip %s failed (%s); it gets its row when its turn comes", clip.id, error)
                continue
            wanted -= 1

    @property
    def _runner(self) -> ClipRunner:
        assert self.accelerated is not None
        return self.accelerated

    def _watch(self, row: dict[str, Any], left: int) -> None:
        """End the run when the same failure comes again and again: then it is not the clips'.

        Raises:
            RepeatedError: `run.fail_fast` clips in a row failed alike.
        """
        if row["status"] == "ok":
            self.failures.worked()
        elif row["stage"] not in INPUT_STAGES and self.failures.failed(f"{row['stage']}: {row['reason']}") and left:
            raise RepeatedError(
                f"{self.failures.count} clips in a row failed alike at {row['stage']}: {row['reason']}; {left} more "
                "were not tried. Mend it and add run.retry_failed=true; run.fail_fast=null tries every clip"
            )

    def _process(self, clip: Clip, bar: tqdm[Any]) -> dict[str, Any]:
        """Generate one clip and append its row, whatever happens to it."""
        try:
            with self.ranks.together():
                row = self._make(clip, bar)
        except ENDS_RUN:
            raise  # not this clip's fault: the whole run would fail the same way
        except Exception as error:
            row = self._failure(clip, error)
        self.store.append_row(row)
        log.info("%s", row_line(row))
        return row

    def _make(self, clip: Clip, bar: tqdm[Any]) -> dict[str, Any]:
        watch, started = Stopwatch("cpu"), monotonic_s()

        def show(done: int, total: int) -> None:
            bar.set_postfix_str(f"{clip.id}: segment {done} of {total}")

        with MemoryScope(self.planned.device) as memory:
            with watch.stage("preprocess"):
                prepared = self._runner.prepare(clip)
            samples = [generate_video(self._runner, prepared, self.store.clip_path(clip.id), watch, show)]
            samples += [self._runner.generate(prepared, show) for _ in range(self.config.measure.repeats - 1)]
        row = clip_row(clip, prepared, samples, watch.totals(), self.store)
        return {**row, "memory": memory.peaks, "wall_s": monotonic_s() - started}

    def _failure(self, clip: Clip, error: Exception) -> dict[str, Any]:
        """A row that says why there is no video. Memory exhaustion and bugs count as failures of the clip too."""
        if self.config.run.debug:
            traceback.print_exc()
        stage = error.stage if isinstance(error, ClipError) else "denoise"
        reason = str(error) if isinstance(error, LcpBenchError) else f"{type(error).__name__}: {error}"
        return {"clip": clip.id, "status": "failed", "stage": stage, "reason": reason.strip() or type(error).__name__}

    def _pair(self) -> tuple[dict[str, Any] | None, str]:
        options = self.config.measure
        good = {row["clip"] for row in self.store.rows() if row["status"] == "ok"}
        clips = [clip for clip in self.planned.clips if clip.id in good and options.pair][: options.pair_clips]
        self.ranks.tell([clip.id for clip in clips])
        if options.pair is None:
            return None, "measure.pair is not set; measure.pair=none times the baseline interleaved"
        if not clips:
            return None, "no clip could be generated"
        assert self.model is not None
        baseline_config = baseline_of(self.config)
        strategy = build_strategy(baseline_config)
        sampler = self.config.sampler
        plan = strategy.check(self.model.unet.topology, num_steps=sampler.steps, eta=sampler.eta)
        baseline = ClipRunner(baseline_config, self.model, strategy, plan)
        log.info("pairing with %s on %d clips, %d repeats", options.pair, len(clips), options.pair_repeats)
        with self.ranks.together():
            prepared: list[PreparedClip] = [self._runner.prepare(clip) for clip in clips]
            return measure_pair(baseline, self._runner, prepared, options), ""


def _videos(planned: RunPlan) -> list[Path]:
    return [path for clip in planned.clips if (path := planned.store.clip_path(clip.id)).is_file()]


def _report(planned: RunPlan, record: Any, *, resumed: bool) -> RunSummary:
    path = planned.store.path / "record.json"
    emit_json({"record": str(path), "already_complete": resumed, **headline(record)})
    clips = record["clips"]
    if clips["n_ok"] == clips["n_expected"]:
        return RunSummary(path, record["status"], 0)
    reasons = "; ".join(f"{item['clip']}: {item['reason']}" for item in clips["failed"][:3])
    message = f"{clips['n_failed']} of {clips['n_expected']} clips failed ({reasons}); every reason is in {path}"
    return RunSummary(path, record["status"], 1, message)
