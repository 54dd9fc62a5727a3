"""A run that fails is a record too: what it finished, and why it ended.

Where the run's identity is known, its `record.json` says so (`status`, `status_reason`, `notes.failure`); the same
command goes on from its rows and replaces it. A run whose identity cannot be known, because its weights or its data are
missing, has no folder; it leaves `<runs>/.failed/<name>.json` instead, until the same command gets further.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcp_bench.atomic import replacing
from lcp_bench.config import RunConfig
from lcp_bench.errors import ConfigError, EngagementError, LcpBenchError, RunHeldError, StoreError
from lcp_bench.measure.clock import monotonic_s, utc_now
from lcp_bench.provenance import command_line, redact, tidy_paths
from lcp_bench.record import canonical_json

if TYPE_CHECKING:
    from lcp_bench.plan_report import CostReport
    from lcp_bench.runner import RunPlan

log = logging.getLogger(__name__)

FOLDER = ".failed"


def request_of(planned: RunPlan) -> dict[str, Any]:
    """What a run is, for people who find its folder before its record is there."""
    config = planned.config
    return {
        "run_id": planned.store.run_id,
        "model": config.model.name,
        "size": config.model.size,
        "accel": config.accel_name,
        "dataset": f"{planned.manifest.dataset}:{planned.manifest.sha256[:8]}",
        "clips": len(planned.clips),
        "command_line": command_line(),
        "started_utc": utc_now(),
    }


def explained(error: BaseException) -> str:
    """What is said of an error, without private names or secrets."""
    said = str(error) if isinstance(error, LcpBenchError) else f"{type(error).__name__}: {error}"
    return tidy_paths(redact(said.strip() or type(error).__name__))


@contextmanager
def failure_recorded(planned: RunPlan, costs: CostReport) -> Iterator[None]:
    """Around the work on a locked run: an error becomes the run's record, and goes on its way."""
    started = monotonic_s()
    try:
        yield
    except RunHeldError:
        raise
    except Exception as error:
        _record(planned, costs, error, monotonic_s() - started)
        raise


def _record(planned: RunPlan, costs: CostReport, error: Exception, seconds: float) -> None:
    """Write the record of a failed run; on a disk that takes nothing, only say so."""
    from lcp_bench.summary import build_record

    store = planned.store
    try:
        if store.is_complete():
            return  # a later stage failed, such as scoring; the record says what is there
        reason = explained(error)
        # After an engagement error no number of the run may be used, so none stands in its record.
        rows = [] if isinstance(error, EngagementError) else store.rows()
        record = build_record(planned, costs, rows, None, f"the run ended before it: {reason}", seconds)
        if record["status"] == "complete":
            record["status"] = "partial"
        record["status_reason"] = f"the run ended with an error: {reason}"
        record["notes"]["failure"] = {"kind": type(error).__name__, "message": reason, "at_utc": utc_now()}
        store.write_record(record)
    except StoreError as refused:
        log.warning("run %s failed, and its failure cannot be recorded: %s", store.run_id, refused)


def request_key(config: RunConfig) -> str:
    """12 hex digits, equal for commands that ask for the same run as far as that can be told from words alone."""
    run = {"limit": config.run.limit, "device": config.run.device, "threads": config.run.threads}
    content = {**asdict(config), "run": run}
    for name in ("paths", "tracker", "metric"):
        del content[name]
    content["model"] = {key: value for key, value in content["model"].items() if key != "presets"}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]


@contextmanager
def request_recorded(config: RunConfig, overrides: Sequence[str]) -> Iterator[None]:
    """Around the planning of a run: an error leaves a note below `paths.runs`, success removes it.

    A wrong command (`ConfigError`) leaves nothing.
    """
    path = Path(config.paths.runs) / FOLDER / f"{request_key(config)}.json"
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        note = {
            "model": config.model.name,
            "accel": config.accel_name,
            "dataset": config.dataset.name,
            "overrides": [tidy_paths(redact(word)) for word in overrides],
            "command_line": command_line(),
            "kind": type(error).__name__,
            "message": explained(error),
            "at_utc": utc_now(),
        }
        _leave(path, note)
        raise
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _leave(path: Path, note: Mapping[str, Any]) -> None:
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        log.warning("the failure cannot be noted in %s: %s", path, error)


def read_requests(root: Path | str) -> list[dict[str, Any]]:
    """Notes of runs that ended before they had a name, sorted; one that cannot be read is left out with a warning."""
    notes = []
    for path in sorted((Path(root) / FOLDER).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            notes.append({**content, "key": path.stem, "path": str(path)})
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read: %s", path, error)
    return notes
