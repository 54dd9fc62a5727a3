"""More or fewer key steps than published, for any model: `model.presets.budget`."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from lcp_bench.errors import ConfigError
from lcp_bench.typed import require


def with_budget(config: DictConfig) -> DictConfig:
    """The composed configuration with its presets for `model.presets.budget` times the published key steps.

    Everything that refers to the presets follows: the key steps of all strategies, and the steps of `fewer_steps`.

    Raises:
        ConfigError: The budget is no positive number.
    """
    budget = OmegaConf.select(config, "model.presets.budget")
    if budget is None or budget == 1:
        return config
    good = isinstance(budget, (int, float)) and not isinstance(budget, bool) and 0 < budget <= 1000
    require(good, "model.presets.budget", "a number above 0 and at most 1000", budget)
    names = ("sampler.steps", "model.presets.key_steps", "model.presets.equal_cost_steps")
    values: list[Any] = [OmegaConf.select(config, name) for name in names]
    if not all(isinstance(value, int) for value in values):
        raise ConfigError(f"model.presets.budget needs whole numbers in {', '.join(names)}, got {values}")
    steps, key_steps, equal_cost_steps = values
    key_steps, equal_cost_steps = scaled(steps, key_steps, equal_cost_steps, float(budget))
    presets = {"key_steps": key_steps, "equal_cost_steps": equal_cost_steps}
    merged = OmegaConf.merge(config, {"model": {"presets": presets}})
    assert isinstance(merged, DictConfig)
    return merged


def scaled(steps: int, key_steps: int, equal_cost_steps: int, budget: float) -> tuple[int, int]:
    """Key steps at a budget, and the plain steps that cost as much.

    A follower costs what the preset's own pair of numbers implies.

    Args:
        steps: All denoising steps.
        key_steps: Key steps of the published operating point.
        equal_cost_steps: Plain steps that cost as much as that point.
        budget: Factor on the key steps.

    Returns:
        Both numbers, at least 1 and below `steps` (a budget of every step would be no acceleration).

    >>> scaled(40, 11, 14, 1.0), scaled(40, 11, 14, 0.5), scaled(40, 11, 14, 2.5), scaled(6, 4, 5, 2.5)
    ((11, 14), (6, 10), (28, 29), (5, 5))
    """
    most = max(1, steps - 1)
    scaled_keys = min(most, max(1, round(key_steps * budget)))
    follower = (equal_cost_steps - key_steps) / (steps - key_steps) if steps > key_steps else 0.0
    plain = round(scaled_keys + follower * (steps - scaled_keys))
    return scaled_keys, min(most, max(1, plain))
