"""Trackers mirror finished records; they never hold a number that the record lacks, and losing one loses nothing."""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from lcp_bench.errors import ConfigError
from lcp_bench.quality_block import short

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 20.0
FINISH_TIMEOUT_S = 60.0
MAX_VIDEOS = 4


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
        """Project name, or None for `lcp-bench`."""


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
        """Args: mode: `offline`, `online` or `disabled`; project: None means `lcp-bench`."""
        if mode not in ("offline", "online", "disabled"):
            raise ConfigError(f"tracker.mode must be offline, online or disabled, got {mode!r}; offline is the default")
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError("tracker=wandb needs the package wandb; pip install wandb, or use tracker=none")
        if mode == "online" and not _has_key():
            log.warning("tracker.mode=online, but no W&B key is set; going offline (upload later with 'wandb sync')")
            mode = "offline"
        self.mode = mode
        self.project = project or "lcp-bench"

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
            run.summary.update(summary(record))
            run.log(_media(record, videos), step=0)  # an explicit step: a repeated mirror adds nothing
        except Exception as error:
            log.warning("run %s was mirrored to W&B in part: %s; its record is complete", record["run_id"], error)
            return False
        finally:
            _finish(run)
        return True

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


def make_tracker(settings: TrackerSettings) -> Tracker:
    """The tracker that the configuration names.

    Raises:
        ConfigError: an unknown name or mode, or `wandb` without its package.
    """
    if settings.name == "none":
        return NullTracker()
    if settings.name == "wandb":
        return WandbTracker(settings.mode, settings.project)
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


def _media(record: Mapping[str, Any], videos: Sequence[Path]) -> dict[str, Any]:
    import wandb

    timings = record["timings"] or {}
    rows = [[stage, index, seconds] for stage, samples in timings.items() for index, seconds in enumerate(samples)]
    media: dict[str, Any] = {"stage_times": wandb.Table(columns=["stage", "sample", "seconds"], data=rows)}
    for path in [path for path in videos if path.is_file()][:MAX_VIDEOS]:
        media[f"videos/{path.stem}"] = wandb.Video(str(path), format="mp4")
    return media


def _has_key() -> bool:
    """Whether the W&B client would find a key, so that it never asks for one at the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = os.environ.get("NETRC", str(Path.home() / ".netrc"))
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _finish(run: Any) -> None:
    try:
        run.finish()
    except Exception as error:
        log.warning("W&B did not finish cleanly: %s; upload the files later with 'wandb sync'", error)


def _teardown() -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        try:
            wandb.teardown()
        except Exception as error:
            log.debug("W&B teardown: %s", error)
