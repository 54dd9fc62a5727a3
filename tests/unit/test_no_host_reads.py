"""Nothing in the denoising loop may look at a value: a look is a wait for the device."""

from __future__ import annotations

import pytest
import torch

from baselines.delta_dit import DeltaDiT
from baselines.faster_diffusion import FasterDiffusion
from baselines.taylorseer import TaylorSeer
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.strategy import Strategy
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.hallo import SIZES, Hallo, build_modules
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM

KEYS = ScheduleConfig(key_steps=2)
FIXED = [
    LightningCP(LightningCP.Config(schedule=KEYS)),
    LightningCP(LightningCP.Config(schedule=KEYS, parallel=False)),
    FasterDiffusion(FasterDiffusion.Config(schedule=KEYS)),
    DeltaDiT(DeltaDiT.Config(schedule=KEYS)),
    TaylorSeer(TaylorSeer.Config(schedule=KEYS)),
]
"""One strategy for each way to read features: all with a plan that is known before the run."""


SIZE, FRAMES, STEPS = SIZES["tiny"], 16, 4


@pytest.fixture(scope="module")
def model() -> Hallo:
    """The tiny Hallo without weights."""
    return Hallo(build_modules("tiny", "meta"), frames=FRAMES)


@pytest.fixture(scope="module")
def conditions(model: Hallo) -> Conditions:
    """Everything that is prepared in front of the loop, the reference network included, without values."""
    empty = torch.empty
    with torch.device("meta"):
        tokens = empty(2, 4, SIZE.token_dim)
        bank = model.reference_bank(empty(3, 4, 8, 8), tokens)
        masks = [empty(3, 1, count, 1) for count in (64, 16, 4, 1)]
        audio, face = empty(FRAMES, SIZE.audio_tokens, SIZE.token_dim), empty(1, SIZE.channels[0], 8, 8)
        return model.conditions(bank, tokens, audio, masks, face)


@pytest.mark.parametrize("strategy", FIXED, ids=lambda strategy: type(strategy).__name__)
def test_a_whole_segment_runs_on_tensors_without_values(
    strategy: Strategy, model: Hallo, conditions: Conditions
) -> None:
    """Meta tensors have shapes but no values, so any `.item()`, `.cpu()` or data-dependent branch raises here."""
    plan = strategy.check(model.unet.topology, num_steps=STEPS, eta=0.0)
    scheduler = DDIM(STEPS)
    with torch.device("meta"):
        sampler = Sampler(model.unet, strategy, plan, scheduler, 3.5)
        result = sampler.denoise(torch.empty(1, 4, FRAMES, 8, 8), conditions)
    assert result.latents.device.type == "meta"
    assert result.latents.shape == (1, 4, FRAMES, 8, 8)
    if isinstance(strategy, LightningCP):
        assert result.cache_bytes == 2 * FRAMES * SIZE.channels[0] * 8 * 8 * 4
