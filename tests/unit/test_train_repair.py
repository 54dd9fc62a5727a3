"""What the codec's repair is taught: the true frame in the pose that the warp has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lcp_bench.models.motion_codec import warp
from lcp_bench.train.mini_denoiser import DenoiserLoss
from lcp_bench.train.mini_repair import path_between


def flow(seed: int, reach: float = 0.15) -> torch.Tensor:
    """A smooth flow (2, 2, 64, 64) that is nothing at the border, as that of a head before a still background."""
    coarse = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(seed)) - 0.5
    field = F.interpolate(coarse, size=64, mode="bicubic", align_corners=True) * 2 * reach
    window = torch.hann_window(64, periodic=False)
    return field * window * window[:, None]


def test_the_path_brings_a_frame_into_the_other_pose() -> None:
    portrait = F.interpolate(
        torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(3)), size=64, mode="bicubic"
    )
    true, predicted = flow(1), flow(2)
    frame, goal = warp(portrait, true), warp(portrait, predicted)
    found = warp(frame, path_between(predicted, true), "bicubic")
    inside = (..., slice(4, -4), slice(4, -4))
    assert (frame - goal)[inside].abs().max() > 0.2, "the poses differ"
    assert (found - goal)[inside].abs().max() < 0.03


def test_the_same_pose_needs_no_path() -> None:
    assert path_between(flow(1), flow(1)).abs().max() < 1e-3


def test_a_perfect_prediction_restores_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    denoiser = DenoiserLoss({}, nothing, {}, nothing, 3, nothing)
    draw = torch.Generator().manual_seed(0)
    target, noise = (torch.randn(3, 4, 2, 8, 8, generator=draw) for _ in range(2))
    timesteps = torch.tensor([0, 500, 999])
    share = (1 - denoiser.alphas[timesteps]).sqrt()[:, None, None, None, None]
    signal = (1 - share.square()).sqrt()
    monkeypatch.setattr(denoiser, "predict", lambda noised, batch: signal * noise - share * target)
    batch: Any = SimpleNamespace(target=target, noise=noise, timesteps=timesteps)
    assert torch.allclose(denoiser.restore(batch), target, atol=1e-5)
