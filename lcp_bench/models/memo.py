"""MEMO (Zheng et al. 2024, arXiv 2412.04448) as a configuration of the family.

Portrait and past frames pass once per segment through the reference UNet. The denoising UNet reads the portrait's
features, lets image and audio tokens attend to each other under an emotion, and looks along time through a memory of
the past frames that fades from segment to segment. Facts that are reproduced: conditional rows cycle through both
branches' reference rows, the reference UNet's rows cycle through both branches' image tokens, the unconditional branch
hears zeros but has a memory, and its emotion is "none".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lcp_bench.data.audio_features import SAMPLE_RATE_HZ, wav2vec_features, window_frames
from lcp_bench.errors import ConfigError
from lcp_bench.models.audio import AudioProjection
from lcp_bench.models.conditions import Conditions, SiteConditions, split_bank
from lcp_bench.models.emotion import NO_EMOTION, emotion_labels, segment_emotion
from lcp_bench.models.face import ImageProjection
from lcp_bench.models.joint_audio import JointAudioTransformer
from lcp_bench.models.memory import Memory, MemoryModule
from lcp_bench.models.talking_head import ClipConstants, Past, TalkingHead
from lcp_bench.models.unet import UNet
from lcp_bench.schedulers import FlowMatching, StepScheduler

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

    from lcp_bench.data.inputs import ClipInputs

EMOTION_ENCODER = "emotion2vec"
"""The component that is there only where the emotion is to be heard in the sound."""
LATENT_SCALE = 0.18215
"""Scale of Stable Diffusion 1.x latents."""


def write_reference(unet: UNet, reference_latents: Tensor, image_tokens: Tensor) -> dict[str, Tensor]:
    """Features of the portrait and the past frames by layer, plain layers included: (branches * images, L, C).

    Args:
        unet: The reference UNet.
        reference_latents: (1 + past frames, C, h, w).
        image_tokens: (branches, tokens, dim).
    """
    bank, _ = unet.write_features(reference_latents.repeat(image_tokens.shape[0], 1, 1, 1), image_tokens)
    return bank


def segment_conditions(
    unet: UNet,
    bank: Mapping[str, Tensor],
    image_tokens: Tensor,
    audio_tokens: Tensor,
    emotions: Tensor,
    past: Past | None = None,
    unread: Collection[str] = (),
) -> Conditions:
    """Everything the denoising UNet needs for one segment.

    Args:
        unet: The denoising UNet.
        bank: See `write_reference`.
        image_tokens: (branches, tokens, dim).
        audio_tokens: (branches, frames, tokens, dim); see `branch_audio`.
        emotions: Integer label of each branch, (branches,); see `branch_emotions`.
        past: Memories of the clip's earlier segments, which fade and grow in place; None at the start of a clip.
        unread: Layers whose portrait features are not projected, because nobody reads them.
    """
    branches, frames = audio_tokens.shape[:2]
    split, grown = split_bank(bank, branches), {} if past is None else past
    # only the portraits: memories are made below, one layer at a time, so that there are never two of every layer
    sites = unet.site_conditions(
        {name: portrait for name, (portrait, _) in split.items()},
        image_tokens,
        None,
        branches=branches,
        frames=frames,
        row_rule="tiled",
        unread=unread,
    )
    for name, (_, motion) in split.items():
        block, layer, _ = unet._module(name)
        module, site = block.motion_modules[layer], sites.get(name, SiteConditions())
        assert isinstance(module, MemoryModule)
        if name in sites:
            hearing = block.audio_modules[layer]
            assert isinstance(hearing, JointAudioTransformer)
            site = replace(site, styles=hearing.block.styles(emotions.repeat_interleave(frames)))
        grown[name] = _grown(module.remember(motion), grown.get(name))
        sites[name] = replace(site, memory=grown[name])
    return Conditions(branches, frames, sites, audio_stream=audio_tokens.flatten(0, 1))


def _grown(memories: tuple[Memory, ...], before: tuple[Memory, ...] | None) -> tuple[Memory, ...]:
    """Memories of the newest past frames on top of those of earlier segments."""
    if before is None:
        return memories
    return tuple(memory.after(old) for memory, old in zip(memories, before, strict=True))


def branch_audio(tokens: Tensor, branches: int) -> Tensor:
    """Audio tokens (frames, tokens, dim) of each branch; the unconditional one hears zeros."""
    return torch.stack([*[torch.zeros_like(tokens)] * (branches - 1), tokens])


def branch_emotions(label: int, branches: int, device: torch.device | None = None) -> Tensor:
    """Labels of the branches (branches,); the unconditional one has none."""
    return torch.tensor([*[NO_EMOTION] * (branches - 1), label], device=device)


class Memo(TalkingHead):
    """The assembled model: what happens once per segment around the denoising loop.

    Args:
        modules: Networks by component name, see `lcp_bench.models.memo_networks`; `EMOTION_ENCODER` beside them where
            no emotion is given.
        frames: Frames per segment.
        motion_frames: Past frames that the memory learns from at every segment; portraits in front of a clip.
        emotion: The label of all frames, 0..9, where 9 is none; None: heard in the sound, second by second.
    """

    latent_scale = LATENT_SCALE
    latent_stride = 8

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        frames: int = 16,
        motion_frames: int = 16,
        emotion: int | None = None,
    ) -> None:
        super().__init__(modules, frames=frames, motion_frames=motion_frames)
        self.emotion = emotion

    def scheduler(self, num_steps: int) -> StepScheduler:
        """See `TalkingHead.scheduler`."""
        return FlowMatching(num_steps)

    # ------------------------------------------------------------------ once per clip

    def identity_tokens(self, embedding: Tensor) -> Tensor:
        """Image tokens (2, tokens, dim) of an identity embedding (512,): projections of zeros, then of it."""
        rows = torch.stack([torch.zeros_like(embedding), embedding]).to(self.device, self.dtype)
        return self.modules["image_proj"](rows)

    def audio_tokens(self, windows: Tensor) -> Tensor:
        """Audio tokens (frames, tokens, dim) of windowed speech features; projected in float32, as upstream does."""
        projection = self.modules["audio_proj"]
        weight = next(projection.parameters())
        return projection(windows.to(weight.device, weight.dtype)).to(self.device, self.dtype)

    def emotions(self, inputs: ClipInputs, frames: int) -> tuple[Tensor, str]:
        """Label of every frame (frames,) on the host, and where it comes from."""
        if self.emotion is not None:
            return torch.full((frames,), self.emotion), "given"
        encoder, classifier = self.modules.get(EMOTION_ENCODER), self.modules["emotion_classifier"]
        if encoder is None:
            raise ConfigError(
                "expected an emotion label or emotion2vec, got neither; give model.emotion=0..9 (9: none)"
            )
        sound = torch.from_numpy(inputs.waveform).to(self.device, next(classifier.parameters()).dtype)
        return emotion_labels(sound, SAMPLE_RATE_HZ, frames, encoder, classifier), "classified"

    def prepare(self, inputs: ClipInputs, *, guided: bool, fps: float) -> ClipConstants:
        """See `TalkingHead.prepare`; a clip without an identity embedding gets zeros."""
        speech = cast("Wav2Vec2Model", self.modules["wav2vec"])
        features, _ = wav2vec_features(speech, inputs.waveform, fps, self.frames)
        image = self.modules["image_proj"]
        assert isinstance(image, ImageProjection)
        embedding = inputs.face_embedding
        tokens = self.identity_tokens(torch.zeros(image.proj.in_features) if embedding is None else embedding)
        labels, source = self.emotions(inputs, features.shape[0])
        per_segment = [segment_emotion(part) for part in labels.split(self.frames)]
        return ClipConstants(
            portrait=inputs.portrait.to(self.device),
            image_tokens=tokens if guided else tokens[1:],
            audio_tokens=self.audio_tokens(window_frames(features)),
            masks=(),
            face_feature=self._empty(0),
            branches=2 if guided else 1,
            emotions=labels,
            notes={"emotion_source": source, "emotions": per_segment},
        )

    # ------------------------------------------------------------------ once per segment

    def meta_constants(self, image_size: int, branches: int) -> ClipConstants:
        """See `TalkingHead.meta_constants`."""
        image, audio = self.modules["image_proj"], self.modules["audio_proj"]
        assert isinstance(image, ImageProjection) and isinstance(audio, AudioProjection)
        return ClipConstants(
            portrait=self._empty(3, image_size, image_size),
            image_tokens=self._empty(branches, image.tokens, image.token_dim),
            audio_tokens=self._empty(self.frames, audio.tokens, audio.token_dim),
            masks=(),
            face_feature=self._empty(0),
            branches=branches,
            emotions=torch.zeros(self.frames, dtype=torch.int64, device="cpu"),
        )

    def write_reference(
        self, constants: ClipConstants, reference_latents: Tensor, unread: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """See `TalkingHead.write_reference`; nothing is left out, the memory needs every layer's past frames."""
        assert constants.image_tokens is not None
        return write_reference(self.reference_unet, reference_latents.to(self.dtype), constants.image_tokens)

    def segment_conditions(
        self, constants: ClipConstants, bank: Mapping[str, Tensor], first_frame: int, unread: Collection[str] = ()
    ) -> Conditions:
        """See `TalkingHead.segment_conditions`; of a clip's first segment."""
        return self.conditions_after(constants, bank, first_frame, {}, unread)

    def conditions_after(
        self,
        constants: ClipConstants,
        bank: Mapping[str, Tensor],
        first_frame: int,
        past: Past,
        unread: Collection[str] = (),
    ) -> Conditions:
        """See `TalkingHead.conditions_after`."""
        assert constants.image_tokens is not None and constants.emotions is not None
        part, branches = slice(first_frame, first_frame + self.frames), constants.branches
        label = segment_emotion(constants.emotions[part])
        return segment_conditions(
            self.unet,
            bank,
            constants.image_tokens,
            branch_audio(constants.audio_tokens[part], branches),
            branch_emotions(label, branches, self.device),
            past,
            unread,
        )
