"""EchoMimic (Chen et al. 2024, arXiv 2407.08136), audio-driven, as a configuration of the family.

The portrait passes once per video through a reference UNet that has no cross-attention; the denoising UNet reads its
features, cross-attends in every spatial transformer to the states that Whisper has around the frame, and looks along
time. Facts that differ from Hallo and are reproduced: what the sound adds is tripled, bias included; the temporal
modules of the blocks without attention run; the face locator takes a one-channel mask; the unconditional branch sees no
face feature; the noise is clamped; there are no motion frames, instead overlapping windows move over the whole video
(`lcp_bench.models.windowed`). The accelerated variant is the same network with other weights, run in six steps with one
branch: its re-parametrisation of the prediction is the identity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lcp_bench.data.whisper_features import RADIUS, frame_tokens, whisper_features
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import TemporalConfig, UNetConfig
from lcp_bench.models.encoders import autoencoder
from lcp_bench.models.face import FaceLocator
from lcp_bench.models.sizes import find_size
from lcp_bench.models.talking_head import ClipConstants, TalkingHead, mask_levels
from lcp_bench.models.unet import UNet
from lcp_bench.models.whisper import WhisperEncoder
from lcp_bench.models.windowed import TokenSites, WindowedUNet
from lcp_bench.windows import WindowSchedule

if TYPE_CHECKING:
    from lcp_bench.data.inputs import ClipInputs

log = logging.getLogger(__name__)

COMPONENTS = ("denoising_unet", "reference_unet", "face_locator", "vae", "whisper")
LATENT_SCALE = 0.18215
"""Scale of Stable Diffusion 1.x latents."""
SOUND_SCALE = 3.0
"""Factor on what the cross-attention to the sound adds."""
LOCATOR_WIDTHS = (16, 32, 96, 256)
NOISE_LIMIT = 1.5
"""Initial noise is clamped to this magnitude."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EchoMimicSize:
    """Widths of one size of the model.

    Attributes:
        image_size: Side of the square frames, px; eight times the latent's side.
        channels: Widths of the UNets' levels.
        norm_groups: Groups of the UNets' norms; a group of one channel would hide the time embedding from the layer.
        vae_channels: Widths of the autoencoder's levels.
        vae_layers: Resnets per autoencoder level.
        vae_groups: Groups of the autoencoder's norms.
        speech: Overrides of the speech encoder's arguments (empty: Whisper tiny).
    """

    image_size: int
    channels: tuple[int, ...]
    norm_groups: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    speech: Mapping[str, int] = field(default_factory=dict)


SIZES: dict[str, EchoMimicSize] = {
    "full": EchoMimicSize(
        image_size=512,
        channels=(320, 640, 1280, 1280),
        norm_groups=32,
        vae_channels=(128, 256, 512, 512),
        vae_layers=2,
        vae_groups=32,
    ),
    "tiny": EchoMimicSize(
        image_size=64,
        channels=(32, 64, 128, 128),
        norm_groups=8,
        vae_channels=(32, 32, 32, 32),
        vae_layers=1,
        vae_groups=16,
        speech={"width": 32, "heads": 4, "blocks": 2},
    ),
}
"""Real size, and a size for tests and demonstrations that has every structural feature of the real one."""


def size_of(name: str) -> EchoMimicSize:
    """Look a size up; an unknown name is a `ConfigError`."""
    return find_size(SIZES, name)


def unet_configs(size: EchoMimicSize) -> tuple[UNetConfig, UNetConfig]:
    """Configurations of the denoising and the reference UNet."""
    shared: dict[str, Any] = {"channels": size.channels, "norm_groups": size.norm_groups}
    denoising = UNetConfig(
        **shared, image_token_dim=_speech(size).width, image_scale=SOUND_SCALE, temporal=TemporalConfig()
    )
    return denoising, UNetConfig(**shared, image_token_dim=None, output_head=False)


def _speech(size: EchoMimicSize) -> WhisperEncoder:
    with torch.device("meta"):
        return WhisperEncoder(**size.speech)


def build_modules(size: str, device: str | torch.device = "meta") -> dict[str, nn.Module]:
    """All networks of EchoMimic by component name, in eval mode, without weights when built on the `meta` device."""
    shape = size_of(size)
    denoising, reference = unet_configs(shape)
    with torch.device(device):
        modules: dict[str, nn.Module] = {
            "denoising_unet": UNet(denoising),
            "reference_unet": UNet(reference),
            "face_locator": FaceLocator(shape.channels[0], 1, LOCATOR_WIDTHS),
            "vae": autoencoder(shape.vae_channels, shape.vae_layers, shape.vae_groups, shape.image_size),
            "whisper": WhisperEncoder(**shape.speech),
        }
    return {name: modules[name].eval().requires_grad_(False) for name in COMPONENTS}


