"""What every model of the family offers to the generation loop, and the parts that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lcp_bench.models.conditions import Conditions
from lcp_bench.models.foreground import Foreground
from lcp_bench.models.unet import UNet
from lcp_bench.models.windowed import WindowedUNet
from lcp_bench.schedulers import DDIM, StepScheduler

if TYPE_CHECKING:
    from lcp_bench.data.inputs import ClipInputs
    from lcp_bench.models.memory import Memory

Past = dict[str, "tuple[Memory, ...]"]
"""What the segments so far left in each layer, one memory per temporal attention; empty at the start of a clip."""

MASK_ORDER = ("full", "face", "lip")


@dataclass(frozen=True, slots=True)
class ClipConstants:
    """What is constant over a clip, on the model's device.

    Attributes:
        portrait: (3, H, W) in [-1, 1].
        image_tokens: (branches, tokens, dim), or None where the model has no image tokens.
        audio_tokens: (frames, tokens, dim), frames a multiple of the segment length.
        masks: Per level, (3, 1, L, 1) in [0, 1]: full, face, lip.
        face_feature: (1, C, h, w); empty where the model has none.
        branches: Guidance branches, 1 or 2.
        foreground: The portrait's foreground, one entry per level, where the strategy asks for it; else None.
        emotions: Integer label of every frame (frames,), on the host; None where the model knows no emotions.
        notes: Facts for the record that only the model's own networks could tell.
    """

    portrait: Tensor
    image_tokens: Tensor | None
    audio_tokens: Tensor
    masks: Sequence[Tensor]
    face_feature: Tensor
    branches: int
    foreground: Sequence[Foreground] | None = None
    emotions: Tensor | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class TalkingHead(ABC):
    """A model: its networks, and what happens with them once per clip and once per segment.

    Args:
        modules: Networks by component name.
        frames: Frames per segment.
        motion_frames: Frames carried over from the previous segment.
        motion_scale: Weights of the full, face and lip branches of the audio attention.
    """

    latent_scale: ClassVar[float]
    """Factor between the autoencoder's latents and those that the UNets see."""
    latent_stride: ClassVar[int]
    """Picture pixels per latent cell, each way."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        frames: int = 16,
        motion_frames: int = 2,
        motion_scale: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        self.modules = dict(modules)
        self.frames, self.motion_frames = frames, motion_frames
        self.motion_scale = tuple(motion_scale)

    @property
    def unet(self) -> UNet:
        """The denoising UNet."""
        unet = self.modules["denoising_unet"]
        assert isinstance(unet, UNet)
        return unet

    @property
    def denoiser(self) -> UNet | WindowedUNet:
        """The denoising network as the sampler sees it: latents of a segment in, their prediction out."""
        return self.unet

    @property
    def reference_unet(self) -> UNet:
        """The reference UNet."""
        unet = self.modules["reference_unet"]
        assert isinstance(unet, UNet)
        return unet

    @property
    def dtype(self) -> torch.dtype:
        """Type of the denoising UNet's weights."""
        return self.unet.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the denoising UNet's weights."""
        return self.unet.conv_in.weight.device

    def encode(self, pixels: Tensor) -> Tensor:
        """Scaled mean latents (rows, C, h, w) of pixels (rows, 3, H, W) in [-1, 1]."""
        vae = self.modules["vae"]
        encoded = [vae.encode(row[None].to(self.device, self.dtype)).latent_dist.mean for row in pixels]  # type: ignore[operator]
        return torch.cat(encoded) * self.latent_scale

    def decode(self, latents: Tensor, constants: ClipConstants) -> Tensor:
        """Frames of a segment, one by one to bound memory.

        Args:
            latents: (1, C, frames, h, w).
            constants: The clip's constants, for an autoencoder that needs the portrait beside the latents.

        Returns:
            (frames, 3, H, W) in [0, 1], float32.
        """
        vae = self.modules["vae"]
        rows = (latents[0].transpose(0, 1) / self.latent_scale).to(self.dtype)
        pixels = torch.cat([vae.decode(row[None]).sample for row in rows])  # type: ignore[operator]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def initial_noise(self, draw: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]) -> Tensor:
        """The latents that a segment starts from.

        Args:
            draw: Source of independent standard normal noise of a shape.
            shape: (1, C, frames, h, w).
        """
        return draw(shape)

    def scheduler(self, num_steps: int) -> StepScheduler:
        """The scheduler that the network was trained for, on a grid of `num_steps`."""
        return DDIM(num_steps)

    def decode_pieces(self, latents: Tensor, constants: ClipConstants) -> Iterator[Tensor]:
        """`decode` a long segment's latents (1, C, frames, h, w) in pieces of `frames` frames, to bound memory."""
        for piece in latents.split(self.frames, dim=2):
            yield self.decode(piece, constants)

    def spans(self, constants: ClipConstants) -> list[range]:
        """Frames of every segment, in order."""
        count = constants.audio_tokens.shape[0] // self.frames
        return [range(number * self.frames, (number + 1) * self.frames) for number in range(count)]

    def passes(self, constants: ClipConstants) -> float:
        """How often the denoising UNet sees `frames` frames in a step of every segment: a clip's work in plan clips."""
        return float(len(self.spans(constants)))

    def cross_tokens(self, constants: ClipConstants) -> tuple[int, int]:
        """Tokens per row of the spatial transformers' cross-attention, and of the audio module; 0 means none."""
        image = constants.image_tokens
        return 0 if image is None else image.shape[1], constants.audio_tokens.shape[1]

    @abstractmethod
    def prepare(self, inputs: ClipInputs, *, guided: bool, fps: float) -> ClipConstants:
        """Run the networks that precede the segments.

        Args:
            inputs: The clip's inputs.
            guided: Whether classifier-free guidance needs an unconditional branch.
            fps: Frames per second of the video.
        """

    @abstractmethod
    def meta_constants(self, image_size: int, branches: int) -> ClipConstants:
        """Constants of one segment with the right shapes and no content, for counting work.

        Args:
            image_size: Side of the square picture, px.
            branches: Guidance branches.
        """

    @abstractmethod
    def write_reference(
        self, constants: ClipConstants, reference_latents: Tensor, unread: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Reference features of one segment.

        Args:
            constants: The clip's constants.
            reference_latents: (1 + motion frames, C, h, w): the portrait's, then the motion frames'.
            unread: Layers whose portrait features nobody will read; left out where motion frames are not needed either.
        """

    @abstractmethod
    def segment_conditions(
        self, constants: ClipConstants, bank: Mapping[str, Tensor], first_frame: int, unread: Collection[str] = ()
    ) -> Conditions:
        """Everything the denoising UNet needs for one segment.

        Args:
            constants: The clip's constants.
            bank: See `write_reference`.
            first_frame: Index of the segment's first frame in the clip.
            unread: Layers whose portrait features are not projected, because nobody reads them.
        """

    def conditions_after(
        self,
        constants: ClipConstants,
        bank: Mapping[str, Tensor],
        first_frame: int,
        past: Past,
        unread: Collection[str] = (),
    ) -> Conditions:
        """As `segment_conditions`, of a segment that goes on where the clip's earlier ones ended.

        Models without a memory go on by their motion frames alone, which are in the bank.

        Args:
            constants: The clip's constants.
            bank: See `write_reference`.
            first_frame: Index of the segment's first frame in the clip.
            past: Brought up to date in place, so that no more than one memory per attention is ever kept.
            unread: See `segment_conditions`.
        """
        return self.segment_conditions(constants, bank, first_frame, unread)

    def _left_out(self, unread: Collection[str]) -> Collection[str]:
        """Unread layers whose features are of no use at all: motion frames come from the same features."""
        return () if self.motion_frames else unread

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def _empty_masks(self, image_size: int) -> list[Tensor]:
        sides = [(image_size // self.latent_stride) >> level for level in range(len(self.unet.config.channels))]
        return [self._empty(len(MASK_ORDER), 1, side * side, 1) for side in sides]


def mask_levels(inputs: ClipInputs) -> list[Tensor]:
    """The clip's masks as the audio attention takes them: per level, (3, 1, L, 1), full, face and lip."""
    return [torch.stack(level)[..., None] for level in zip(*(inputs.masks[name] for name in MASK_ORDER), strict=True)]
