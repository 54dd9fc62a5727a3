"""How the face moves apart from the mouth: emotions, blinks, head pose and gaze.

Smooth noise is cut from a longer series: with padded edges its variance would grow at the ends of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic.speech import FPS
from lcp_bench.data.synthetic.streams import MOTION, generator
from lcp_bench.errors import DatasetError

Floats = NDArray[np.float32]

Family = Literal["synth_hdtf", "synth_mead"]
FAMILIES: Final = get_args(Family)
LEVELS = (1, 2, 3)
EMOTIONS: Final[dict[str, tuple[float, float, float, float]]] = {
    "neutral": (0.0, 0.0, 0.0, 0.0),
    "angry": (-0.45, -0.6, 0.95, 0.3),
    "contempt": (0.25, -0.1, 0.35, -0.6),
    "disgusted": (-0.75, -0.5, 0.5, -0.6),
    "fear": (-0.35, 0.75, -0.6, 0.85),
    "happy": (0.95, 0.2, 0.0, -0.25),
    "sad": (-0.85, 0.1, -0.9, -0.5),
    "surprised": (0.15, 1.0, 0.0, 0.9),
}
"""MEAD's emotions as smile, brow, furrow, lids at the highest level."""
BLINK = (0.55, 1.0, 0.8, 0.3)
POSE_SPREAD: Final[dict[str, float]] = {"synth_hdtf": 1.0, "synth_mead": 0.3}
POSE_SCALE = (0.24, 0.12, 0.085, 0.05, 0.03)
POSE_LIMITS = (0.6, 0.32, 0.25, 0.12, 0.08)
"""Yaw, pitch, roll in radians, x and y in half pictures: standard deviation of the free pose, and its bounds."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Per frame, all float32.

    Attributes:
        expression: (frames, 5): smile, brow (raised), furrow (inner ends down) and lids (wide) in -1..1, blink in 0..1.
        pose: (frames, 5): yaw (to the right of the picture), pitch (down), roll (clockwise) in radians, x and y in
            half pictures.
        gaze: (frames, 2): right and down, -1..1.
    """

    expression: Floats
    pose: Floats
    gaze: Floats


def draw_motion(
    root: int, person: int, take: int, mouth: Floats, family: str, emotion: str = "neutral", level: int = 1,
    reroll: int = 0,
) -> Motion:  # fmt: skip
    """Move the face for as long as the mouth does.

    Args:
        root: Seed of the data set.
        person: Number of the person.
        take: Number of the take.
        mouth: (frames, 4), of `Take`; brows and nods follow its opening a little.
        family: `synth_hdtf` (free pose) or `synth_mead` (little of it).
        emotion: One of `EMOTIONS`.
        level: 1 to 3.
        reroll: 0 for the take itself; any other number gives other motion for the same take.

    Raises:
        DatasetError: Unknown family, emotion or level.
    """
    if family not in FAMILIES or emotion not in EMOTIONS or level not in LEVELS:
        raise DatasetError(
            f"expected a family of {', '.join(FAMILIES)}, an emotion of {', '.join(EMOTIONS)} and a level of 1 to 3, "
            f"got {family!r}, {emotion!r}, {level!r}"
        )
    rng = generator(root, MOTION, person, take, *((reroll,) if reroll else ()))
    frames, opening = mouth.shape[0], mouth[:, 0].astype(np.float64)
    expression = np.zeros((frames, 5))
    expression[:, :4] = np.array(EMOTIONS[emotion]) * (level / 3) + 0.12 * smooth_noise(rng, frames, 4, 0.8)
    expression[:, 1] += 0.25 * (opening - 0.3)
    expression[:, :4] = np.clip(expression[:, :4], -1, 1)
    expression[:, 4] = _blinks(rng, frames)
    pose = smooth_noise(rng, frames, 5, 0.7) * np.array(POSE_SCALE) * POSE_SPREAD[family]
    pose[:, 1] += 0.05 * (opening - 0.3)
    pose = np.clip(pose, -np.array(POSE_LIMITS), POSE_LIMITS)
    gaze = np.clip(0.4 * smooth_noise(rng, frames, 2, 0.4), -1, 1)
    return Motion(expression.astype(np.float32), pose.astype(np.float32), gaze.astype(np.float32))


def smooth_noise(rng: np.random.Generator, frames: int, channels: int, seconds: float) -> NDArray[np.float64]:
    """Gaussian noise (frames, channels) of unit variance everywhere, correlated over about `seconds`."""
    blur = seconds * FPS / 2
    reach = int(np.ceil(3 * blur))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / blur) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    series = rng.standard_normal((frames + 2 * reach, channels))
    return np.stack([np.convolve(series[:, index], kernel, mode="valid") for index in range(channels)], axis=1)


def _blinks(rng: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """A blink of four frames every 1.5 to 4 seconds."""
    track = np.zeros(frames + len(BLINK))
    start = int(rng.uniform(0.2, 2.5) * FPS)
    while start < frames:
        track[start : start + len(BLINK)] = BLINK
        start += int(rng.uniform(1.5, 4.0) * FPS)
    return track[:frames]
