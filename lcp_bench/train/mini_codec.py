"""Stage 1 of `mini`: the autoencoder that says how a frame differs from its portrait.

Pictures alone teach a warp only where it is nearly right already: eyes that lie beside their place pull nothing. What
is known of the drawn people shows the way: the affine motion of their five landmarks is the flow's first goal, and eyes
and mouth, a few pixels that carry all expression, weigh more than cheeks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lcp_bench.models.motion_codec import MotionCodec

EDGE_WEIGHT = 0.5
"""Weight of the differences between neighbouring pixels: keeps lids, teeth and lip lines sharp."""
CHANGE_WEIGHT = 2.0
"""Extra weight where a frame differs from its portrait; without it the still background is most of the loss."""
FEATURE_WEIGHT = 6.0
"""Extra weight of eyes and mouth."""
WARP_WEIGHT = 1 / 6
"""Weight of the warped portrait's error, at each of three scales: what can be moved is moved, not painted."""
FLOW_WEIGHT = 1.0
"""Weight of the flow's distance from the landmarks' motion, in half pictures."""
LATENT_NOISE = 0.15
"""Noise on latents in training: generated latents are never as clean as encoded ones, and what survives it lies on few
dimensions, which a denoiser can learn."""
SPREAD_WEIGHT = 1e-2
"""Weight of a latent variance above 1, by which the noise could be made to vanish."""
EXAMPLES = 4096
"""Frames that the appearance code and the latents' scale are taken from."""
EYE_RADIUS, MOUTH_MARGIN = 4.0, 2.0
"""How far eyes and mouth reach, in pixels of pictures of 64."""


class CodecLoss:
    """Reconstruction of random frames from noisy latents; see `lcp_bench.train.loop.LossFunction`.

    Args:
        codec: The codec with its fitted appearance code.
        arrays: `pixels`, `landmarks` and `mouths`; see `lcp_bench.train.mini_data.load_clips`.
        batch: Frames per step.
    """

    def __init__(self, codec: MotionCodec, arrays: Mapping[str, NDArray[Any]], batch: int) -> None:
        self.codec, self.arrays, self.batch = codec, arrays, batch

    def __call__(self, generator: np.random.Generator) -> Tensor:
        """The loss of one random batch: frames beside any other frame of their take as the portrait."""
        pixels, landmarks = self.arrays["pixels"], self.arrays["landmarks"]
        persons = generator.integers(0, pixels.shape[0], self.batch)
        times, portrait_times = generator.integers(0, pixels.shape[1], (2, self.batch))
        images, portraits = take_images(pixels, persons, times), take_images(pixels, persons, portrait_times)
        latents = self.codec.encode(images, portraits)
        noise = torch.from_numpy(generator.standard_normal(latents.shape, dtype=np.float32))
        restored, warped, flow = self.codec.decode_with_flow(latents + LATENT_NOISE * noise, portraits)
        points = as_tensor(landmarks[persons, times])
        weight = frame_weights(images, portraits, points, as_tensor(self.arrays["mouths"][persons, times]))
        goal, near = landmark_flow(points, as_tensor(landmarks[persons, portrait_times]), images.shape[-1])
        error = restored - images
        loss = (error.abs() * weight).mean() + EDGE_WEIGHT * edges(error, weight)
        loss = loss + WARP_WEIGHT * _at_scales(warped - images, weight)
        loss = loss + FLOW_WEIGHT * ((flow - goal).abs() * near).sum() / (2 * near.sum())
        spread = (latents.square().mean() - 1).clamp(min=0)
        return loss + SPREAD_WEIGHT * spread


def frame_weights(images: Tensor, portraits: Tensor, points: Tensor, mouths: Tensor) -> Tensor:
    """How much each pixel counts, (rows, 1, H, W), 1 or more: what moved, eyes and mouth; see `feature_map`."""
    changed = 2 * (images - portraits).abs().mean(1, keepdim=True)
    features = feature_map(points, mouths, images.shape[-1])
    return 1 + CHANGE_WEIGHT * changed.clamp(max=1) + FEATURE_WEIGHT * features


