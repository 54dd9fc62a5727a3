"""Runs of the tiny Hallo in this process, with the parts that never change done once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lcp_bench import clip_video, runner
from lcp_bench.config import RunConfig
from lcp_bench.models.hallo import Hallo
from lcp_bench.plan_report import CostReport
from lcp_bench.preflight import load_run_config
from lcp_bench.runner import RunSummary
from lcp_bench.store import RunStore
from lcp_bench.video import VideoWriter

WORDS = (
    "+model=hallo", "model.size=tiny", "model.weights=seeded", "model.frames_per_segment=2", "sampler.steps=3",
    "model.presets.key_steps=1", "model.presets.equal_cost_steps=2", "dataset.max_seconds=0.15", "run.device=cpu",
    "measure.warmup_clips=0", "measure.bootstrap=100",
)  # fmt: skip
FRAMES = 4
"""0.15 s at 25 frames per second, rounded up; two segments."""


def refuse_to_write(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Writing the video of one clip fails after its first frames."""

    class Refusing(VideoWriter):
        def write(self, pictures: Any) -> None:
            if self.count and self.target.stem == name:
                raise error
            super().write(pictures)

    monkeypatch.setattr(clip_video, "VideoWriter", Refusing)


@cache
def composed(*words: str) -> RunConfig:
    """The configuration of a command, by the way of a user's words."""
    accel = () if any(word.startswith("+accel") for word in words) else ("+accel=lcp",)
    return load_run_config([*WORDS, *accel, *words])


class Shared:
    """Models and cost reports by configuration, and finished runs by their words.

    Args:
        folder: For the finished runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, dict[tuple[str, ...], Done]()
        self.load, self.cost = runner.load_model, runner.cost_report
        self.models: dict[str, Hallo] = {}
        self.costs: dict[str, CostReport] = {}

    def load_model(self, config: RunConfig, device: Any) -> Hallo:
        """As `assemble.load_model`."""
        key = repr(config.model)
        if key not in self.models:
            self.models[key] = self.load(config, device)
        return self.models[key]

    def cost_report(self, config: RunConfig) -> CostReport:
        """As `plan_report.cost_report`."""
        key = repr((config.model, config.accel, config.sampler.steps, config.sampler.guidance_scale))
        if key not in self.costs:
            self.costs[key] = self.cost(config)
        return self.costs[key]


@dataclass
class Done:
    """A run that ended."""

    summary: RunSummary
    printed: dict[str, Any]
    config: RunConfig

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.summary.record.parent

    @property
    def record(self) -> dict[str, Any]:
        """The record as another program reads it."""
        content: dict[str, Any] = json.loads(self.summary.record.read_text())
        return content

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every line of the rows, in order."""
        return [json.loads(line) for line in (self.folder / "rows.jsonl").read_text().splitlines()]

    @property
    def hashes(self) -> dict[str, str]:
        """Frames of every clip."""
        return {row["clip"]: row["frames_sha256"] for row in self.rows}


@dataclass
class Bench:
    """A user at a desk: an output folder, a data set, and commands."""

    runs: Path
    demo: Path
    capsys: pytest.CaptureFixture[str]
    shared: Shared

    def config(self, *words: str) -> RunConfig:
        """The configuration of a command; `runs` and the data set are this bench's unless the words say otherwise."""
        config = composed(*words)
        given = {word.partition("=")[0] for word in words}
        if "paths.runs" not in given:
            config = replace(config, paths=replace(config.paths, runs=str(self.runs)))
        if "dataset.root" not in given:
            config = replace(config, dataset=replace(config.dataset, root=str(self.demo)))
        return config

    def run(self, *words: str) -> Done:
        """Run a command to its end."""
        config = self.config(*words)
        self.capsys.readouterr()
        summary = runner.run(config, list(words))
        last = self.capsys.readouterr().out.splitlines()[-1]
        return Done(summary, json.loads(last), config)

    def usual(self, *words: str, runs: Path | None = None) -> Done:
        """As `run`, of a command that several tests begin with: it is made once and copied.

        Args:
            words: The command; the run's own folder must not depend on them.
            runs: Where to put the copy; None: this bench's folder.
        """
        if words not in self.shared.done:
            self.shared.done[words] = self.run(*words, f"paths.runs={self.shared.folder}")
        done, target = self.shared.done[words], runs or self.runs
        shutil.copytree(done.folder, target / done.folder.name)
        summary = replace(done.summary, record=target / done.folder.name / done.summary.record.name)
        return replace(done, summary=summary, printed={**done.printed, "record": str(summary.record)})

    def store(self, *words: str) -> RunStore:
        """The store of a command."""
        return runner.plan_run(self.config(*words)).store
