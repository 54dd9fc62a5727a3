"""Trackers mirror finished records; they never hold a number that the record lacks, and losing one loses nothing."""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from lcp_bench.errors import ConfigError
from lcp_bench.measure.clock import monotonic_s
from lcp_bench.quality_block import short
from lcp_bench.store import read_rows

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 20.0
FINISH_TIMEOUT_S = 60.0
ONLINE_TIMEOUT_S = 120.0
"""For everything that one run needs online, the start of the process that does it included."""
WENT_OFFLINE = 3
"""Exit code of that process: mirrored, but offline, because the server could not be reached."""
MAX_VIDEOS = 4
PROJECT = "lcp_bench"


class TrackerSettings(Protocol):
    """The fields of the configuration's `tracker` that are read here."""

    @property
    def name(self) -> str:
        """`none` or `wandb`."""

    @property
    def mode(self) -> str:
        """`offline`, `online` or `disabled`."""

    @property
    def project(self) -> str | None:
        """Project name, or None for `PROJECT`."""


class Tracker(Protocol):
    """Something that is shown records after they are written."""

    def mirror(self, record: Mapping[str, Any], folder: Path, videos: Sequence[Path] = ()) -> bool:
        """Show one finished record; never raises for the tracker's own troubles.

        Args:
            record: a validated record, already on disk.
            folder: the run's folder; the tracker may keep its files in a subfolder.
            videos: mp4 files; the first few are attached as samples.

        Returns:
            Whether the tracker took the record.
        """


class NullTracker:
    """Mirrors nothing (`tracker=none`)."""

    def mirror(self, record: Mapping[str, Any], folder: Path, videos: Sequence[Path] = ()) -> bool:
        """Do nothing; see `Tracker.mirror`."""
        return False


class WandbTracker:
    """Mirrors records to Weights & Biases: run id = our run id, so that a second mirror resumes the first.

    Offline files go to `<folder>/wandb` and are uploaded later with `wandb sync`. Online without a key, or without
    the network, goes offline with a warning. Nothing waits longer than `INIT_TIMEOUT_S` + `FINISH_TIMEOUT_S`.
    """

    def __init__(self, mode: str, project: str | None = None) -> None:
        """Args: mode: `offline`, `online` or `disabled`; project: None means `PROJECT`."""
        if mode not in ("offline", "online", "disabled"):
            raise ConfigError(f"tracker.mode must be offline, online or disabled, got {mode!r}; offline is the default")
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError("tracker=wandb needs the package wandb; pip install wandb, or use tracker=none")
        if mode == "online" and not has_key():
            log.warning("tracker.mode=online, but no W&B key is set; going offline (upload later with 'wandb sync')")
            mode = "offline"
        self.mode = mode
        self.project = project or PROJECT

    def mirror(self, record: Mapping[str, Any], folder: Path, videos: Sequence[Path] = ()) -> bool:
        """Log configuration, speed, stage times and sample videos; see `Tracker.mirror`."""
        if self.mode == "disabled":
            return False
        try:
            run = self._start(record, folder)
        except Exception as error:
            # The client raises many kinds here, its own and its service's; none of them may cost a sweep.
            log.warning("run %s was not mirrored to W&B: %s; its record is complete", record["run_id"], error)
            return False
        try:
            return self._fill(run, record, folder, videos)
        finally:
            _teardown()  # or the client's service keeps the run's id, also for processes that this one starts

    def _fill(self, run: Any, record: Mapping[str, Any], folder: Path, videos: Sequence[Path]) -> bool:
        try:
            run.summary.update(summary(record))
            run.log(_media(record, folder, videos), step=0)  # an explicit step: a repeated mirror adds nothing
        except Exception as error:
            log.warning("run %s was mirrored to W&B in part: %s; its record is complete", record["run_id"], error)
            _finish(run)
            return False
        return _finish(run)

    def _start(self, record: Mapping[str, Any], folder: Path) -> Any:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        failures: tuple[type[BaseException], ...] = (wandb.Error, TimeoutError, OSError)
        try:
            return self._init(record, folder, self.mode)
        except failures as error:
            if self.mode == "offline":
                raise
            log.warning("W&B cannot be reached (%s); going offline for the rest of this process", error)
            _teardown()
            self.mode = "offline"
            return self._init(record, folder, "offline")

    def _init(self, record: Mapping[str, Any], folder: Path, mode: str) -> Any:
        import wandb

        wanted: dict[str, Any] = {
            "init_timeout": INIT_TIMEOUT_S, "finish_timeout": FINISH_TIMEOUT_S, "login_timeout": 5, "console": "off",
            "silent": True, "disable_git": True, "disable_code": True, "x_disable_stats": True, "x_disable_meta": True,
            "x_disable_machine_info": True,
        }  # fmt: skip
        known = {key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}
        return wandb.init(
            project=self.project,
            id=record["run_id"],
            name=f"{record['model']['name']}-{record['accel']['name']}-{record['run_id']}",
            tags=[record["status"], f"weights:{record['labels']['weights']}"],
            config=dict(record["config"]),
            dir=str(folder),
            mode=mode,  # type: ignore[arg-type,unused-ignore]
            resume="allow" if mode == "online" else None,
            reinit="finish_previous",
            settings=wandb.Settings(**known),
        )


