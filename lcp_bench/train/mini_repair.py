"""Stage 4 of `mini`: what the codec paints over its warped portrait, once more, on latents that the denoiser predicts.

A denoiser's latents are never as exact as encoded ones: they lie between poses. The warp stands that, the face stays
whole. The repair does not: beside exact latents it has learnt to move eyes to where they belong, and beside others it
paints them a second time. So it is taught, with everything else fixed, to take the pose from the warp and only mouth,
lids and gaze from the latent: its goal is the true frame, brought into the pose that the warp has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcp_bench.models.motion_codec import MotionCodec, warp
from lcp_bench.train.mini_codec import EDGE_WEIGHT, as_tensor, edges, frame_weights, take_images
from lcp_bench.train.mini_denoiser import DenoiserLoss

NOISE = 0.3
"""Largest standard deviation of noise on predicted latents, which samples keep and one-step predictions have not."""
INVERSION_STEPS = 6


class RepairLoss:
    """Error of frames restored from predicted latents; see `lcp_bench.train.loop.LossFunction`.

    Args:
        codec: The finished codec.
        denoiser: Draws the batches and predicts; its networks are finished.
        arrays: `pixels`, `landmarks` and `mouths`; see `lcp_bench.train.mini_data.load_clips`.
    """

    def __init__(self, codec: MotionCodec, denoiser: DenoiserLoss, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.codec, self.denoiser, self.arrays = codec, denoiser, arrays

    def __call__(self, generator: np.random.Generator) -> Tensor:
        """The loss of one random batch, over all noise levels."""
        batch = self.denoiser.draw(generator)
        frames = batch.times.shape[1]
        persons, times = np.repeat(batch.people, frames), batch.times.flatten()
        images = take_images(self.arrays["pixels"], persons, times)
        portraits = take_images(self.arrays["pixels"], persons, np.repeat(batch.portraits, frames))
        with torch.no_grad():
            latents, predicted = (_rows(each) for each in (batch.target, self.denoiser.restore(batch)))
            strength = generator.uniform(0, NOISE, (len(predicted), 1, 1, 1))
            noise = strength * generator.standard_normal(predicted.shape)
            true_flow, _ = self.codec.flow_and_details(latents, portraits)
        restored, _, flow = self.codec.decode_with_flow(predicted + as_tensor(noise), portraits)
        landmarks, mouths = (as_tensor(self.arrays[name][persons, times]) for name in ("landmarks", "mouths"))
        path = path_between(flow.detach(), true_flow)
        weight = warp(frame_weights(images, portraits, landmarks, mouths), path)
        error = restored - warp(images, path, "bicubic")  # a goal that is blurred by bilinear fetching teaches blur
        return (error.abs() * weight).mean() + EDGE_WEIGHT * edges(error, weight)


def path_between(flow: Tensor, true_flow: Tensor) -> Tensor:
    """The flow that brings a frame into another pose of the same portrait.

    Two flows (rows, 2, H, W) fetch from the portrait, in half pictures. A pixel of the result comes from that place of
    the frame which shows the same spot of the portrait: `place + true_flow(place) = pixel + flow(pixel)`, solved by
    iteration, which converges where a flow stretches less than twofold.
    """
    path = torch.zeros_like(flow)
    for _ in range(INVERSION_STEPS):
        path = flow - warp(true_flow, path)
    return path


def _rows(latents: Tensor) -> Tensor:
    """(samples, C, frames, h, w) to (samples x frames, C, h, w)."""
    return latents.transpose(1, 2).flatten(0, 1)
