"""The order of rows, and what is repeated for a group."""

from __future__ import annotations

import pytest
import torch

from family import random_conditions
from lcp_bench.errors import ConfigError
from lcp_bench.models.conditions import Layout, layout_mask, reference_rows, split_bank
from lcp_bench.models.unet import UNet


def names(*shape: int) -> torch.Tensor:
    """Consecutive numbers."""
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


@pytest.mark.parametrize("branches", [1, 2])
def test_spread_is_branch_then_member_then_frame(branches: int) -> None:
    layout = Layout(branches, 3, 4)
    rows = layout.spread_frames(names(branches * 4, 1))[:, 0].tolist()
    assert rows == [branch * 4 + frame for branch in range(branches) for _ in range(3) for frame in range(4)]
    assert layout.spread(names(branches)).tolist() == [branch for branch in range(branches) for _ in range(3)]
    assert (layout.samples, layout.rows) == (branches * 3, branches * 12)


def test_one_member_copies_nothing() -> None:
    layout, features = Layout(2, 1, 4), torch.randn(8, 5)
    assert layout.spread(features) is features
    assert layout.spread_frames(features) is features


def test_the_unconditional_half_of_all_members_is_plain() -> None:
    assert Layout(2, 3, 4).plain_rows == 12
    assert Layout(1, 3, 4).plain_rows == 0


def test_reference_rows_as_published() -> None:
    """Batch row i reads branch i mod branches, counted from the first conditional row."""
    portrait = names(2, 1, 1)
    assert reference_rows(portrait, 2, 4, "tiled").flatten().tolist() == [0, 1]
    assert reference_rows(portrait, 2, 3, "tiled").flatten().tolist() == [1, 0, 1]
    assert reference_rows(portrait, 2, 4, "branch").flatten().tolist() == [1]
    assert reference_rows(portrait[:1], 1, 3, "tiled").flatten().tolist() == [0]
    with pytest.raises(ConfigError, match="'tiled', 'branch' or 'own', got 'mixed'"):
        reference_rows(portrait, 2, 4, "mixed")


def test_bank_is_portrait_then_motion_frames_per_branch() -> None:
    portrait, motion = split_bank({"mid": names(6, 1, 1)}, 2)["mid"]
    assert portrait.flatten().tolist() == [0, 3]
    assert motion.flatten().tolist() == [1, 2, 4, 5]
    with pytest.raises(ConfigError, match="features of mid have 5 rows, not a multiple of 2"):
        split_bank({"mid": names(5, 1, 1)}, 2)


def test_masks_of_all_frames_and_of_each() -> None:
    layout = Layout(2, 3, 4)
    assert layout_mask(torch.ones(3, 1, 5, 1), layout).shape == (3, 1, 5, 1)
    each = names(3, 8, 1, 1)
    spread = layout_mask(each, layout)
    assert spread.shape == (3, 24, 1, 1)
    for branch in range(3):
        assert torch.equal(spread[branch], layout.spread_frames(each[branch]))


def test_repeated_conditions_are_made_once_per_group_size(small_unet: UNet) -> None:
    conditions = random_conditions(small_unet)
    assert conditions.for_members(1) is conditions
    twice = conditions.for_members(2)
    assert conditions.for_members(2) is twice
    assert conditions.for_members(3) is not twice
    site = twice.sites["up.1.2"]
    assert twice.sites["up.1.2"] is site
    assert set(twice.sites) == {"up.1.2"}, "only layers that run are repeated"
    single, layout = conditions.sites["up.1.2"], Layout(2, 2, 4)
    assert site.image is not None and single.image is not None
    assert torch.equal(site.image.keys, layout.spread_frames(single.image.keys))
    assert torch.equal(site.audio[2].values, layout.spread_frames(single.audio[2].values))
    assert site.motion is not None and single.motion is not None
    assert torch.equal(site.motion, layout.spread(single.motion))
    assert site.reference is single.reference
