"""Frames and sound of one video file, or the named reason why there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcp_bench.video import MediaError, probe, read_audio, read_video
from metrics.errors import VideoGap
from metrics.mfcc import pcm16

FPS_TOLERANCE = 0.01


def read_frames(path: Path, fps: float) -> NDArray[np.uint8]:
    """All frames of a video.

    Args:
        path: any file that FFmpeg reads.
        fps: the frame rate it must have.

    Returns:
        uint8 (F, H, W, 3), RGB.

    Raises:
        VideoGap: undecodable, no picture, or another frame rate.
    """
    try:
        found = probe(path).fps
        if found is not None and abs(found - fps) > FPS_TOLERANCE:
            raise VideoGap(
                f"{path.name} has {found:g} frames per second, the protocol says {fps:g}; convert the video beforehand",
                reason="frame rate",
            )
        return read_video(path)
    except MediaError as error:
        raise VideoGap(str(error), reason="undecodable") from error


def read_sound(path: Path, sample_rate: int = 16000) -> NDArray[np.int16]:
    """The sound of a video as 16-bit values of one channel, int16 (samples,).

    Raises:
        VideoGap: no sound stream, an empty one, or undecodable.
    """
    try:
        if not probe(path).has_audio:
            raise VideoGap(
                f"{path.name} has no sound; lip-sync needs the driving speech in the file", reason="no sound"
            )
        waveform = read_audio(path, sample_rate)
    except MediaError as error:
        raise VideoGap(str(error), reason="undecodable") from error
    if not waveform.size:
        raise VideoGap(f"{path.name} has a sound stream without samples", reason="no sound")
    return pcm16(waveform)
