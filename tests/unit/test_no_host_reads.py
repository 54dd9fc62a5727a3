"""Nothing in the denoising loop may look at a value: a look is a wait for the device."""

from __future__ import annotations

import pytest
import torch

from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.models.hallo import SIZES, Hallo, build_modules
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM


@pytest.mark.parametrize("parallel", [True, False])
def test_a_whole_segment_runs_on_tensors_without_values(parallel: bool) -> None:
    """Meta tensors have shapes but no values, so any `.item()`, `.cpu()` or data-dependent branch raises here."""
    size, frames, steps = SIZES["tiny"], 16, 6
    model = Hallo(build_modules("tiny", "meta"), frames=frames)
    strategy = LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=2), parallel=parallel))
    plan = strategy.check(model.unet.topology, num_steps=steps, eta=0.0)
    empty, scheduler = torch.empty, DDIM(steps)
    with torch.device("meta"):
        sampler = Sampler(model.unet, strategy, plan, scheduler, 3.5)
        tokens = empty(2, 4, size.token_dim)
        bank = model.reference_bank(empty(3, 4, 8, 8), tokens)
        masks = [empty(3, 1, count, 1) for count in (64, 16, 4, 1)]
        audio, face = empty(frames, size.audio_tokens, size.token_dim), empty(1, size.channels[0], 8, 8)
        conditions = model.conditions(bank, tokens, audio, masks, face)
        result = sampler.denoise(empty(1, 4, frames, 8, 8), conditions)
    assert result.latents.device.type == "meta"
    assert result.latents.shape == (1, 4, frames, 8, 8)
    assert result.cache_bytes == 2 * frames * size.channels[0] * 8 * 8 * 4