def feature_map(points: Tensor, mouths: Tensor, size: int) -> Tensor:
    """Where eyes and mouth are, (rows, 1, size, size) in 0..1.

    Args:
        points: (rows, 5, 2) x, y in pixels: eyes, nose tip, mouth corners.
        mouths: (rows, 4) x0, y0, x1, y1 of the lips.
        size: Side of the pictures in pixels.
    """
    x, y = _pixel_centres(size)
    unit = size / 64
    away = (x - points[:, :2, 0, None, None]).square() + (y - points[:, :2, 1, None, None]).square()
    eyes = torch.exp(-away / (2 * (EYE_RADIUS * unit) ** 2)).amax(1, keepdim=True)
    x0, y0, x1, y1 = (mouths[:, side, None, None] for side in range(4))
    margin = MOUTH_MARGIN * unit
    across = (x0 - margin - x).clamp(min=0) + (x - x1 - margin).clamp(min=0)
    down = (y0 - margin - y).clamp(min=0) + (y - y1 - margin).clamp(min=0)
    mouth = torch.exp(-(across.square() + down.square()) / (2 * margin**2))
    return torch.maximum(eyes, mouth[:, None])


def landmark_flow(points: Tensor, portrait_points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The affine motion of five landmarks as a flow, and where it holds.

    Args:
        points: (rows, 5, 2) x, y in the frame, in pixels.
        portrait_points: The same points in the portrait.
        size: Side of the pictures in pixels.

    Returns:
        (rows, 2, size, size), from where each pixel of the frame comes, relative to its place, in half pictures; and a
        weight (rows, 1, size, size) in 0..1 that fades with the distance from the face.
    """
    x, y = _pixel_centres(size)
    known = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    motion = torch.linalg.lstsq(known.double(), portrait_points.double()).solution.float()
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    flow = (torch.einsum("hwk,nkc->nchw", places, motion) - torch.stack([x, y])) / (size / 2)
    centre = points.mean(1)
    radius = (points - centre[:, None]).norm(dim=-1).mean(1)[:, None, None].clamp(min=1)
    away = (x - centre[:, 0, None, None]).square() + (y - centre[:, 1, None, None]).square()
    return flow, torch.exp(-away / (2 * radius.square()))[:, None]


def take_images(pixels: NDArray[np.uint8], persons: NDArray[Any], times: NDArray[Any]) -> Tensor:
    """Frames of persons at times (both of one shape) as float32 (rows, 3, H, W) in [-1, 1]."""
    pairs = zip(persons.ravel(), times.ravel(), strict=True)
    stacked = np.stack([pixels[who, when] for who, when in pairs])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_tensor(values: NDArray[Any]) -> Tensor:
    """float32 copy."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _pixel_centres(size: int) -> tuple[Tensor, Tensor]:
    centres = torch.arange(size) + 0.5
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    return columns, rows


def _at_scales(error: Tensor, weight: Tensor) -> Tensor:
    """Mean error as it is and averaged over 2 and 4 pixels: what lies a little beside its place pulls too."""
    total = (error.abs() * weight).mean()
    for side in (2, 4):
        total = total + (F.avg_pool2d(error, side).abs() * F.avg_pool2d(weight, side)).mean()
    return total


def edges(error: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the error's differences between neighbouring pixels."""
    across = ((error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]).mean()
    down = ((error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]).mean()
    return across + down


def example_pairs(pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Frames of all people and the first frames of their takes, both (rows, 3, H, W) in [-1, 1]."""
    people, frames = pixels.shape[:2]
    numbers = np.arange(min(EXAMPLES, people * frames))
    persons = numbers % people
    return take_images(pixels, persons, 7 * numbers % frames), take_images(pixels, persons, np.zeros_like(numbers))
