"""The written protocol of each metric: one frozen value that decides its number, apart from the videos.

A protocol is versioned and hashed into every score. Scores with different hashes, or different n, are different
measurements and never share a column. Fields marked `_AFTER` act on features that are already there: changing one
changes the score's hash, not the features' (`feature_hash`), which are read from the cache as before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from metrics.errors import MetricError
from metrics.nets.i3d import MIN_FRAMES, VARIANTS, Variant
from metrics.nets.lpips import PLANS, Trunk
from metrics.pixels import Border
from metrics.resize import I3dResize, InceptionResize

Covariance = Literal["n-1", "n"]
_AFTER: dict[str, Any] = {"after_features": True}
HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class BackboneId:
    """Which weights a backbone had: its name, their identity (`sha256:...` or `seeded-v1:0`) and a label for tables."""

    name: str
    identity: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What all metrics share.

    Attributes:
        version: raised when the meaning of a protocol changes although no field does.
        fps: frame rate that every video must have; nothing is resampled silently.
        codec: how frames come out of a file.
        backbones: networks and their weights; filled in when they are loaded.
        bootstrap: resamples of clips for an interval; 0 for none.
        seed: of the resampling.
    """

    metric: ClassVar[str] = ""

    version: int = 1
    fps: float = 25.0
    codec: str = "as stored, decoded by FFmpeg to 8-bit RGB"
    backbones: tuple[BackboneId, ...] = ()
    bootstrap: int = field(default=200, metadata=_AFTER)
    seed: int = field(default=0, metadata=_AFTER)

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.bootstrap < 0:
            raise MetricError(
                f"expected fps > 0 and bootstrap >= 0 in the {self.metric} protocol, got {self.fps} and "
                f"{self.bootstrap}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The protocol as JSON values, with the metric's name."""
        return {"metric": self.metric, **asdict(self)}

    @property
    def hash(self) -> str:
        """16 hex digits over everything; part of each score."""
        return _digest(self.as_dict())

    @property
    def feature_hash(self) -> str:
        """16 hex digits over what the features of one video depend on, without the weights."""
        late = {each.name for each in fields(self) if each.metadata.get("after_features")} | {"backbones"}
        return _digest({key: value for key, value in self.as_dict().items() if key not in late})

    @property
    def weights_hash(self) -> str:
        """16 hex digits over the identities of the backbones."""
        return _digest([[each.name, each.identity] for each in self.backbones])

    @property
    def label(self) -> str:
        """`public` when every backbone has its published weights, else the other labels."""
        return ", ".join(sorted({each.label for each in self.backbones})) or "no backbone"

    def with_backbones(self, *backbones: BackboneId) -> Self:
        """The same protocol with these networks."""
        return replace(self, backbones=backbones)


@dataclass(frozen=True, slots=True, kw_only=True)
class FvdProtocol(Protocol):
    """Fréchet video distance (Unterthiner et al. 2018) of I3D logits of non-overlapping windows.

    Attributes:
        variant: I3D variant; the numbers of two variants are different measurements.
        window: frames per feature.
        stride: frames between the starts of two windows.
        first_frame: start of the first window.
        resize: see `metrics.resize.i3d_input`.
        covariance: over N - 1 (pytorch-fid and most others) or N (StyleGAN-V).
    """

    metric: ClassVar[str] = "fvd"

    variant: Variant = "videogpt"
    window: int = 16
    stride: int = 16
    first_frame: int = 0
    resize: I3dResize = "direct"
    value_range: str = "RGB in [-1, 1]"
    feature: str = "400 logits, mean over time"
    covariance: Covariance = field(default="n-1", metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        if self.window < MIN_FRAMES or self.stride < 1 or self.first_frame < 0 or self.variant not in VARIANTS:
            raise MetricError(
                f"expected window >= {MIN_FRAMES}, stride >= 1, first_frame >= 0 and a variant of {sorted(VARIANTS)}, "
                f"got {self.window}, {self.stride}, {self.first_frame} and {self.variant!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FidProtocol(Protocol):
    """Fréchet Inception distance (Heusel et al. 2017) of all frames of all videos.

    Attributes:
        resize: see `metrics.resize.inception_input`.
        stride: every how manieth frame counts.
        covariance: as for FVD.
        bootstrap: few, since one resample of 10,000 frames takes many seconds.
    """

    metric: ClassVar[str] = "fid"

    resize: InceptionResize = "pytorch_fid"
    stride: int = 1
    value_range: str = "RGB in [-1, 1]"
    feature: str = "2048 numbers of the last average pool"
    covariance: Covariance = field(default="n-1", metadata=_AFTER)
    bootstrap: int = field(default=20, metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        if self.stride < 1:
            raise MetricError(f"expected a stride of at least 1 frame, got {self.stride}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EfidProtocol(Protocol):
    """Fréchet distance of expression coefficients (EMO, arXiv 2402.17485; Deep3DFaceRecon, arXiv 1903.08527).

    Attributes:
        landmarks: who finds the five points that the face is aligned by; the numbers of two finders differ.
        stride: every how manieth frame counts.
        coefficients: slice of the 257 numbers; 80 to 144 is expression.
        alignment: how the points become a crop.
        covariance: as for FVD.
    """

    metric: ClassVar[str] = "efid"

    landmarks: str = ""
    stride: int = 1
    coefficients: tuple[int, int] = (80, 144)
    alignment: str = "Deep3DFaceRecon: affine camera, scale 102, Pillow bicubic, 224 x 224"
    value_range: str = "RGB in [0, 1]"
    covariance: Covariance = field(default="n-1", metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        low, high = self.coefficients
        if self.stride < 1 or not 0 <= low < high <= 257:
            raise MetricError(
                f"expected a stride of at least 1 and a slice of 0..257, got {self.stride} and {self.coefficients}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncProtocol(Protocol):
    """LSE-C, LSE-D and offset of SyncNet on tracked faces (Chung & Zisserman 2016; Prajwal et al. 2020).

    Attributes:
        detector: who finds faces; `s3fd` is the published one.
        min_score: detections below do not count (S3FD's probability).
        detector_scale: the detector sees the frame at this size.
        min_iou, max_gap, min_detections, min_size: see `metrics.tracks.TrackRules`. The published pipeline asks for
            more than 100 detections (4.04 s); 50 keeps clips of two seconds and more, as LatentSync does.
        crop_share: added around the face's box, as a share of its side.
        max_shift: largest offset looked at, frames.
        media: `lossless`: frames and sound as decoded. The published pipeline codes them four times in between.
        shots: one shot per clip, no scene detection.
    """

    metric: ClassVar[str] = "sync"

    detector: str = "s3fd"
    min_score: float = 0.9
    detector_scale: float = 0.25
    min_iou: float = 0.5
    max_gap: int = 25
    min_detections: int = 50
    min_size: float = 100.0
    crop_share: float = 0.4
    max_shift: int = 15
    sample_rate: int = 16000
    media: str = "lossless"
    shots: str = "one per clip"
    reduction: str = "mean over the tracks of a video"
    bootstrap: int = field(default=2000, metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        if (self.fps, self.sample_rate) != (25.0, 16000):
            raise MetricError(f"SyncNet is trained at 25 fps and 16 kHz, got {self.fps} and {self.sample_rate}")
        if not 0 <= self.min_iou < 1 or self.min_detections < 1 or self.max_shift < 1:
            raise MetricError("expected 0 <= min_iou < 1, min_detections >= 1 and max_shift >= 1 in the sync protocol")


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityProtocol(Protocol):
    """PSNR, SSIM and LPIPS of aligned frames.

    Attributes:
        against: what the other video is: the model's own unaccelerated output with the same seed (what acceleration
            changed), or the ground truth (mostly head-pose mismatch). Two measurements, two names.
        trunk: LPIPS network.
        border: see `metrics.pixels.ssim`.
        psnr: how frames become a video's number.
    """

    metric: ClassVar[str] = "fidelity"

    against: Literal["unaccelerated", "ground truth"] = "unaccelerated"
    trunk: Trunk = "alex"
    border: Border = "valid"
    psnr: str = "per frame, 100 dB below a squared error of 1e-10, mean over frames"
    lpips: str = "v0.1, [-1, 1], no resize, mean over frames"
    bootstrap: int = field(default=2000, metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        if self.trunk not in PLANS:
            raise MetricError(f"expected an LPIPS trunk of {sorted(PLANS)}, got {self.trunk!r}")


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
