"""What the command-line tests put in the place of the parts that compute, and what a command answered."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field

from lcp_bench import cli
from lcp_bench.config import RunConfig


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclass
class Recorder:
    """Stands in for `lcp_bench.runner` and `lcp_bench.plan_report`; `fail` may raise for chosen configurations."""

    runs: list[tuple[RunConfig, list[str]]] = field(default_factory=list)
    plans: list[RunConfig] = field(default_factory=list)
    fail: Callable[[RunConfig], None] = lambda config: None

    def run(self, config: RunConfig, overrides: list[str]) -> types.SimpleNamespace:
        """The signature of `lcp_bench.runner.run`."""
        self.runs.append((config, overrides))
        self.fail(config)
        cli.emit_json({"accel": config.accel_name})
        return types.SimpleNamespace(exit_code=0, message="")

    def report(self, config: RunConfig) -> None:
        """The signature of `lcp_bench.plan_report.report`."""
        self.plans.append(config)
        self.fail(config)
        cli.emit_json({"plan": config.accel_name})
