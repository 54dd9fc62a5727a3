"""Overlapping windows over a whole video, as EchoMimic moves them from step to step: index arithmetic only.

A window is a tuple of frame numbers. The video is a loop: windows run over its end, and its last frame is followed by
the first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lcp_bench.errors import ConfigError

Window = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSchedule:
    """Windows of every denoising step.

    Attributes:
        size: Frames of a window.
        overlap: Frames that neighbouring windows share.
        shift: Frames by which all windows move from one step to the next.
    """

    size: int = 12
    overlap: int = 3
    shift: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ConfigError(
                f"the overlap of windows must be in 0..{self.size - 1} for windows of {self.size} frames, "
                f"got {self.overlap}"
            )

    def at(self, step: int, frames: int) -> tuple[Window, ...]:
        """The windows of a step; together they cover every frame, and none has a frame twice.

        Args:
            step: Denoising step, from 0.
            frames: Frames of the video.
        """
        return shifted(uniform_windows(frames, size=self.size, overlap=self.overlap), self.shift * step, frames)

    def counts(self, step: int, frames: int) -> list[int]:
        """How many windows of a step cover each frame."""
        counts = [0] * frames
        for window in self.at(step, frames):
            for frame in window:
                counts[frame] += 1
        return counts


def uniform_windows(frames: int, *, size: int, overlap: int, stride: int = 1, step: int = 0) -> tuple[Window, ...]:
    """AnimateDiff's `uniform` context schedule on a closed loop.

    Args:
        frames: Frames of the video, >= 1.
        size: Frames of a window.
        overlap: Frames that neighbouring windows of the densest stride share, < size.
        stride: Strides 1, 2, 4, ... of which there are up to this many; EchoMimic has 1, i.e. consecutive frames. On
            a short video a window of a larger stride can have a frame twice.
        step: Moves the windows by a bit-reversed fraction of the video. EchoMimic always asks for step 0, which does
            not, and shifts them itself.

    Returns:
        The windows: one with all frames if they fit into it, otherwise windows of exactly `size` frames.
    """
    if frames <= size:
        return (tuple(range(frames)),)
    fraction = int(f"{step:064b}"[::-1], 2) / 2**64
    pad = round(frames * fraction)
    windows = []
    for level in range(min(stride, math.ceil(math.log2(frames / size)) + 1)):
        hop = 2**level
        starts = range(int(fraction * hop) + pad, frames + pad, size * hop - overlap)
        windows += [tuple((start + place * hop) % frames for place in range(size)) for start in starts]
    return tuple(windows)


def shifted(windows: tuple[Window, ...], offset: int, frames: int) -> tuple[Window, ...]:
    """All windows, moved by `offset` frames around the loop of `frames` frames."""
    return tuple(tuple((frame + offset) % frames for frame in window) for window in windows)
