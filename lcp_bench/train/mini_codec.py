"""Stage 1 of `mini`: the autoencoder that says how a frame differs from its portrait."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcp_bench.models.motion_codec import MotionCodec

EDGE_WEIGHT = 0.5
"""Weight of the differences between neighbouring pixels: keeps lids, teeth and lip lines sharp."""
CHANGE_WEIGHT = 2.0
"""Extra weight where a frame differs from its portrait; without it the still background is most of the loss."""
LATENT_NOISE = 0.2
"""Noise on latents in training: generated latents are never as clean as encoded ones, and what survives it lies on few
dimensions, which a denoiser can learn."""
SPREAD_WEIGHT = 1e-2
"""Weight of a latent variance above 1, by which the noise could be made to vanish."""
EXAMPLES = 4096
"""Frames that the appearance code and the latents' scale are taken from."""


class CodecLoss:
    """Reconstruction of random frames from noisy latents; see `lcp_bench.train.loop.LossFunction`.

    Args:
        codec: The codec with its fitted appearance code.
        pixels: uint8 (people, frames, H, W, 3).
        batch: Frames per step.
    """

    def __init__(self, codec: MotionCodec, pixels: NDArray[np.uint8], batch: int) -> None:
        self.codec, self.pixels, self.batch = codec, pixels, batch

    def __call__(self, generator: np.random.Generator) -> Tensor:
        """The loss of one random batch: frames beside any other frame of their take as the portrait."""
        people, frames = self.pixels.shape[:2]
        persons = generator.integers(0, people, self.batch)
        images = take_images(self.pixels, persons, generator.integers(0, frames, self.batch))
        portraits = take_images(self.pixels, persons, generator.integers(0, frames, self.batch))
        latents = self.codec.encode(images, portraits)
        noise = torch.from_numpy(generator.standard_normal(latents.shape, dtype=np.float32))
        restored = self.codec.decode(latents + LATENT_NOISE * noise, portraits)
        changed = 2 * (images - portraits).abs().mean(1, keepdim=True)
        weight = 1 + CHANGE_WEIGHT * changed.clamp(max=1)
        spread = (latents.square().mean() - 1).clamp(min=0)
        error = ((restored - images).abs() * weight).mean()
        return error + EDGE_WEIGHT * _edges(restored - images, weight) + SPREAD_WEIGHT * spread


def take_images(pixels: NDArray[np.uint8], persons: NDArray[Any], times: NDArray[Any]) -> Tensor:
    """Frames of persons at times (both of one shape) as float32 (rows, 3, H, W) in [-1, 1]."""
    pairs = zip(persons.ravel(), times.ravel(), strict=True)
    stacked = np.stack([pixels[who, when] for who, when in pairs])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(error: Tensor, weight: Tensor) -> Tensor:
    across = ((error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]).mean()
    down = ((error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]).mean()
    return across + down


def example_pairs(pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Frames of all people and the first frames of their takes, both (rows, 3, H, W) in [-1, 1]."""
    people, frames = pixels.shape[:2]
    numbers = np.arange(min(EXAMPLES, people * frames))
    persons = numbers % people
    return take_images(pixels, persons, 7 * numbers % frames), take_images(pixels, persons, np.zeros_like(numbers))
