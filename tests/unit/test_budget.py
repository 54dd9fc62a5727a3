"""More or fewer key steps than published, for every model."""

from __future__ import annotations

import pytest

from lcp_bench.budget import scaled
from lcp_bench.config import build_strategy
from lcp_bench.errors import ConfigError
from lcp_bench.preflight import load_run_config


def steps(accel: str, *words: str) -> int:
    """Steps at which the full network runs."""
    config = load_run_config(["model=hallo", f"accel={accel}", *words])
    return len(build_strategy(config).plan(config.sampler.steps).key_steps)


def test_the_key_steps_of_all_strategies_and_the_control_follow() -> None:
    assert steps("lcp", "model.presets.budget=1") == 11
    assert [steps(accel, "model.presets.budget=0.5") for accel in ("lcp", "deepcache", "fewer_steps")] == [6, 6, 10]


@pytest.mark.parametrize("budget", [0.01, 0.5, 1, 3, 1000])
def test_there_is_always_a_key_step_and_never_all_of_them(budget: float) -> None:
    for preset in ((40, 11, 14), (30, 8, 10), (20, 8, 9), (6, 4, 5), (2, 1, 1)):
        keys, plain = scaled(*preset, budget)
        assert 1 <= keys <= plain < preset[0]


@pytest.mark.parametrize("budget", ["0", "many"])
def test_a_budget_is_a_positive_number(budget: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.presets\.budget"):
        load_run_config(["model=hallo", "accel=lcp", f"model.presets.budget={budget}"])
