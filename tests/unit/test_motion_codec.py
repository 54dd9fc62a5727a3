"""The autoencoder of mini: its appearance code in closed form, its warp, and the scale of its latents."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from lcp_bench.models.motion_codec import REACH, MotionCodec, warp


def pictures(rows: int = 64, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures."""
    coarse = torch.randn(rows, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=side, mode="bilinear").tanh()


def small_codec() -> MotionCodec:
    torch.manual_seed(0)
    return MotionCodec(4, 24, width=16).requires_grad_(False)


def test_appearance_is_white_and_holds_the_picture() -> None:
    codec, images = small_codec(), pictures()
    codec.fit(images)
    appearance = codec.appearance(images)
    flat = appearance.transpose(0, 1).flatten(1)
    assert torch.allclose(torch.cov(flat), torch.eye(24), atol=1e-2)
    patches = F.pixel_unshuffle(images, 8).transpose(0, 1).flatten(1)
    columns = torch.cat([flat.T, torch.ones(flat.shape[1], 1)], dim=1)
    guessed = columns @ torch.linalg.lstsq(columns, patches.T).solution
    assert (guessed - patches.T).square().mean() < 0.02 * patches.var()


def test_before_training_a_frame_is_its_portrait() -> None:
    codec, portraits = small_codec(), pictures(2, seed=1)
    decoded = codec.decode(torch.randn(2, 4, 4, 4), portraits)
    assert torch.allclose(decoded, portraits, atol=1e-5)


def test_a_flow_fetches_pixels_from_where_it_points() -> None:
    image = pictures(1)
    shift = 4  # pixels, to the left: the picture moves right
    flow = torch.zeros(1, 2, 32, 32)
    flow[:, 0] = -shift / 16
    moved = warp(image, flow)
    assert torch.allclose(moved[..., shift:], image[..., :-shift], atol=1e-4)
    assert torch.allclose(warp(image, torch.zeros(1, 2, 32, 32)), image, atol=1e-5)


def test_the_warp_is_part_of_the_frame() -> None:
    codec, portraits = small_codec(), pictures(2, seed=1)
    for convolution in (codec.flow, codec.fine_flow):
        torch.nn.init.normal_(convolution.weight, std=0.1)
    decoded, warped, flow = codec.decode_with_flow(torch.randn(2, 4, 4, 4), portraits)
    assert flow.shape == (2, 2, 32, 32) and 0 < flow.abs().max() <= REACH
    assert torch.equal(warped, warp(portraits, flow))
    assert torch.allclose(decoded, warped, atol=1e-5), "nothing is repaired before training"


def test_standard_latents_do_not_change_the_pictures() -> None:
    codec, images, portraits = small_codec(), pictures(), pictures(seed=1)
    for convolution in (codec.flow, codec.repair[-1]):
        assert isinstance(convolution, torch.nn.Conv2d)
        torch.nn.init.normal_(convolution.weight, std=0.1)
    before = codec.decode(codec.encode(images, portraits), portraits)
    assert not torch.allclose(before, portraits, atol=1e-2)
    for _ in range(2):  # again: latents that are standard already
        codec.standardise(images, portraits)
        latents = codec.encode(images, portraits).transpose(0, 1).flatten(1)
        assert latents.mean(1).abs().max() < 1e-4
        assert torch.allclose(latents.std(1), torch.ones(4), atol=1e-4)
        assert torch.allclose(codec.decode(codec.encode(images, portraits), portraits), before, atol=1e-4)
