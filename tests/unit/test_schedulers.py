"""The schedulers as functions of the step index."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lcp_bench.schedulers import DDIM, HALLO_DDIM, draw_noise

SHAPE = (1, 4, 2, 3, 3)
STEPS = (40, 30, 20, 7)


def noise(seed: int) -> Tensor:
    """Standard normal latents."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_grid_of_hallo() -> None:
    """Trailing spacing: starts at the last training step, which has no signal at all."""
    scheduler = DDIM(40)
    assert scheduler.timesteps == tuple(float(step) for step in range(999, 0, -25))
    assert float(scheduler.alphas_cumprod[999]) == 0


@pytest.mark.parametrize("steps", STEPS)
def test_a_loop_over_steps_is_diffusers_loop(steps: int) -> None:
    own, theirs = DDIM(steps), DDIMScheduler(**HALLO_DDIM)
    theirs.set_timesteps(steps)
    got = want = noise(0)
    for step, timestep in enumerate(theirs.timesteps):
        prediction = torch.cos(want * (step + 1))
        got = own.apply(got, torch.cos(got * (step + 1)), step)
        want = theirs.step(prediction, timestep, want).prev_sample
        assert torch.equal(got, want)
    assert torch.isfinite(got).all()


def test_options_reach_the_scheduler() -> None:
    assert DDIM(10, timestep_spacing="leading", rescale_betas_zero_snr=False).timesteps[0] == 901


def test_steps_have_no_memory() -> None:
    """Taken again, out of order, or on other latents in between: the same result, and the object is untouched."""
    scheduler = DDIM(20)
    before = copy.deepcopy({k: v for k, v in vars(scheduler._scheduler).items() if not isinstance(v, Tensor)})
    wanted = [DDIM(20).apply(noise(step), noise(step + 100), step) for step in range(20)]
    order = [*range(20), *range(20)]
    random.Random(1).shuffle(order)
    for step in order:
        latents, prediction = noise(step), noise(step + 100)
        kept = latents.clone(), prediction.clone()
        assert torch.equal(scheduler.apply(latents, prediction, step), wanted[step])
        scheduler.walk_with_held_noise(noise(7), noise(8), 3, [4, 5, 6])
        assert torch.equal(latents, kept[0])
        assert torch.equal(prediction, kept[1])
    after = {k: v for k, v in vars(scheduler._scheduler).items() if not isinstance(v, Tensor)}
    assert repr(after) == repr(before)


def test_the_random_state_is_not_touched() -> None:
    scheduler = DDIM(20)
    state = torch.random.get_rng_state()
    scheduler.apply(noise(0), noise(1), 5)
    scheduler.walk_with_held_noise(noise(0), noise(1), 0, [1, 2])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("key", [0, 2])
def test_held_noise_is_the_loop_with_that_noise(steps: int, key: int) -> None:
    """A network that sees the same noise at every step makes the walk exact, on grids that divide 1000 or do not."""
    scheduler = DDIM(steps)
    clean, held = noise(1).double(), noise(2).double()
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[key])].double()
    latents = alpha.sqrt() * clean + (1 - alpha).sqrt() * held
    prediction = alpha.sqrt() * held - (1 - alpha).sqrt() * clean
    followers = range(key + 1, steps)
    walked = scheduler.walk_with_held_noise(latents, prediction, key, followers)
    state = scheduler.apply(latents, prediction, key)
    for step, ahead in zip(followers, walked, strict=True):
        alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[step])].double()
        v = (held - (1 - alpha).sqrt() * state) / alpha.sqrt()
        state = scheduler.apply(state, v, step)
        torch.testing.assert_close(ahead, state, rtol=0, atol=2e-5)


def test_held_noise_is_finite_at_zero_terminal_snr() -> None:
    """At step 0 the latents are pure noise: the prediction is minus the clean image, and nothing is divided by zero."""
    scheduler = DDIM(40)
    latents, prediction = noise(1), noise(2)
    first, *_, last = scheduler.walk_with_held_noise(latents, prediction, 0, range(1, 40))
    torch.testing.assert_close(last, -prediction, rtol=0, atol=1e-5)
    assert torch.isfinite(first).all()
    assert first.abs().max() < 10


def test_held_noise_with_noise_prediction() -> None:
    scheduler = DDIM(25, prediction_type="epsilon", rescale_betas_zero_snr=False)
    held = noise(2)
    state = scheduler.apply(noise(1), held, 4)
    for step, ahead in zip(range(5, 9), scheduler.walk_with_held_noise(noise(1), held, 4, range(5, 9)), strict=True):
        state = scheduler.apply(state, held, step)
        torch.testing.assert_close(ahead, state, rtol=1e-5, atol=1e-5)


def test_held_noise_with_sample_prediction() -> None:
    """If the clean image never changes either, holding the noise is what the steps themselves do."""
    scheduler = DDIM(20, prediction_type="sample")
    clean, state = noise(2), noise(1)
    walked = scheduler.walk_with_held_noise(state, clean, 3, range(4, 9))
    state = scheduler.apply(state, clean, 3)
    for step, ahead in zip(range(4, 9), walked, strict=True):
        state = scheduler.apply(state, clean, step)
        torch.testing.assert_close(ahead, state, rtol=0, atol=1e-5)


def test_sample_and_velocity_prediction_are_one_step() -> None:
    velocity, by_sample = DDIM(20), DDIM(20, prediction_type="sample")
    state, clean = noise(1), noise(2)
    for step in (1, 10, 19):
        alpha = velocity.alphas_cumprod[int(velocity.timesteps[step])]
        v = (alpha.sqrt() * state - clean) / (1 - alpha).sqrt()
        torch.testing.assert_close(
            velocity.apply(state, v, step), by_sample.apply(state, clean, step), rtol=0, atol=1e-4
        )


def test_drawn_noise_is_rounded_as_drawn() -> None:
    full = draw_noise((2, 3), torch.Generator().manual_seed(9), torch.float32)
    half = draw_noise((2, 3), torch.Generator().manual_seed(9), torch.float16)
    assert half.dtype == torch.float32
    assert torch.equal(half, half.half().float())
    assert not torch.equal(full, full.half().float())
