"""Stages 2 and 3 of `mini`: single frames with reference and sound, then sequences with the temporal modules.

The conditions are built by the same functions as in generation; only the row layout differs: every sample of a batch
is a branch of its own, at its own timestep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcp_bench.models.conditions import Conditions
from lcp_bench.models.mini import PortraitGuide, share_noise
from lcp_bench.models.motion_codec import MotionCodec
from lcp_bench.models.unet import UNet
from lcp_bench.schedulers import DDIM
from lcp_bench.train.mini_codec import take_images
from lcp_bench.train.mini_data import LATENT_SIDE, LEVELS

WINDOW_RADIUS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserOptions:
    """What a batch looks like.

    Attributes:
        frames: Frames per sample.
        consecutive: Whether they follow each other (then motion frames are given) or are scattered over the take.
        motion_frames: Frames before the sample that the temporal modules see.
        drop: Share of batches without sound and reference, for guidance.
        lip_weight: Extra weight of the loss where the lips are.
        motion_noise: Standard deviation of the noise on given motion frames; generated ones are never perfect.
    """

    frames: int
    consecutive: bool
    motion_frames: int = 2
    drop: float = 0.1
    lip_weight: float = 3.0
    motion_noise: float = 0.2


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch.

    Attributes:
        people: Numbers of the samples' people.
        portraits: Frame index of each sample's portrait.
        times: Frame indices (samples, frames).
        target: Clean latents (samples, C, frames, h, w).
        reference: Appearance of portrait and motion frames (samples, 1 + motion frames or 1, channels, h, w).
        mel: Windows (samples, frames, 5, hops, bands).
        masks: (samples, 3, cells), all levels joined.
        region: (samples, 1, H, W) in [0, 1].
        noise: As `target`.
        timesteps: (samples,).
        dropped: Whether sound and reference are withheld.
    """

    people: NDArray[np.int64]
    portraits: NDArray[np.int64]
    times: NDArray[np.int64]
    target: Tensor
    reference: Tensor
    mel: Tensor
    masks: Tensor
    region: Tensor
    noise: Tensor
    timesteps: Tensor
    dropped: bool


