"""Noise schedulers as functions of the step index.

The sampler, the estimators and the plan all speak of step 0..N-1. The arithmetic is diffusers'; this module only fixes
the grid once and removes hidden state, so that steps can be taken ahead, again or out of order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

HALLO_DDIM: dict[str, object] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "steps_offset": 1,
}
"""The DDIM of Hallo and EchoMimic: linear betas, zero terminal SNR, v-prediction, trailing spacing."""


class StepScheduler(Protocol):
    """A deterministic scheduler on a fixed grid."""

    timesteps: tuple[float, ...]

    def apply(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Latents after `step`, given the latents before it and the network's prediction there."""
        ...

    def walk_with_held_noise(
        self, key_latents: Tensor, key_prediction: Tensor, key: int, steps: Sequence[int]
    ) -> list[Tensor]:
        """Latents after each of `steps`, which follow `key`, if the noise predicted at `key` never changed."""
        ...


class DDIM:
    """DDIM with eta = 0 (Song et al. 2021) on diffusers' `DDIMScheduler`.

    Note that one step goes from t to t - floor(1000 / N), which for N that do not divide 1000 is not the next timestep
    of the grid; that is upstream's behaviour and kept.
    """

    def __init__(self, num_steps: int, **options: object) -> None:
        self._scheduler = DDIMScheduler(**{**HALLO_DDIM, **options})  # type: ignore[arg-type]
        self._scheduler.set_timesteps(num_steps)
        self._stride = self._scheduler.config.num_train_timesteps // num_steps
        self.timesteps: tuple[float, ...] = tuple(self._scheduler.timesteps.tolist())
        self.alphas_cumprod: Tensor = self._scheduler.alphas_cumprod
        self._alphas: list[float] = self.alphas_cumprod.tolist()
        self._last_alpha = float(self._scheduler.final_alpha_cumprod)

    def apply(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        """One DDIM step; no host synchronisation, the coefficients live on the host."""
        previous: Tensor = self._scheduler.step(prediction, int(self.timesteps[step]), latents, eta=0.0).prev_sample
        return previous

    def _alpha(self, timestep: float) -> float:
        return self._last_alpha if timestep < 0 else self._alphas[int(timestep)]

    def _clean_and_noise(self, latents: Tensor, prediction: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        a, s = math.sqrt(alpha), math.sqrt(1 - alpha)
        kind = self._scheduler.config.prediction_type
        if kind == "v_prediction":
            return a * latents - s * prediction, a * prediction + s * latents
        if kind == "epsilon":
            return (latents - s * prediction) / a, prediction
        if kind == "sample":
            return prediction, (latents - a * prediction) / s
        raise NotImplementedError(f"prediction_type {kind!r}")

    def walk_with_held_noise(
        self, key_latents: Tensor, key_prediction: Tensor, key: int, steps: Sequence[int]
    ) -> list[Tensor]:
        """Closed form on (clean, noise), safe at zero terminal SNR.

        The clean image is re-derived only where the grid is not where the previous step landed (N not dividing 1000);
        re-deriving it everywhere would divide by sqrt(alpha), which is 0.007 after the first of 40 steps.
        """
        clean, noise = self._clean_and_noise(key_latents, key_prediction, self._alpha(self.timesteps[key]))
        landed = self.timesteps[key] - self._stride
        latents = _mix(clean, noise, self._alpha(landed))
        ahead: list[Tensor] = []
        for step in steps:
            timestep = self.timesteps[step]
            if timestep != landed:
                alpha = self._alpha(timestep)
                clean = (latents - math.sqrt(1 - alpha) * noise) / math.sqrt(alpha)
            landed = timestep - self._stride
            latents = _mix(clean, noise, self._alpha(landed))
            ahead.append(latents)
        return ahead


class FlowMatching:
    """Euler steps along a rectified flow (Esser et al. 2024) on diffusers' `FlowMatchEulerDiscreteScheduler`.

    Noise level s mixes latents as (1 - s) clean + s noise, and the network predicts the velocity, noise - clean.
    """

    def __init__(self, num_steps: int, **options: object) -> None:
        scheduler = FlowMatchEulerDiscreteScheduler(**options)  # type: ignore[arg-type]
        scheduler.set_timesteps(num_steps)
        self.timesteps: tuple[float, ...] = tuple(scheduler.timesteps.tolist())
        self.sigmas: Tensor = scheduler.sigmas
        self._strides: list[float] = self.sigmas.diff().tolist()

    def apply(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        """One Euler step, accumulated in float32 and returned in the prediction's type."""
        return (latents.float() + self._strides[step] * prediction).to(prediction.dtype)

    def walk_with_held_noise(
        self, key_latents: Tensor, key_prediction: Tensor, key: int, steps: Sequence[int]
    ) -> list[Tensor]:
        """Steps with the key's velocity: if clean latents and noise do not change, neither does their difference."""
        latents = self.apply(key_latents, key_prediction, key)
        ahead: list[Tensor] = []
        for step in steps:
            latents = self.apply(latents, key_prediction, step)
            ahead.append(latents)
        return ahead


def _mix(clean: Tensor, noise: Tensor, alpha: float) -> Tensor:
    return math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise


def draw_noise(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Standard normal noise from a host generator, rounded to `dtype` as upstream draws it, returned in float32."""
    return torch.randn(tuple(shape), generator=generator, dtype=dtype).to(torch.float32)
