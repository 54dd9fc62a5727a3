"""From one clip of the manifest to the tensors a model takes, as Hallo's public inference code prepares them.

Bad input raises `ClipError` with the clip and the stage (`read`, `face` or `audio`), never anything else, so that a
run can go on with the next clip. Deviations: a portrait beyond 1:3 is refused (upstream squeezes any); silent sound is
refused; a portrait without a face is refused (upstream fails there too, inside its landmarker).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lcp_bench.data.audio_features import SAMPLE_RATE_HZ, count_frames
from lcp_bench.data.face_parsing import FaceParser
from lcp_bench.data.faces import FaceError
from lcp_bench.data.foreground import read_foreground
from lcp_bench.data.framing import FramedPortrait, framed_portrait
from lcp_bench.data.images import ImageError, read_portrait
from lcp_bench.data.locate import LocatedFace, locate_face
from lcp_bench.data.manifest import Clip
from lcp_bench.data.masks import FaceRectangles, attention_masks, face_region, rectangles_from_box
from lcp_bench.errors import ClipError
from lcp_bench.model_config import FaceCropConfig
from lcp_bench.video import MediaError, read_audio

SILENCE_DBFS = -60.0
EMBEDDING_SIZE = 512


@dataclass(frozen=True, slots=True)
class ModelInputSpec:
    """What a model wants.

    Attributes:
        image_size: Side of the square picture in pixels.
        latent_size: Side of the latent, i.e. of the finest attention masks.
        fps: Frames per second of the result.
        frames_per_segment: Frames denoised together.
        face_expand_ratio: Growth of the face box.
        levels: Resolution levels with masks.
        sample_rate: Rate of the waveform in Hz.
        lip_expand_ratio: Growth of the lip box.
        max_seconds: Cut the speech to this length; None takes all of it.
        face_detector: For clips whose manifest has no box; see `lcp_bench.data.locate`.
        insightface_root: Folder of upstream's ONNX files for `insightface`.
        face_crop: The square around the face that is animated; None takes the whole portrait.
    """

    image_size: int
    latent_size: int
    fps: float
    frames_per_segment: int
    face_expand_ratio: float = 1.2
    levels: int = 4
    sample_rate: int = SAMPLE_RATE_HZ
    lip_expand_ratio: float = 2.0
    max_seconds: float | None = None
    face_detector: str = "cascade"
    insightface_root: str | None = None
    face_crop: FaceCropConfig | None = None
    face_parser: FaceParser | None = None


@dataclass(frozen=True, slots=True)
class ClipInputs:
    """One clip, ready for a model.

    Attributes:
        clip: The manifest's entry.
        portrait: float32 (3, S, S) in [-1, 1].
        face_embedding: float32 (512,), raw; None when nobody gave one.
        face_region: float32 (3, S, S) in [0, 1].
        masks: "full" (outside of the face), "face", "lip" to one (1, L_l) in [0, 1] per level, finest first.
        waveform: float32 (samples,), 16 kHz mono in [-1, 1], not normalised.
        frame_count: Frames of the result, before padding to whole segments.
        foreground: The portrait's foreground for strategies that restrict attention to it: (H, W) in [0, 1], any size;
            the manifest's file as large as the portrait was, else what the face parser finds, else the face region,
            i.e. the widened face box.
        notes: Facts for the record: `face_source`, `landmarks_source`, `embedding`, `foreground_source`,
            `portrait_size`.
    """

    clip: Clip
    portrait: torch.Tensor
    face_embedding: torch.Tensor | None
    face_region: torch.Tensor
    masks: dict[str, tuple[torch.Tensor, ...]]
    waveform: NDArray[np.float32]
    frame_count: int
    foreground: torch.Tensor
    notes: dict[str, Any] = field(default_factory=dict)


def prepare_clip(clip: Clip, spec: ModelInputSpec) -> ClipInputs:
    """Read and convert one clip.

    Args:
        clip: An entry of a manifest.
        spec: The model's needs.

    Returns:
        Everything on the CPU.

    Raises:
        ClipError: Unreadable portrait, foreground or sound (`read`), no or several faces (`face`), silent or too short
            sound (`audio`); the message says what to do.
        ConfigError: The chosen face detector is not available.
    """
    try:
        image = read_portrait(clip.image, clip.video)
        height, width = image.shape[:2]
        given = None if clip.foreground is None else read_foreground(clip.foreground, width, height)
        waveform = read_audio(clip.audio, spec.sample_rate)
    except (ImageError, MediaError) as error:
        raise ClipError(str(error), clip=clip.id, stage="read") from error
    waveform = _usable_sound(clip, waveform, spec)
    try:
        face = locate_face(clip, image, spec.face_detector, spec.insightface_root)
    except FaceError as error:
        raise ClipError(f"{clip.image or clip.video}: {error}", clip=clip.id, stage="face") from error
    whole = FramedPortrait(image, face, clip.lip_box, given, None, {})
    taken = framed_portrait(whole, spec.face_crop, spec.image_size)
    rectangles = _rectangles(taken, spec)
    masks = attention_masks(rectangles, spec.latent_size, spec.levels)
    embedding, embedding_source = _embedding(clip, face)
    region = torch.from_numpy(face_region(rectangles, spec.image_size))
    foreground, foreground_source = _foreground(taken, spec, region)
    return ClipInputs(
        clip=clip,
        portrait=portrait_tensor(taken.image, spec.image_size),
        face_embedding=embedding,
        face_region=region if taken.region is None else taken.region,
        masks={name: tuple(torch.from_numpy(each) for each in levels) for name, levels in masks.items()},
        waveform=waveform,
        frame_count=count_frames(waveform.size, spec.fps, spec.sample_rate),
        foreground=foreground,
        notes={
            "face_source": face.source,
            "landmarks_source": _landmarks_source(clip, face),
            "embedding": embedding_source,
            "foreground_source": foreground_source,
            "portrait_size": [width, height],
            **taken.notes,
        },
    )


def _rectangles(taken: FramedPortrait, spec: ModelInputSpec) -> FaceRectangles:
    height, width = taken.image.shape[:2]
    box, points = taken.face.box, taken.face.landmarks5
    return rectangles_from_box(box, points, width, height, spec.face_expand_ratio, spec.lip_expand_ratio, taken.lip_box)


def _foreground(taken: FramedPortrait, spec: ModelInputSpec, region: torch.Tensor) -> tuple[torch.Tensor, str]:
    """The foreground and the record's word for its origin: the manifest's file, the face parser, or the face region."""
    if taken.foreground is not None:
        return taken.foreground, "given"
    if spec.face_parser is not None:
        return spec.face_parser.foreground(taken.image)
    return region[0], "face region"


def portrait_tensor(image: NDArray[np.uint8], size: int) -> torch.Tensor:
    """uint8 (height, width, 3) to float32 (3, size, size) in [-1, 1]; bilinear with antialiasing, aspect not kept."""
    resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    return torch.from_numpy(resized / np.float32(127.5) - np.float32(1)).permute(2, 0, 1).contiguous()


def _usable_sound(clip: Clip, waveform: NDArray[np.float32], spec: ModelInputSpec) -> NDArray[np.float32]:
    """The sound cut to `max_seconds`, refused when it is shorter than a frame or silent."""
    if spec.max_seconds is not None:
        waveform = waveform[: round(spec.max_seconds * spec.sample_rate)]
    shortest = spec.sample_rate / spec.fps
    if waveform.size < shortest:
        raise ClipError(
            f"{clip.audio} has {waveform.size / spec.sample_rate:.3f} s of sound, expected at least one frame "
            f"({1 / spec.fps:.3f} s); give a longer recording",
            clip=clip.id,
            stage="audio",
        )
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    level_dbfs = 20 * np.log10(rms) if rms > 0 else -np.inf
    if level_dbfs < SILENCE_DBFS:
        where = "" if spec.max_seconds is None else f" in its first {spec.max_seconds:g} s"
        raise ClipError(
            f"{clip.audio} is silent{where} ({level_dbfs:.0f} dBFS, expected {SILENCE_DBFS:.0f} or more); "
            "give audible speech",
            clip=clip.id,
            stage="audio",
        )
    return waveform


def _embedding(clip: Clip, face: LocatedFace) -> tuple[torch.Tensor | None, str]:
    """The identity embedding and its origin: the manifest's file, insightface, or absent."""
    if clip.embedding is None:
        if face.embedding is None:
            return None, "absent"
        return torch.from_numpy(face.embedding), "insightface"
    path = Path(clip.embedding)
    try:
        values = (
            np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=_delimiter(path))
        )
        vector = np.asarray(values, dtype=np.float32).reshape(-1)
    except (OSError, ValueError) as error:
        raise ClipError(
            f"{path} cannot be read as {EMBEDDING_SIZE} numbers ({error}); give an .npy or text file",
            clip=clip.id,
            stage="read",
        ) from error
    if vector.size != EMBEDDING_SIZE or not np.isfinite(vector).all():
        raise ClipError(
            f"{path} holds {vector.size} numbers, expected {EMBEDDING_SIZE} finite ones (insightface glintr100, raw)",
            clip=clip.id,
            stage="read",
        )
    return torch.from_numpy(vector), "given"


def _delimiter(path: Path) -> str | None:
    return "," if path.suffix == ".csv" and "," in path.read_text(encoding="utf-8") else None


def _landmarks_source(clip: Clip, face: LocatedFace) -> str:
    if clip.landmarks5 is not None and clip.box_source != "insightface":
        return "given"
    return "insightface" if "insightface" in (clip.box_source, face.source) else "estimated from the box"
