"""Estimated inputs of parallel followers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lcp_bench.accel.estimate import HoldLatents, HoldNoise, HoldOutput, InputEstimator
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import Group, ScheduleConfig
from lcp_bench.errors import ConfigError
from lcp_bench.schedulers import DDIM, FlowMatching, StepScheduler

RUNS = [("hold_model_output0", HoldOutput()), ("hold_model_output1", HoldOutput()), ("hold_noise1", HoldNoise())]
RUNS += [("hold_model_output2", HoldOutput()), ("hold_noise2", HoldNoise()), ("hold_model_output0", HoldNoise())]
RUNS += [("hold_model_output3", HoldOutput()), ("hold_model_output3", HoldNoise())]
PLAIN_DDIM = {"rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
"""diffusers' own defaults of what the cases leave out and this project sets."""


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Path:
    """The golden case, from `LCP_BENCH_GOLDENS` or the shared folder."""
    extra = os.environ.get("LCP_BENCH_GOLDENS")
    place = Path("accel/lcp_input_estimation")
    if extra and (Path(extra) / place).is_dir():
        return Path(extra) / place
    folder = request.getfixturevalue("shared_dir") / "goldens" / place
    assert isinstance(folder, Path)
    return folder


def scheduler_of(run: dict[str, Any]) -> StepScheduler:
    """The scheduler of a run."""
    if run["cls"] == "FlowMatchEulerDiscreteScheduler":
        return FlowMatching(run["num_steps"], **run["config"])
    return DDIM(run["num_steps"], **{**PLAIN_DDIM, **run["config"]})


@pytest.mark.parametrize(("output", "estimator"), RUNS, ids=lambda value: getattr(value, "__class__", type).__name__)
def test_golden(case: Path, output: str, estimator: InputEstimator) -> None:
    """diffusers' own schedulers stepped ahead; with predicted noise or velocity both ways of holding are the same."""
    meta: dict[str, Any] = json.loads((case / "meta.json").read_text())
    number = int(output[-1])
    run = meta["runs"][number]
    inputs, wanted = load_file(case / "inputs.safetensors"), load_file(case / "outputs.safetensors")[output]
    scheduler = scheduler_of(run)
    assert list(scheduler.timesteps) == run["timesteps"]
    latents, prediction = inputs[f"z_key{number}"], inputs[f"model_output_key{number}"]
    following = scheduler.apply(latents, prediction, run["key"])
    rows = range(run["key"] + 1, run["key"] + 1 + len(wanted))
    estimates = estimator.inputs(scheduler, latents, prediction, following, Group(run["key"], tuple(rows), True))
    torch.testing.assert_close(torch.stack(estimates), wanted, rtol=meta["rtol"], atol=meta["atol"])


def draw(seed: int) -> Tensor:
    """Standard normal latents."""
    return torch.randn((1, 4, 2, 3, 3), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("estimator", [HoldLatents(), HoldNoise(), HoldOutput()])
@pytest.mark.parametrize("followers", [0, 1, 2, 5])
def test_one_estimate_per_follower_and_the_first_is_exact(estimator: InputEstimator, followers: int) -> None:
    scheduler, following = DDIM(20), draw(3)
    group = Group(4, tuple(range(5, 5 + followers)), True)
    estimates = estimator.inputs(scheduler, draw(1), draw(2), following, group)
    assert len(estimates) == followers
    if followers:
        assert torch.equal(estimates[0], following)


def test_hold_latents() -> None:
    estimates = HoldLatents().inputs(DDIM(20), draw(1), draw(2), draw(3), Group(0, (1, 2, 3), True))
    assert all(torch.equal(estimate, draw(3)) for estimate in estimates)


def test_holding_noise_and_output_differ_under_v_prediction() -> None:
    group = Group(4, (5, 6, 7), True)
    scheduler = DDIM(20)
    following = scheduler.apply(draw(1), draw(2), 4)
    noise, output = (h.inputs(scheduler, draw(1), draw(2), following, group) for h in (HoldNoise(), HoldOutput()))
    assert (noise[2] - output[2]).abs().max() > 1e-2


def estimator_of(key: int, num_steps: int = 40, **options: Any) -> InputEstimator:
    """The estimator that LightningCP picks for the group of a key step."""
    strategy = LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=11), **options))
    return strategy.estimator(Group(key, (key + 1,), True), strategy.plan(num_steps))


def test_threshold_is_a_quarter_by_default() -> None:
    assert isinstance(estimator_of(9), HoldLatents)
    assert isinstance(estimator_of(10), HoldNoise)
    assert isinstance(estimator_of(4, 20), HoldLatents)
    assert isinstance(estimator_of(5, 20), HoldNoise)


def test_threshold_and_hold_are_options() -> None:
    assert isinstance(estimator_of(0, estimate_from_step=0), HoldNoise)
    assert isinstance(estimator_of(24, estimate_from_step=25), HoldLatents)
    assert isinstance(estimator_of(30, hold="output"), HoldOutput)
    assert isinstance(estimator_of(30, estimate=False), HoldLatents)


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match=r"accel\.hold must be one of noise, output, got 'velocity'"):
        estimator_of(0, hold="velocity")
    with pytest.raises(ConfigError, match=r"accel\.estimate_from_step must be 0 or more, got -1"):
        estimator_of(0, estimate_from_step=-1)
