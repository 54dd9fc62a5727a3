"""The `metric` group: what is scored, and that it names no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.metric_config import METRICS, MetricConfig
from lcp_bench.preflight import load_run_config
from lcp_bench.provenance import NO_RESULT

WORDS = ("+model=hallo", "+accel=none")


def test_nothing_is_scored_unless_asked() -> None:
    assert load_run_config(WORDS).metric.name == "none"


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_sets_hold_all_metrics(name: str) -> None:
    metric = load_run_config([*WORDS, f"+metric={name}"]).metric
    assert (metric.name, metric.metrics) == (name, METRICS)


def test_backbones_lie_below_the_weights() -> None:
    config = load_run_config([*WORDS, "+metric=paper", "paths.weights=/w"])
    assert config.metric.backbones == "/w/metrics"
    assert load_run_config([*WORDS, "+metric=mini"]).metric.backbones is None
    assert MetricConfig(name="paper", backbones="~/nets").backbones == str(Path.home() / "nets")


def test_the_order_of_metrics_does_not_matter() -> None:
    assert MetricConfig(name="mini", metrics=("sync", "fvd", "sync")).metrics == ("fvd", "sync")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mini", "metrics": ("fdv",)}, "did you mean 'fvd'"),
        ({"name": "mini", "metrics": ()}, "at least one metric"),
        ({"name": "paper"}, "metric.backbones must be a folder"),
        ({"name": "mini", "backbones": " "}, "metric.backbones must be a folder"),
        ({"name": "mini", "bootstrap": 7}, "metric.bootstrap"),
        ({"name": "mini", "min_clips": 1}, "metric.min_clips"),
    ],
)
def test_wrong_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetricConfig(**options)


@pytest.mark.parametrize("words", [("+metric=big",), ("+metric=mini", "metric.metrics=[lpips]"), ("metric.name=big",)])
def test_wrong_commands(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="metric"):
        load_run_config([*WORDS, *words])


def test_the_code_that_scores_names_no_run(repository: Path) -> None:
    """Editing it must not rename runs, whose videos it cannot change."""
    names = [path.name for path in (repository / "lcp_bench").glob("*.py")]
    scoring = [name for name in names if name.startswith(("quality", "metric_", "score", "fetch"))]
    assert len(scoring) >= 12
    assert all(f"lcp_bench/{name}".startswith(NO_RESULT) for name in scoring)
