"""The foreground of a picture at every resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcp_bench.data.masks import Rectangle
from lcp_bench.models.foreground import Foreground, foreground_levels, foreground_of


def as_map(level: Foreground, height: int, width: int) -> torch.Tensor:
    """The level as a boolean map."""
    flat = torch.zeros(height * width, dtype=torch.bool)
    flat[level.inside] = True
    return flat.reshape(height, width)


def rectangle(size: int, y0: int, y1: int, x0: int, x1: int) -> torch.Tensor:
    """A white rectangle as the data side makes them."""
    return torch.from_numpy(Rectangle(y0, y1, x0, x1).filled(size, size).astype(np.float32) / 255)


def test_both_halves_cover_every_cell_once() -> None:
    mask = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)) > 0
    cells = foreground_of(mask)
    assert torch.equal(torch.cat([cells.inside, cells.outside]).sort().values, torch.arange(42))
    assert torch.equal(as_map(cells, 6, 7), mask)
    assert cells.tokens == 42
    assert cells.ratio == pytest.approx(mask.float().mean().item())


def test_select_background_and_merge() -> None:
    cells = foreground_of(torch.tensor([[True, False, True], [False, False, True]]))
    tokens = torch.arange(2 * 6 * 2.0).reshape(2, 6, 2)
    inside, outside = cells.select(tokens), cells.background(tokens)
    assert inside[0, :, 0].tolist() == [0, 4, 10]
    assert outside[0, :, 0].tolist() == [2, 6, 8]
    assert torch.equal(cells.merge(inside, outside), tokens)
    refilled = cells.refill(inside)
    assert torch.equal(cells.select(refilled), inside)
    assert not cells.background(refilled).any()


def test_exact_rectangle_at_all_levels() -> None:
    """512 pixels to 64, 32, 16 and 8 cells; edges on the coarsest grid stay exact."""
    levels = foreground_levels(rectangle(512, 64, 320, 128, 384), (64, 64), 4)
    for number, level in enumerate(levels):
        side = 64 >> number
        want = rectangle(side, side // 8, side * 5 // 8, side // 4, side * 3 // 4).bool()
        assert torch.equal(as_map(level, side, side), want)
        assert level.ratio == 0.25


@pytest.mark.parametrize(("coverage", "cells"), [(0.12, 9), (0.25, 8), (0.5, 6), (0.51, 4), (1.0, 4)])
def test_coverage(coverage: float, cells: int) -> None:
    """2.25 by 2.5 cells of 8 pixels: the right column is covered by 1/2, the bottom by 1/4, the corner by 1/8."""
    mask = rectangle(64, 8, 8 + 18, 8, 8 + 20)
    (level,) = foreground_levels(mask, (8, 8), 1, coverage=coverage)
    assert level.inside.numel() == cells


@pytest.mark.parametrize("dilation", [0, 1, 3])
def test_dilation_grows_the_finest_level_before_the_others(dilation: int) -> None:
    levels = foreground_levels(rectangle(512, 256, 264, 256, 264), (64, 64), 2, dilation=dilation)
    side = 2 * dilation + 1
    want = rectangle(64, 32 - dilation, 33 + dilation, 32 - dilation, 33 + dilation).bool()
    assert torch.equal(as_map(levels[0], 64, 64), want)
    assert levels[0].inside.numel() == side**2
    coarse = want.reshape(32, 2, 32, 2).float().mean((1, 3)) >= 0.5
    assert torch.equal(as_map(levels[1], 32, 32), coarse)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_stay_so(value: float) -> None:
    for level in foreground_levels(torch.full((100, 80), value), (13, 9), 4, dilation=0):
        assert level.ratio == value


def test_odd_sizes_round_up_as_the_network_does() -> None:
    levels = foreground_levels(torch.ones(40, 40), (5, 7), 3)
    assert [level.tokens for level in levels] == [5 * 7, 3 * 4, 2 * 2]


def test_a_mask_of_any_type_and_size() -> None:
    boolean = torch.zeros(64, 64, dtype=torch.bool)
    boolean[:32] = True
    (level,) = foreground_levels(boolean, (64, 64), 1)
    assert torch.equal(as_map(level, 64, 64), boolean)
    (small,) = foreground_levels(boolean[::2, ::2], (64, 64), 1)
    assert small.ratio == 0.5
