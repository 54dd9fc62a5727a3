"""`mini`: a small talking-head model of the family, trained by this repository on drawn people.

Same UNet, same sampler, same sites as the published models. What differs is small: latents say how a frame differs from
its portrait (`models/motion_codec.py`), the sound enters as a log-mel spectrogram, the portrait's appearance and face
region are added after `conv_in` for every branch, conditional rows read the portrait's own features, and nothing is
rounded to float16 on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcp_bench.data.audio_features import log_mel_features, window_frames
from lcp_bench.models.audio import AudioProjection
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import AudioConfig, TemporalConfig, UNetConfig
from lcp_bench.models.motion_codec import STRIDE, MotionCodec
from lcp_bench.models.talking_head import ClipConstants, TalkingHead, mask_levels
from lcp_bench.models.unet import UNet

if TYPE_CHECKING:
    from lcp_bench.data.inputs import ClipInputs

COMPONENTS = ("denoising_unet", "reference_unet", "portrait_guide", "audio_proj", "codec")


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniSize:
    """Widths of the model.

    Attributes:
        image_size: Side of the square frames, px.
        channels: Widths of the UNets' levels.
        heads: Attention heads, spatial and temporal.
        norm_groups: Groups of all norms.
        latent_channels: Channels of a motion latent.
        appearance_channels: Channels of a picture's appearance, which the reference UNet reads.
        audio_tokens: Audio tokens per frame.
        token_dim: Width of an audio token.
        mel_hops: Spectrogram columns per video frame.
        mel_bands: Bands of the spectrogram.
        audio_hidden: Width of the audio projection.
        codec_width: Channels of the autoencoder at the stride of the latents.
    """

    image_size: int = 64
    channels: tuple[int, ...] = (64, 56, 64, 32)
    heads: int = 2
    norm_groups: int = 8
    latent_channels: int = 4
    appearance_channels: int = 24
    audio_tokens: int = 4
    token_dim: int = 32
    mel_hops: int = 4
    mel_bands: int = 26
    audio_hidden: int = 128
    codec_width: int = 96


SIZE = MiniSize()


def unet_configs(size: MiniSize = SIZE) -> tuple[UNetConfig, UNetConfig]:
    """Configurations of the denoising and the reference UNet."""
    reference = UNetConfig(
        channels=size.channels,
        heads=size.heads,
        norm_groups=size.norm_groups,
        latent_channels=size.appearance_channels,
        image_token_dim=None,
        output_head=False,
    )
    denoising = UNetConfig(
        channels=size.channels,
        heads=size.heads,
        norm_groups=size.norm_groups,
        latent_channels=size.latent_channels,
        image_token_dim=None,
        audio=AudioConfig(token_dim=size.token_dim),
        temporal=TemporalConfig(heads=size.heads, attentions=1, norm_groups=size.norm_groups),
    )
    return denoising, reference


class PortraitGuide(nn.Module):
    """The portrait's appearance and face region as a feature map that is added after `conv_in`."""

    def __init__(self, appearance_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(appearance_channels + 1, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, appearance: Tensor, region: Tensor) -> Tensor:
        """The feature map (rows, channels, h, w).

        Args:
            appearance: Of portraits, (rows, appearance_channels, h, w).
            region: Face regions (rows, 1, H, W) in [0, 1].
        """
        small = F.adaptive_avg_pool2d(region, (appearance.shape[2], appearance.shape[3]))
        mixed: Tensor = self.conv_out(F.silu(self.conv_in(torch.cat([appearance, small], dim=1))))
        return mixed


def build_modules(size: MiniSize = SIZE, device: str | torch.device = "meta") -> dict[str, nn.Module]:
    """All networks of mini by component name, in eval mode, without weights when built on the `meta` device."""
    denoising, reference = unet_configs(size)
    with torch.device(device):
        modules: dict[str, nn.Module] = {
            "denoising_unet": UNet(denoising),
            "reference_unet": UNet(reference),
            "portrait_guide": PortraitGuide(size.appearance_channels, size.channels[0]),
            "audio_proj": AudioProjection(
                layers=size.mel_hops,
                channels=size.mel_bands,
                hidden=size.audio_hidden,
                tokens=size.audio_tokens,
                token_dim=size.token_dim,
            ),
            "codec": MotionCodec(size.latent_channels, size.appearance_channels, size.codec_width),
        }
    return {name: modules[name].eval().requires_grad_(False) for name in COMPONENTS}


def share_noise(drawn: Tensor) -> Tensor:
    """Noise of a segment, half of whose variance all frames share, so that they agree on where the head goes.

    The mixed prior of Ge et al. 2023 (arXiv 2305.10474, equation 3 with alpha = 1).

    Args:
        drawn: Independent standard normal noise (samples, C, frames + 1, h, w); the last one is shared.

    Returns:
        Standard normal noise (samples, C, frames, h, w).
    """
    return (drawn[:, :, :-1] + drawn[:, :, -1:]) / math.sqrt(2)


class Mini(TalkingHead):
    """The assembled model.

    Args:
        modules: Networks by component name, see `COMPONENTS`.
        frames: Frames per segment.
        motion_frames: Frames carried over from the previous segment.
        motion_scale: Weights of the full, face and lip branches of the audio attention.
    """

    latent_scale = 1.0  # the codec's latents have unit variance
    latent_stride = STRIDE

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        frames: int = 16,
        motion_frames: int = 2,
        motion_scale: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(modules, frames=frames, motion_frames=motion_frames, motion_scale=motion_scale)

    @property
    def guide(self) -> PortraitGuide:
        """The network of the portrait's appearance and face region."""
        guide = self.modules["portrait_guide"]
        assert isinstance(guide, PortraitGuide)
        return guide

    @property
    def codec(self) -> MotionCodec:
        """The autoencoder."""
        codec = self.modules["codec"]
        assert isinstance(codec, MotionCodec)
        return codec

    def encode(self, pixels: Tensor) -> Tensor:
        """What a picture looks like, (rows, appearance_channels, h, w); see `TalkingHead.encode`."""
        return self.codec.appearance(pixels.to(self.device, self.dtype))

    def decode(self, latents: Tensor, constants: ClipConstants) -> Tensor:
        """See `TalkingHead.decode`; small pictures are decoded together."""
        rows = latents[0].transpose(0, 1).to(self.dtype)
        portrait = constants.portrait.to(self.dtype).expand(rows.shape[0], -1, -1, -1)
        pixels = self.codec.decode(rows, portrait)
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def initial_noise(self, draw: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `TalkingHead.initial_noise`."""
        samples, channels, frames, *cells = shape
        return share_noise(draw((samples, channels, frames + 1, *cells)))

    def prepare(self, inputs: ClipInputs, *, guided: bool, fps: float) -> ClipConstants:
        """See `TalkingHead.prepare`."""
        features, _ = log_mel_features(inputs.waveform, fps, self.frames)
        portrait = inputs.portrait.to(self.device)
        tokens = self.modules["audio_proj"](window_frames(features).to(self.device, self.dtype))
        region = inputs.face_region[None, :1].to(self.device, self.dtype)
        return ClipConstants(
            portrait=portrait,
            image_tokens=None,
            audio_tokens=tokens,
            masks=[level.to(self.device, self.dtype) for level in mask_levels(inputs)],
            face_feature=self.guide(self.encode(portrait[None]), region),
            branches=2 if guided else 1,
        )

    def meta_constants(self, image_size: int, branches: int) -> ClipConstants:
        """See `TalkingHead.meta_constants`."""
        projection = self.modules["audio_proj"]
        assert isinstance(projection, AudioProjection)
        side = image_size // self.latent_stride
        return ClipConstants(
            portrait=self._empty(3, image_size, image_size),
            image_tokens=None,
            audio_tokens=self._empty(self.frames, projection.tokens, projection.token_dim),
            masks=self._empty_masks(image_size),
            face_feature=self._empty(1, self.unet.config.channels[0], side, side),
            branches=branches,
        )

    def write_reference(
        self, constants: ClipConstants, reference_latents: Tensor, unread: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """See `TalkingHead.write_reference`; without image tokens all branches have the same features."""
        latents, left_out = reference_latents.to(self.dtype), self._left_out(unread)
        bank, _ = self.reference_unet.write_features(latents, None, unread=left_out)
        return {site: features.repeat(constants.branches, 1, 1) for site, features in bank.items()}

    def segment_conditions(
        self, constants: ClipConstants, bank: Mapping[str, Tensor], first_frame: int, unread: Collection[str] = ()
    ) -> Conditions:
        """See `TalkingHead.segment_conditions`.

        The unconditional branch hears zeros and reads no portrait features; both branches see the portrait's guide.
        """
        branches = constants.branches
        audio = constants.audio_tokens[first_frame : first_frame + self.frames]
        heard = torch.stack([*[torch.zeros_like(audio)] * (branches - 1), audio])
        sites = self.unet.site_conditions(
            bank, None, heard, branches=branches, frames=audio.shape[0], row_rule="branch", unread=unread
        )
        both = (branches, -1, -1, -1, -1)
        return Conditions(
            branches,
            audio.shape[0],
            sites,
            constants.masks,
            constants.face_feature.expand(*both),
            self.motion_scale,
        )