class EchoMimic(TalkingHead):
    """The assembled model, of either variant.

    Args:
        modules: Networks by component name, see `COMPONENTS`; the VAE and the speech encoder may be absent.
        frames: Frames of a window.
        overlap: Frames that neighbouring windows share.
        shift: Frames by which all windows move from one step to the next.
        max_frames: Longer videos end there, as upstream's do.
        reference_dtype: Type to which reference features are rounded on hand-over; upstream always uses float16.
    """

    latent_scale = LATENT_SCALE
    latent_stride = 8

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        frames: int = 12,
        overlap: int = 3,
        shift: int = 2,
        max_frames: int = 1200,
        reference_dtype: torch.dtype | None = torch.float16,
    ) -> None:
        super().__init__(modules, frames=frames, motion_frames=0)
        self.reference_dtype, self.max_frames = reference_dtype, max_frames
        self.schedule = WindowSchedule(size=frames, overlap=overlap, shift=shift)

    @property
    def denoiser(self) -> WindowedUNet:
        """See `TalkingHead.denoiser`: the denoising UNet in moving windows."""
        return WindowedUNet(self.unet, self.schedule)

    def spans(self, constants: ClipConstants) -> list[range]:
        """See `TalkingHead.spans`: one, of all frames."""
        return [range(constants.audio_tokens.shape[0])]

    def passes(self, constants: ClipConstants) -> float:
        """See `TalkingHead.passes`; a video that is shorter than a window counts by its frames."""
        windows = self.schedule.at(0, constants.audio_tokens.shape[0])
        return sum(map(len, windows)) / self.frames

    def cross_tokens(self, constants: ClipConstants) -> tuple[int, int]:
        """See `TalkingHead.cross_tokens`: the sound takes the image's place."""
        return constants.audio_tokens.shape[1], 0

    @property
    def whisper(self) -> WhisperEncoder:
        """The speech encoder."""
        whisper = self.modules["whisper"]
        assert isinstance(whisper, WhisperEncoder)
        return whisper

    def initial_noise(self, draw: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `TalkingHead.initial_noise`; clamped."""
        return draw(shape).clamp(-NOISE_LIMIT, NOISE_LIMIT)

    # ------------------------------------------------------------------ once per clip

    def face_feature(self, region: Tensor) -> Tensor:
        """Feature map (1, C, h, w) of a face mask (1, H, W) in [0, 1]; the same for all frames."""
        return self.modules["face_locator"](region[None].to(self.device, self.dtype))

    def prepare(self, inputs: ClipInputs, *, guided: bool, fps: float) -> ClipConstants:
        """See `TalkingHead.prepare`.

        There are as many frames as upstream makes, one or two more than the sound is long: the loop that the windows
        run on has them too.
        """
        tokens = frame_tokens(whisper_features(self.whisper, inputs.waveform), fps)
        if tokens.shape[0] > self.max_frames:
            log.warning("%d frames asked for, %d made (model.window.max_frames)", tokens.shape[0], self.max_frames)
        return ClipConstants(
            portrait=inputs.portrait.to(self.device),
            image_tokens=None,
            audio_tokens=tokens[: self.max_frames].to(self.device, self.dtype),
            masks=[level.to(self.device, self.dtype) for level in mask_levels(inputs)],
            face_feature=self.face_feature(inputs.face_region[:1]),
            branches=2 if guided else 1,
        )

    # ------------------------------------------------------------------ once per segment

    def meta_constants(self, image_size: int, branches: int) -> ClipConstants:
        """See `TalkingHead.meta_constants`; of one window."""
        side, tokens = image_size // self.latent_stride, (sum(RADIUS) + 1) * self.whisper.depths
        return ClipConstants(
            portrait=self._empty(3, image_size, image_size),
            image_tokens=None,
            audio_tokens=self._empty(self.frames, tokens, self.whisper.width),
            masks=self._empty_masks(image_size),
            face_feature=self._empty(1, self.unet.config.channels[0], side, side),
            branches=branches,
        )

    def write_reference(
        self, constants: ClipConstants, reference_latents: Tensor, unread: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """See `TalkingHead.write_reference`; every branch has the same features."""
        return self.reference_bank(reference_latents, self._left_out(unread))

    def segment_conditions(
        self, constants: ClipConstants, bank: Mapping[str, Tensor], first_frame: int, unread: Collection[str] = ()
    ) -> Conditions:
        """See `TalkingHead.segment_conditions`; the one segment has all frames."""
        audio = constants.audio_tokens[first_frame:]
        return self.conditions(bank, audio, constants.face_feature, branches=constants.branches, unread=unread)

    def reference_bank(self, reference_latents: Tensor, unread: Collection[str] = ()) -> dict[str, Tensor]:
        """Reference features (1, L, C) of a portrait's latents (1, 4, h, w)."""
        bank, _ = self.reference_unet.write_features(reference_latents.to(self.dtype), None, unread=unread)
        if self.reference_dtype is None:
            return bank
        return {site: features.to(self.reference_dtype).to(self.dtype) for site, features in bank.items()}

    def conditions(
        self,
        bank: Mapping[str, Tensor],
        audio_tokens: Tensor,
        face_feature: Tensor,
        *,
        branches: int,
        unread: Collection[str] = (),
    ) -> Conditions:
        """Everything the denoising UNet needs for a window, or for a whole video.

        The unconditional branch hears zeros, sees no face feature and no reference.

        Args:
            bank: See `reference_bank`.
            audio_tokens: (frames, tokens, dim).
            face_feature: (1, C, h, w).
            branches: Guidance branches.
            unread: Layers whose portrait features are not projected.
        """
        silent, blank = [torch.zeros_like(audio_tokens)], [torch.zeros_like(face_feature)]
        frames = audio_tokens.shape[0]
        references = self.unet.site_conditions(
            {site: features.expand(branches, -1, -1) for site, features in bank.items()},
            None,
            None,
            branches=branches,
            frames=frames,
            row_rule="branch",
            unread=unread,
        )
        sites = TokenSites(self.unet, references, torch.stack([*silent * (branches - 1), audio_tokens]))
        feature = torch.stack([*blank * (branches - 1), face_feature])
        return Conditions(branches, frames, sites, pixel_feature=feature)
