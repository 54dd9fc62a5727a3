"""Hallo (Xu et al. 2024, arXiv 2406.08801) as a configuration of the family.

Portrait, identity embedding and motion frames pass once per segment through the reference UNet; the denoising UNet
reads its features, hears the audio under three masks, and looks along time. Facts that differ from the plain family and
are reproduced: banks are rounded to float16 on hand-over, conditional rows cycle through both branches' reference rows,
the temporal modules of the blocks without attention never run, motion frames come from the reference bank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lcp_bench.data.audio_features import wav2vec_features, window_frames
from lcp_bench.models.audio import AudioProjection
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import AudioConfig, TemporalConfig, UNetConfig
from lcp_bench.models.encoders import autoencoder, speech_encoder
from lcp_bench.models.face import FaceLocator, ImageProjection
from lcp_bench.models.sizes import TINY_WAV2VEC, find_size
from lcp_bench.models.talking_head import ClipConstants, TalkingHead, mask_levels
from lcp_bench.models.unet import UNet

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

    from lcp_bench.data.inputs import ClipInputs

LATENT_SCALE = 0.18215
"""Scale of Stable Diffusion 1.x latents."""

COMPONENTS = ("denoising_unet", "reference_unet", "face_locator", "image_proj", "audio_proj", "vae", "wav2vec")


@dataclass(frozen=True, kw_only=True, slots=True)
class HalloSize:
    """Widths of one size of the model.

    Attributes:
        image_size: Side of the square frames, px; eight times the latent's side.
        channels: Widths of the UNets' levels.
        norm_groups: Groups of the UNets' norms; a group of one channel would hide the time embedding from the layer.
        token_dim: Width of image and audio tokens.
        embedding_dim: Length of the identity embedding.
        audio_tokens: Audio tokens per frame.
        vae_channels: Widths of the autoencoder's levels.
        vae_layers: Resnets per autoencoder level.
        vae_groups: Groups of the autoencoder's norms.
        speech: Overrides of the speech encoder's configuration (empty: wav2vec2-base).
    """

    image_size: int
    channels: tuple[int, ...]
    norm_groups: int
    token_dim: int
    embedding_dim: int
    audio_tokens: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    speech: Mapping[str, object]


SIZES: dict[str, HalloSize] = {
    "full": HalloSize(
        image_size=512,
        channels=(320, 640, 1280, 1280),
        norm_groups=32,
        token_dim=768,
        embedding_dim=512,
        audio_tokens=32,
        vae_channels=(128, 256, 512, 512),
        vae_layers=2,
        vae_groups=32,
        speech={},
    ),
    "tiny": HalloSize(
        image_size=64,
        channels=(32, 64, 128, 128),
        norm_groups=8,
        token_dim=32,
        embedding_dim=512,
        audio_tokens=8,
        vae_channels=(32, 32, 32, 32),
        vae_layers=1,
        vae_groups=16,
        speech=TINY_WAV2VEC,
    ),
}
"""Real size, and a size for tests and demonstrations that has every structural feature of the real one."""


def size_of(name: str) -> HalloSize:
    """Look a size up; an unknown name is a `ConfigError`."""
    return find_size(SIZES, name)


def unet_configs(size: HalloSize) -> tuple[UNetConfig, UNetConfig]:
    """Configurations of the denoising and the reference UNet."""
    shared = {"channels": size.channels, "norm_groups": size.norm_groups, "image_token_dim": size.token_dim}
    denoising = UNetConfig(
        **shared,  # type: ignore[arg-type]
        audio=AudioConfig(token_dim=size.token_dim),
        temporal=TemporalConfig(in_plain_blocks=False),
    )
    return denoising, UNetConfig(**shared, output_head=False)  # type: ignore[arg-type]


def build_modules(size: str, device: str | torch.device = "meta") -> dict[str, nn.Module]:
    """All networks of Hallo by component name, in eval mode, without weights when built on the `meta` device."""
    shape = size_of(size)
    denoising, reference = unet_configs(shape)
    with torch.device(device):
        speech = speech_encoder(shape.speech)
        modules: dict[str, nn.Module] = {
            "denoising_unet": UNet(denoising),
            "reference_unet": UNet(reference),
            "face_locator": FaceLocator(shape.channels[0]),
            "image_proj": ImageProjection(shape.token_dim, shape.embedding_dim),
            "audio_proj": AudioProjection(
                layers=speech.config.num_hidden_layers,
                channels=speech.config.hidden_size,
                tokens=shape.audio_tokens,
                token_dim=shape.token_dim,
            ),
            "vae": autoencoder(shape.vae_channels, shape.vae_layers, shape.vae_groups, shape.image_size),
            "wav2vec": speech,
        }
    return {name: modules[name].eval().requires_grad_(False) for name in COMPONENTS}


class Hallo(TalkingHead):
    """The assembled model: what happens once per segment around the denoising loop.

    Args:
        modules: Networks by component name, see `COMPONENTS`; the VAE and the speech encoder may be absent.
        frames: Frames per segment.
        motion_frames: Frames carried over from the previous segment.
        reference_dtype: Type to which reference features are rounded on hand-over; upstream always uses float16.
        motion_scale: Weights of the pose, face and lip branches of the audio attention.
    """

    latent_scale = LATENT_SCALE
    latent_stride = 8

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        frames: int = 16,
        motion_frames: int = 2,
        reference_dtype: torch.dtype | None = torch.float16,
        motion_scale: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(modules, frames=frames, motion_frames=motion_frames, motion_scale=motion_scale)
        self.reference_dtype = reference_dtype

    @property
    def embedding_dim(self) -> int:
        """Length of the identity embedding."""
        projection = self.modules["image_proj"]
        assert isinstance(projection, ImageProjection)
        return projection.proj.in_features

    # ------------------------------------------------------------------ once per clip

    def identity_tokens(self, embedding: Tensor) -> Tensor:
        """Image tokens (2, tokens, dim) of an identity embedding (embedding_dim,): projections of zeros, then of it."""
        rows = torch.stack([torch.zeros_like(embedding), embedding]).to(self.device, self.dtype)
        return self.modules["image_proj"](rows)

    def audio_tokens(self, windows: Tensor) -> Tensor:
        """Audio tokens (frames, tokens, dim) of windowed speech features (frames, window, layers, channels)."""
        return self.modules["audio_proj"](windows.to(self.device, self.dtype))

    def face_feature(self, region: Tensor) -> Tensor:
        """Feature map (1, C, h, w) of a face-region image (3, H, W) in [0, 1]; the same for all frames."""
        return self.modules["face_locator"](region[None].to(self.device, self.dtype))

    def prepare(self, inputs: ClipInputs, *, guided: bool, fps: float) -> ClipConstants:
        """See `TalkingHead.prepare`; a clip without an identity embedding gets zeros."""
        embedding = torch.zeros(self.embedding_dim) if inputs.face_embedding is None else inputs.face_embedding
        speech = cast("Wav2Vec2Model", self.modules["wav2vec"])
        features, _ = wav2vec_features(speech, inputs.waveform, fps, self.frames)
        tokens = self.identity_tokens(embedding)
        return ClipConstants(
            portrait=inputs.portrait.to(self.device),
            image_tokens=tokens if guided else tokens[1:],
            audio_tokens=self.audio_tokens(window_frames(features)),
            masks=[level.to(self.device, self.dtype) for level in mask_levels(inputs)],
            face_feature=self.face_feature(inputs.face_region),
            branches=2 if guided else 1,
        )

    # ------------------------------------------------------------------ once per segment

    def meta_constants(self, image_size: int, branches: int) -> ClipConstants:
        """See `TalkingHead.meta_constants`."""
        image, audio = self.modules["image_proj"], self.modules["audio_proj"]
        assert isinstance(image, ImageProjection) and isinstance(audio, AudioProjection)
        side = image_size // self.latent_stride
        return ClipConstants(
            portrait=self._empty(3, image_size, image_size),
            image_tokens=self._empty(branches, image.tokens, image.token_dim),
            audio_tokens=self._empty(self.frames, audio.tokens, audio.token_dim),
            masks=self._empty_masks(image_size),
            face_feature=self._empty(1, self.unet.config.channels[0], side, side),
            branches=branches,
        )

    def write_reference(
        self, constants: ClipConstants, reference_latents: Tensor, unread: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """See `TalkingHead.write_reference`."""
        assert constants.image_tokens is not None
        return self.reference_bank(reference_latents, constants.image_tokens, self._left_out(unread))

    def segment_conditions(
        self, constants: ClipConstants, bank: Mapping[str, Tensor], first_frame: int, unread: Collection[str] = ()
    ) -> Conditions:
        """See `TalkingHead.segment_conditions`."""
        assert constants.image_tokens is not None
        audio = constants.audio_tokens[first_frame : first_frame + self.frames]
        return self.conditions(bank, constants.image_tokens, audio, constants.masks, constants.face_feature, unread)

    def reference_bank(
        self, reference_latents: Tensor, image_tokens: Tensor, unread: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Reference features of [portrait, motion frames], once per segment.

        Args:
            reference_latents: (1 + motion frames, 4, h, w).
            image_tokens: (branches, tokens, dim).
            unread: Layers whose features are left out.
        """
        rows = reference_latents.repeat(image_tokens.shape[0], 1, 1, 1).to(self.dtype)
        bank, _ = self.reference_unet.write_features(rows, image_tokens, unread=unread)
        if self.reference_dtype is None:
            return bank
        return {site: features.to(self.reference_dtype).to(self.dtype) for site, features in bank.items()}

    def conditions(
        self,
        bank: Mapping[str, Tensor],
        image_tokens: Tensor,
        audio_tokens: Tensor,
        masks: Sequence[Tensor],
        face_feature: Tensor,
        unread: Collection[str] = (),
    ) -> Conditions:
        """Everything the denoising UNet needs for one segment.

        The unconditional branch hears zeros (after the projection), sees no face feature and no reference.

        Args:
            bank: See `reference_bank`.
            image_tokens: (branches, tokens, dim).
            audio_tokens: (frames, tokens, dim) of this segment.
            masks: Per level, (3, 1, L, 1): full, face, lip.
            face_feature: (1, C, h, w).
            unread: Layers whose portrait features are not projected.
        """
        branches = image_tokens.shape[0]
        silent = [torch.zeros_like(audio_tokens)] * (branches - 1)
        blank = [torch.zeros_like(face_feature)] * (branches - 1)
        audio = torch.stack([*silent, audio_tokens])
        sites = self.unet.site_conditions(
            bank,
            image_tokens,
            audio,
            branches=branches,
            frames=audio_tokens.shape[0],
            row_rule="tiled",
            unread=unread,
        )
        return Conditions(
            branches,
            audio_tokens.shape[0],
            sites,
            [mask.to(self.device, self.dtype) for mask in masks],
            torch.stack([*blank, face_feature]),
            self.motion_scale,
        )