class DenoiserLoss:
    """Error of the predicted velocity; see `lcp_bench.train.loop.LossFunction`.

    Args:
        networks: `denoising_unet`, `reference_unet`, `portrait_guide`, `audio_proj`.
        codec: The finished codec.
        arrays: See `lcp_bench.train.mini_data.load_clips`.
        reference_frames: Indices of the frames that may be portraits.
        batch: Samples per step.
        options: What a sample looks like.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        codec: MotionCodec,
        arrays: Mapping[str, NDArray[Any]],
        reference_frames: NDArray[np.int64],
        batch: int,
        options: DenoiserOptions,
    ) -> None:
        self.networks, self.codec, self.arrays = networks, codec, arrays
        self.batch, self.options = batch, options
        self.reference_frames = reference_frames
        self.alphas = DDIM(20).alphas_cumprod.float()

    def __call__(self, generator: np.random.Generator) -> Tensor:
        """The loss of one random batch."""
        batch = self.draw(generator)
        signal, share, noised = self._noised(batch)
        velocity = signal * batch.noise - share * batch.target
        error = (self.predict(noised, batch) - velocity).square()
        lips = batch.masks[:, 2, : LATENT_SIDE**2].unflatten(1, (LATENT_SIDE, LATENT_SIDE))[:, None, None]
        weight = (1 + self.options.lip_weight * lips).expand_as(error)
        loss: Tensor = (error * weight).mean() / weight.mean()
        return loss

    def restore(self, batch: Batch) -> Tensor:
        """Clean latents as predicted in one step from the batch's noised ones, (samples, C, frames, h, w)."""
        signal, share, noised = self._noised(batch)
        return signal * noised - share * self.predict(noised, batch)

    def _noised(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The shares of signal and noise at the batch's timesteps, and the latents noised with them."""
        alpha = self.alphas[batch.timesteps][:, None, None, None, None]
        signal, share = alpha.sqrt(), (1 - alpha).sqrt()
        return signal, share, signal * batch.target + share * batch.noise

    def predict(self, noised: Tensor, batch: Batch) -> Tensor:
        """The networks' velocity (samples, C, frames, h, w)."""
        unet, reference = self.networks["denoising_unet"], self.networks["reference_unet"]
        guide, projection = self.networks["portrait_guide"], self.networks["audio_proj"]
        assert isinstance(unet, UNet) and isinstance(reference, UNet) and isinstance(guide, PortraitGuide)
        samples, frames = batch.target.shape[0], batch.target.shape[2]
        tokens = projection(batch.mel)
        bank, _ = reference.write_features(batch.reference.flatten(0, 1), None)
        sites = unet.site_conditions(
            bank,
            None,
            torch.zeros_like(tokens) if batch.dropped else tokens,
            branches=samples,
            frames=frames,
            row_rule="own",
        )
        if batch.dropped:
            sites = {name: replace(site, reference=None) for name, site in sites.items()}
        feature = guide(batch.reference[:, 0], batch.region)
        conditions = Conditions(samples, frames, sites, _levels(batch.masks, frames), feature[:, None])
        weight = unet.time_embedding.linear_1.weight
        time = unet.time_embedding(batch.timesteps.to(weight.device, torch.float32))
        return unet.forward_samples(noised, time, conditions)

    # ------------------------------------------------------------------ batches

    def draw(self, generator: np.random.Generator) -> Batch:
        """A random batch."""
        arrays, count = self.arrays, self.batch
        people = generator.integers(0, arrays["pixels"].shape[0], count)
        numbers = generator.integers(0, len(self.reference_frames), count)
        portraits = self.reference_frames[numbers]
        times, motion = self._times(generator, portraits)
        reference, target = self._encode(people, portraits, motion, times)
        if motion.shape[1]:
            noise = generator.standard_normal(reference[:, 1:].shape, dtype=np.float32)
            reference[:, 1:] += self.options.motion_noise * torch.from_numpy(noise)
        last = arrays["mel"].shape[1] - 1
        windows = np.clip(times[..., None] + np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1), 0, last)
        return Batch(
            people=people,
            portraits=portraits,
            times=times,
            target=target,
            reference=reference,
            mel=torch.from_numpy(arrays["mel"][people[:, None, None], windows]).float(),
            masks=torch.from_numpy(arrays["masks"][people, numbers]).float(),
            region=torch.from_numpy(arrays["region"][people, numbers]).float()[:, None] / 255,
            noise=self._noise(generator, target.shape),
            timesteps=torch.from_numpy(generator.integers(0, len(self.alphas), count)),
            dropped=bool(generator.random() < self.options.drop),
        )

    @torch.no_grad()
    def _encode(
        self, people: NDArray[Any], portraits: NDArray[Any], motion: NDArray[Any], times: NDArray[Any]
    ) -> tuple[Tensor, Tensor]:
        """Appearance of portraits and motion frames, and latents of the targets; see `Batch`."""
        pixels, frames = self.arrays["pixels"], times.shape[1]
        pictures = np.concatenate([portraits[:, None], motion], axis=1)
        seen = take_images(pixels, np.broadcast_to(people[:, None], pictures.shape), pictures)
        seen = seen.unflatten(0, pictures.shape)
        beside = seen[:, 0].repeat_interleave(frames, 0)
        images = take_images(pixels, np.broadcast_to(people[:, None], times.shape), times)
        latents = self.codec.encode(images, beside).unflatten(0, times.shape)
        appearance = self.codec.appearance(seen.flatten(0, 1)).unflatten(0, pictures.shape)
        return appearance, latents.transpose(1, 2)

    def _noise(self, generator: np.random.Generator, shape: Sequence[int]) -> Tensor:
        """Noise as generation draws it: frames that follow each other share a part of it."""
        samples, channels, frames, *cells = shape
        extra = int(self.options.consecutive)
        drawn = generator.standard_normal((samples, channels, frames + extra, *cells), dtype=np.float32)
        noise = torch.from_numpy(drawn)
        return share_noise(noise) if self.options.consecutive else noise

    def _times(
        self, generator: np.random.Generator, portraits: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Frame indices of the targets (samples, frames) and of the motion frames (samples, motion frames).

        Half of the sequences begin at the portrait, which then stands in for the motion frames, as in a clip's first
        segment; the others follow the take's own frames, as in later segments.
        """
        options, length = self.options, self.arrays["pixels"].shape[1]
        if not options.consecutive:
            shape = (self.batch, options.frames)
            return generator.integers(0, length, shape), np.zeros((self.batch, 0), dtype=np.int64)
        latest = length - options.frames
        starts = generator.integers(options.motion_frames, latest + 1, self.batch)
        first = (generator.random(self.batch) < 0.5) & (portraits <= latest)
        starts = np.where(first, portraits, starts)
        before = starts[:, None] - np.arange(options.motion_frames, 0, -1)
        motion = np.where(first[:, None], portraits[:, None], before)
        return starts[:, None] + np.arange(options.frames), motion


def _levels(masks: Tensor, frames: int) -> list[Tensor]:
    """Joined masks (samples, 3, cells) as the audio attention takes them: per level, (3, rows, L, 1)."""
    sizes = [(LATENT_SIDE >> level) ** 2 for level in range(LEVELS)]
    return [level.transpose(0, 1).repeat_interleave(frames, 1)[..., None] for level in masks.split(sizes, dim=2)]
