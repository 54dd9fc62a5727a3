"""What the codec's repair is taught: the true frame in the pose that the warp has."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from lcp_bench.models.motion_codec import warp
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