class BoundedTracker:
    """A `WandbTracker` whose online part cannot hold anybody up.

    The client's own limits do not cover a connection that stays open and says nothing, nor the end of the process,
    where it waits again. Online mirroring is therefore done by a process of its own, which is ended when its time is
    over; then, and for the rest of this process, runs are mirrored offline.
    """

    def __init__(self, inner: WandbTracker, timeout_s: float = ONLINE_TIMEOUT_S) -> None:
        """Args: inner: does the work; timeout_s: for one run, online."""
        self._inner, self._timeout_s = inner, timeout_s

    def mirror(self, record: Mapping[str, Any], folder: Path, videos: Sequence[Path] = ()) -> bool:
        """See `Tracker.mirror`."""
        if self._inner.mode == "online":
            code = self._online(record["run_id"], folder)
            if code == 0:
                return True
            self._inner.mode = "offline"
            if code == WENT_OFFLINE:
                return True
            log.warning("run %s was not mirrored online; going offline for the rest of this process", record["run_id"])
        return self._inner.mirror(record, folder, videos)

    def _online(self, run_id: str, folder: Path) -> int | None:
        """The exit code of a process of its own, None if it had to be ended."""
        options = ["--runs", str(folder.parent), "--mode", "online", "--project", self._inner.project]
        command = [sys.executable, "-m", "lcp_bench.mirror", run_id, *options, "--in-process"]
        # A session of its own: the client's service is a process too, and ends with it.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            return process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("W&B took longer than %.0f s", self._timeout_s)
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def make_tracker(settings: TrackerSettings) -> Tracker:
    """The tracker that the configuration names.

    Raises:
        ConfigError: an unknown name or mode, or `wandb` without its package.
    """
    if settings.name == "none":
        return NullTracker()
    if settings.name == "wandb":
        return BoundedTracker(WandbTracker(settings.mode, settings.project))
    raise ConfigError(f"tracker.name must be none or wandb, got {settings.name!r}; use tracker=none")


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record's headline numbers, flat, with `/` between levels; no samples, no echo of the configuration."""
    names = ("status", "status_reason", "labels", "clips", "speed", "pair", "flops", "memory", "cache_bytes")
    rest = ("created_utc", "wall_seconds", "device", "git", "quality_reason")
    flat: dict[str, Any] = {}
    for name in (*names, *rest):
        _flatten(record.get(name), name, flat)
    _flatten(short(record["quality"]), "quality", flat)
    for stage, samples in (record["timings"] or {}).items():
        flat[f"timings/{stage}_total_s"] = sum(samples)
    return flat


def _flatten(value: Any, path: str, flat: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{path}/{key}", flat)
    elif value is not None and not isinstance(value, (list, tuple)):
        flat[path] = value


def clip_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """One line per clip: how it ended, its length, and the mean seconds of every stage.

    Returns:
        Column names and lines; cells without a value are None.
    """
    stages = list(dict.fromkeys(stage for row in rows for stage in row.get("stages_s", {})))
    fixed = ["clip", "status", "stage", "reason", "frames", "segments", "frames_sha256"]
    lines = []
    for row in rows:
        taken = {name: sum(samples) / len(samples) for name, samples in row.get("stages_s", {}).items() if samples}
        lines.append([*(row.get(name) for name in fixed), *(taken.get(stage) for stage in stages)])
    return [*fixed, *(f"{stage}_s" for stage in stages)], lines


def score_table(record: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """One line per score: value, interval, n, direction, label and protocol; no line for a run without scores."""
    columns = ["value", "low", "high", "n", "n_expected", "direction", "label", "protocol"]
    lines = [
        [block, name, *(score.get(column) for column in columns)]
        for block, scores in (short(record["quality"]) or {}).items()
        for name, score in scores.items()
    ]
    return ["metrics", "score", *columns], lines


def _media(record: Mapping[str, Any], folder: Path, videos: Sequence[Path]) -> dict[str, Any]:
    import wandb

    timings = record["timings"] or {}
    times = [[stage, index, seconds] for stage, samples in timings.items() for index, seconds in enumerate(samples)]
    tables = {
        "stage_times": (["stage", "sample", "seconds"], times),
        "clips": clip_table(read_rows(folder / "rows.jsonl").rows),
        "scores": score_table(record),
    }
    media: dict[str, Any] = {
        name: wandb.Table(columns=list(columns), data=lines) for name, (columns, lines) in tables.items() if lines
    }
    for path in [path for path in videos if path.is_file()][:MAX_VIDEOS]:
        media[f"videos/{path.stem}"] = wandb.Video(str(path), format="mp4")
    return media


def has_key() -> bool:
    """Whether the W&B client would find a key, so that it never asks for one at the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = os.environ.get("NETRC", str(Path.home() / ".netrc"))
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _finish(run: Any) -> bool:
    """Whether everything arrived. Out of time, the client only prints so; its own limit then has passed."""
    started = monotonic_s()
    try:
        run.finish()
    except Exception as error:
        log.warning("W&B did not finish cleanly: %s", error)
        return False
    return monotonic_s() - started < FINISH_TIMEOUT_S


def _teardown() -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        try:
            wandb.teardown()
        except Exception as error:
            log.debug("W&B teardown: %s", error)
