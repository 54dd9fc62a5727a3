"""What a command would do, and what it would cost: `run.dry=true`.

The cost is that of finished runs below `paths.runs` with the same model, strategy, number of steps and hardware, clip
by clip; where there is none it is unknown, never a guess.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcp_bench.cli import emit_json
from lcp_bench.errors import LcpBenchError
from lcp_bench.lock import is_flocked, read_holder
from lcp_bench.record import canonical_json
from lcp_bench.status_table import Cell, duration, print_table

if TYPE_CHECKING:
    from lcp_bench.config import RunConfig
    from lcp_bench.preflight import Job
    from lcp_bench.runner import RunPlan, RunSummary

log = logging.getLogger(__name__)

NO_PAST = "no finished run of this model, strategy, number of steps and device"


@dataclass(frozen=True, slots=True)
class Survey:
    """One run of a command, before anything is made.

    Attributes:
        state: `complete`, `partial`, `missing`, `running` (made by another process), `same` as an earlier run of the
            sweep, or `blocked` with the reason.
        run_id: Its name; None when it is blocked.
        done: Clips that have a row.
        clips: Clips that it has.
        expected_s: Seconds that the rest will take; None when no past run tells.
        reason: Why it is blocked, who makes it, or why the cost is unknown.
    """

    state: str
    run_id: str | None
    done: int = 0
    clips: int = 0
    expected_s: float | None = None
    reason: str = ""


@dataclass(slots=True)
class PastCosts:
    """Seconds of finished runs, by what they were made with.

    Attributes:
        known: Key of model, strategy and hardware -> what records say.
    """

    known: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    @classmethod
    def below(cls, root: Path | str) -> PastCosts:
        """Read the records below `root`; what cannot be read tells nothing."""
        costs = cls()
        for path in sorted(Path(root).glob("*/record.json")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                if record["speed"] and record["speed"]["seconds_per_clip"]:
                    costs.known.setdefault(_key(record["identity"]), []).append(record)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.debug("%s tells no cost: %s", path, error)
        return costs

    def seconds(self, planned: RunPlan, left: Sequence[Any]) -> float | None:
        """Seconds for the clips `left` of a run, its warm-up and its paired measurement; None if unknown."""
        past = self.known.get(_key(json.loads(canonical_json(planned.identity))), [])
        if not past:
            return None
        dataset = _clips_of(json.loads(canonical_json(planned.identity)))
        alike = [record for record in past if _clips_of(record["identity"]) == dataset]
        measure = planned.config.measure
        if alike:
            per_clip = _mean(record["speed"]["seconds_per_clip"]["value"] for record in alike)
            wanted = len(left)
        else:
            known = [clip.duration_s for clip in left if clip.duration_s is not None]
            if not known:
                return None
            rate = _mean(record["speed"]["frames_per_second"]["value"] for record in past)
            per_clip, wanted = _mean(known) * planned.config.model.fps / rate, len(left)
        pairs = measure.pair_clips * measure.pair_repeats if measure.pair else 0
        return per_clip * (wanted * measure.repeats + measure.warmup_clips) + pairs * _pair_seconds(past, per_clip)


def survey(planned: RunPlan, costs: PastCosts | None = None) -> Survey:
    """Where a run stands.

    Args:
        planned: What names it.
        costs: Those of `PastCosts.below`, so that a sweep reads them once.
    """
    store = planned.store
    total = len(planned.clips)
    if store.is_complete():
        return Survey("complete", store.run_id, total, total, 0.0)
    rows = {row["clip"] for row in store.rows()}
    left = [clip for clip in planned.clips if clip.id not in rows]
    lock = store.path / "lock"
    costs = PastCosts.below(planned.config.paths.runs) if costs is None else costs
    seconds = costs.seconds(planned, left)
    state, reason = "partial" if rows else "missing", "" if seconds is not None else NO_PAST
    if is_flocked(lock):
        state, reason = "running", f"made by {read_holder(lock) or 'another process'}"
    return Survey(state, store.run_id, total - len(left), total, seconds, reason)


def report_dry(planned: RunPlan) -> RunSummary:
    """Print, as the last line of a single command, what it would do."""
    from lcp_bench.runner import RunSummary

    found = survey(planned)
    path = planned.store.path / "record.json"
    line = {"record": str(path), "dry": True, "status": found.state, "clips_done": found.done, "clips": found.clips}
    unknown = {"expected_seconds_reason": found.reason} if found.expected_s is None else {}
    emit_json({**line, "expected_seconds": _rounded(found.expected_s), **unknown})
    return RunSummary(path, found.state, 0)


def dry_sweep(jobs: Sequence[Job]) -> int:
    """Print what a sweep would do: a line per run, and one JSON line with everything; nothing is made.

    Returns:
        1 if a run could not even begin, else 0.
    """
    found: list[Survey] = []
    costs: dict[str, PastCosts] = {}
    first: dict[str, int] = {}
    for job in jobs:
        runs = job.config.paths.runs
        if runs not in costs:
            costs[runs] = PastCosts.below(runs)
        state = _surveyed(job.config, costs[runs])
        line = first.setdefault(state.run_id, len(found)) if state.run_id else len(found)
        found.append(state if line == len(found) else replace(state, state="same", reason=f"as line {line + 1}"))
    print_table(
        ("run", "model", "accel", "dataset", "state", "clips", "expected"),
        [_row(job.config, state) for job, state in zip(jobs, found, strict=True)],
    )
    counts = {name: sum(1 for state in found if state.state == name) for name in sorted({s.state for s in found})}
    todo = [state for state in found if state.state in ("partial", "missing")]
    known = [state.expected_s for state in todo if state.expected_s is not None]
    emit_json(
        {
            "dry": True,
            "runs": len(found) - counts.get("same", 0),
            "counts": counts,
            "expected_seconds_known": _rounded(sum(known)),
            "runs_of_unknown_cost": len(todo) - len(known),
            "jobs": [
                {"overrides": list(job.overrides), **asdict(state)} for job, state in zip(jobs, found, strict=True)
            ],
        }
    )
    return 1 if counts.get("blocked") else 0


def _surveyed(config: RunConfig, costs: PastCosts) -> Survey:
    import torch

    from lcp_bench.runner import plan_run

    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)  # a part of the run's identity
    try:
        return survey(plan_run(config), costs)
    except LcpBenchError as error:
        return Survey("blocked", None, reason=str(error))


def _row(config: RunConfig, state: Survey) -> tuple[Cell, ...]:
    expected = "" if state.state == "complete" else duration(state.expected_s)
    names = (state.run_id or "", config.model.name, config.accel_name, config.dataset.name)
    note = state.reason.splitlines()[0] if state.state in ("blocked", "running", "same") else ""
    counted = f"{state.done} of {state.clips}" if state.clips else ""
    return (*names, state.state, counted, note or expected)


def _key(identity: Mapping[str, Any]) -> str:
    model = {key: identity["model"].get(key) for key in ("name", "size", "dtype", "image_size", "frames_per_segment")}
    sampler = {key: identity["sampler"].get(key) for key in ("steps", "guidance_scale")}
    device = {"device": identity["device"], "processes": identity.get("processes", 1)}
    return canonical_json({"model": model, "accel": identity["accel"], "sampler": sampler, **device})


def _clips_of(identity: Mapping[str, Any]) -> str:
    return canonical_json({key: value for key, value in identity["dataset"].items() if key != "limit"})


def _pair_seconds(past: Iterable[Mapping[str, Any]], per_clip: float) -> float:
    """Seconds of one pair: from paired runs, else twice a clip."""
    pairs = [record["pair"] for record in past if record.get("pair")]
    if not pairs:
        return 2 * per_clip
    return _mean(sum(map(sum, pair["samples"].values())) / pair["n"] for pair in pairs)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
