"""Stage 1 of `mini`: the patch codec, and the latents of all training frames."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lcp_bench.models.patch_codec import PatchCodec

log = logging.getLogger(__name__)

EDGE_WEIGHT = 0.5
"""Weight of the differences between neighbouring pixels: keeps lids, teeth and lip lines sharp."""
LATENT_NOISE = 0.2
"""Largest noise on latents while the decoder is trained: generated latents are never as clean as encoded ones."""
FITTED_FRAMES = 4096


class CodecLoss:
    """Reconstruction of random frames from noisy latents; see `lcp_bench.train.loop.LossFunction`.

    Args:
        codec: The codec with its fitted linear part.
        pixels: uint8 (people, frames, H, W, 3).
        batch: Frames per step.
    """

    def __init__(self, codec: PatchCodec, pixels: NDArray[np.uint8], batch: int) -> None:
        self.codec, self.pixels, self.batch = codec, pixels, batch

    def __call__(self, generator: np.random.Generator) -> Tensor:
        """The loss of one random batch."""
        people, frames = self.pixels.shape[:2]
        persons, times = generator.integers(0, people, self.batch), generator.integers(0, frames, self.batch)
        images = to_images(np.stack([self.pixels[who, when] for who, when in zip(persons, times, strict=True)]))
        latents = self.codec.encode(images)
        levels = torch.from_numpy(generator.uniform(0, LATENT_NOISE, (self.batch, 1, 1, 1)).astype(np.float32))
        noise = torch.from_numpy(generator.standard_normal(latents.shape, dtype=np.float32))
        restored = self.codec.decode(latents + levels * noise)
        return F.l1_loss(restored, images) + EDGE_WEIGHT * _edges(restored, images)


def to_images(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (rows, H, W, 3) to float32 (rows, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(a: Tensor, b: Tensor) -> Tensor:
    across = F.l1_loss(a[..., 1:] - a[..., :-1], b[..., 1:] - b[..., :-1])
    down = F.l1_loss(a[..., 1:, :] - a[..., :-1, :], b[..., 1:, :] - b[..., :-1, :])
    return across + down


def fit_codec(codec: PatchCodec, pixels: NDArray[np.uint8]) -> None:
    """Set the linear part from frames of all people, uint8 (people, frames, H, W, 3)."""
    people, frames = pixels.shape[:2]
    count = min(FITTED_FRAMES, people * frames)
    codec.fit(to_images(np.stack([pixels[n % people, (7 * n) % frames] for n in range(count)])))


@torch.inference_mode()
def encode_all(codec: PatchCodec, pixels: NDArray[np.uint8], path: Path) -> NDArray[Any]:
    """Latents float16 (people, frames, C, h, w) of all training frames, memory-mapped; made once."""
    if not path.is_file():
        people, frames, side = pixels.shape[:3]
        cells = side // codec.stride
        partial = path.with_suffix(".partial.npy")
        shape = (people, frames, codec.analysis.shape[0], cells, cells)
        latents = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
        for person in range(people):
            latents[person] = codec.encode(to_images(np.asarray(pixels[person]))).numpy()
        latents.flush()
        partial.replace(path)
        log.info("encoded %d frames into %s", people * frames, path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
