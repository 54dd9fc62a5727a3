"""Protocols of the `mini` metrics: small networks trained on drawn people, and fixed random filters.

They share no field values, weights or label with the published ones, so their hashes never agree and the scores never
share a column. Version 1 of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from metrics.errors import MetricError
from metrics.nets.mini import (
    ENERGY_FLOOR,
    LIP_FRAMES,
    LIP_HEIGHT,
    LIP_LEFT,
    LIP_TOP,
    LIP_WIDTH,
    MOTION_CLIP,
    SIDE,
    WINDOW,
)
from metrics.protocol import _AFTER, Covariance, FidelityProtocol, Protocol

RESIZE = f"whole frame to {SIDE} x {SIDE} pixels, bilinear, antialiased, 8 bits"


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniFvdProtocol(Protocol):
    """Fréchet distance of random video features of non-overlapping windows.

    Attributes:
        window: frames per feature.
        stride: frames between the starts of two windows.
        feature: what a window becomes.
        resize: what frames of another size go through.
        covariance: over N - 1 or N.
    """

    metric: ClassVar[str] = "fvd_frames"

    window: int = WINDOW
    stride: int = WINDOW
    feature: str = f"64 log energies of random space-time filters on the frames, floor {ENERGY_FLOOR:g}"
    resize: str = RESIZE
    covariance: Covariance = field(default="n-1", metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        if self.window != WINDOW or self.stride < 1:
            raise MetricError(f"expected window {WINDOW} and stride >= 1, got {self.window} and {self.stride}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniFvdMotionProtocol(MiniFvdProtocol):
    """The same on differences of neighbouring frames: features of the frames alone are nearly blind to time."""

    metric: ClassVar[str] = "fvd_motion"

    feature: str = (
        f"64 log energies of random space-time filters on frame differences, clipped at {MOTION_CLIP:g} of the range, "
        f"floor {ENERGY_FLOOR:g}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniFidProtocol(Protocol):
    """Fréchet distance of frame features.

    Attributes:
        feature: what a frame becomes.
        stride: every how manieth frame counts.
        resize: what frames of another size go through.
        covariance: over N - 1 or N.
        bootstrap: few, since one resample of thousands of frames takes a while.
    """

    metric: ClassVar[str] = "fid"

    feature: str = f"64 of the expression regressor, 64 log energies of random filters, floor {ENERGY_FLOOR:g}"
    stride: int = 1
    resize: str = RESIZE
    covariance: Covariance = field(default="n-1", metadata=_AFTER)
    bootstrap: int = field(default=20, metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        if self.stride < 1:
            raise MetricError(f"expected a stride of at least 1 frame, got {self.stride}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniEfidProtocol(MiniFidProtocol):
    """Fréchet distance of what the regressor says about mouth and expression; no face is looked for."""

    metric: ClassVar[str] = "efid"

    feature: str = "9 outputs of the expression regressor (4 mouth, 5 expression), standardised over its training"
    bootstrap: int = field(default=200, metadata=_AFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniSyncProtocol(Protocol):
    """Agreement of a fixed lower-face window with the sound, over offsets.

    Attributes:
        max_shift: largest offset looked at, frames.
        min_pairs: windows that must meet at the largest offset.
        sample_rate: of the sound.
        window: what the lip tower sees; no face is looked for.
        reduction: how windows become a video's number.
        resize: what frames of another size go through.
    """

    metric: ClassVar[str] = "sync"

    max_shift: int = 12
    min_pairs: int = 12
    sample_rate: int = 16000
    window: str = (
        f"{LIP_FRAMES} grey frames, rows {LIP_TOP}..{LIP_TOP + LIP_HEIGHT - 1}, columns "
        f"{LIP_LEFT}..{LIP_LEFT + LIP_WIDTH - 1}; 20 MFCC vectors"
    )
    reduction: str = "mean distance of unit vectors per offset over the windows that meet; d minimum, c median minus d"
    resize: str = RESIZE
    bootstrap: int = field(default=2000, metadata=_AFTER)

    def __post_init__(self) -> None:
        Protocol.__post_init__(self)
        if (self.fps, self.sample_rate) != (25.0, 16000) or self.max_shift < 1 or self.min_pairs < 1:
            raise MetricError("the mini SyncNet needs 25 fps, 16 kHz, max_shift >= 1 and min_pairs >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniFidelityProtocol(FidelityProtocol):
    """PSNR and SSIM as in `FidelityProtocol`, and a distance in the regressor's features in place of LPIPS.

    Attributes:
        distance: how frames become that distance.
        resize: what frames of another size go through, for that distance only.
    """

    metric: ClassVar[str] = "fidelity"

    distance: str = "expression regressor, 4 layers, unit channel vectors, squared differences, mean; no LPIPS"
    resize: str = RESIZE

    def as_dict(self) -> dict[str, Any]:
        """Without the settings of LPIPS, which takes no part."""
        return {key: value for key, value in FidelityProtocol.as_dict(self).items() if key not in ("trunk", "lpips")}
