"""One clip of the data set: who, what is said, how the face moves, and the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic.background import draw_background
from lcp_bench.data.synthetic.motion import EMOTIONS, FAMILIES, LEVELS, Motion, draw_motion
from lcp_bench.data.synthetic.people import Person, draw_person
from lcp_bench.data.synthetic.render import Rendered, render
from lcp_bench.data.synthetic.speech import FPS, Take, make_speech
from lcp_bench.data.synthetic.streams import BACKGROUND, PLAN, SPLITS, Split, generator, split_of
from lcp_bench.errors import DatasetError

__all__ = ["FAMILIES", "FAMILY_ROOTS", "SPLITS", "Split", "SyntheticClip", "clip_id", "make_clip", "split_of"]

Floats = NDArray[np.float32]

FAMILY_ROOTS = {"synth_hdtf": 1, "synth_mead": 2}
"""Seed of each family; a held-out evaluation takes another one."""
FAMILY_SECONDS = {"synth_hdtf": (4.0, 10.0), "synth_mead": (2.0, 4.0)}
LETTERS = {"synth_hdtf": "h", "synth_mead": "m"}


@dataclass(frozen=True, slots=True)
class SyntheticClip:
    """A clip with everything that is known about it.

    Attributes:
        family: `synth_hdtf` or `synth_mead`.
        root: Seed of the data set.
        person_id: Number of the person.
        take: Number of the take.
        reroll: 0, or the number of other motion for the same take.
        emotion: One of `EMOTIONS`.
        level: Its strength, 1 to 3.
        person: The identity's parameters.
        speech: Sound, mouth, phonemes, visemes.
        motion: Expression, pose, gaze.
        background: float32 (size, size, 3), or (frames, size, size, 3) if it moves.
        rendered: Pictures, masks, boxes, landmarks.
    """

    family: str
    root: int
    person_id: int
    take: int
    reroll: int
    emotion: str
    level: int
    person: Person
    speech: Take
    motion: Motion
    background: Floats
    rendered: Rendered

    @property
    def id(self) -> str:
        """Name of the clip, the same for all re-rolls."""
        return clip_id(self.family, self.person_id, self.take)

    @property
    def frames(self) -> NDArray[np.uint8]:
        """uint8 (frames, size, size, 3)."""
        return self.rendered.frames

    @property
    def waveform(self) -> NDArray[np.int16]:
        """int16 (frames * 640,), 16 kHz mono."""
        return self.speech.waveform

    @property
    def sound(self) -> Floats:
        """The waveform as float32 in [-1, 1)."""
        return np.asarray(self.waveform / np.float32(32768), dtype=np.float32)

    @property
    def mouth(self) -> Floats:
        """(frames, 4): open, width, round, contact."""
        return self.speech.mouth


def clip_id(family: str, person: int, take: int) -> str:
    """Stable name of a clip, e.g. `h_232_0`."""
    return f"{LETTERS[family]}_{person}_{take}"


def make_clip(
    family: str,
    root: int | None,
    person: int,
    take: int,
    frames: int | None = None,
    size: int = 64,
    reroll: int = 0,
    moving_background: bool = False,
    emotion: str | None = None,
    level: int | None = None,
) -> SyntheticClip:
    """Make one clip.

    Args:
        family: `synth_hdtf` (neutral, free pose, textured background, 4 to 10 s) or `synth_mead` (eight emotions,
            little pose, plain background, 2 to 4 s).
        root: Seed of the data set; None takes the family's own.
        person: Number of the person.
        take: Number of the take.
        frames: Length in frames of 1/25 s; None takes the take's own.
        size: Side of the pictures in pixels.
        reroll: Any other number than 0 gives the same person, background, sound and mouth with other motion.
        moving_background: Let the shapes of the background drift.
        emotion: One of `EMOTIONS`; None takes the take's own.
        level: 1 to 3; None takes the take's own.

    Raises:
        DatasetError: Unknown family, emotion or level, no frames, or numbers that are negative or too large.
    """
    if family not in FAMILIES:
        raise DatasetError(f"expected a family of {', '.join(FAMILIES)}, got {family!r}")
    root = FAMILY_ROOTS[family] if root is None else root
    low, high = FAMILY_SECONDS[family]
    plan = generator(root, PLAN, person, take)
    own_frames = int(plan.integers(round(low * FPS), round(high * FPS) + 1))
    frames = own_frames if frames is None else frames
    own_emotion, own_level = _emotion(family, person, take)
    emotion, level = emotion or own_emotion, own_level if level is None else level
    who = draw_person(root, person)
    speech = make_speech(who, root, person, take, frames)
    motion = draw_motion(root, person, take, speech.mouth, family, emotion, level, reroll)
    background = draw_background(
        generator(root, BACKGROUND, person, take),
        size,
        plain=family == "synth_mead",
        drift_frames=frames if moving_background else None,
    )
    rendered = render(who, speech.mouth, motion.expression, motion.pose, motion.gaze, background, size)
    return SyntheticClip(family, root, person, take, reroll, emotion, level, who, speech, motion, background, rendered)


def _emotion(family: str, person: int, take: int) -> tuple[str, int]:
    """Emotions take turns over people and takes, so that eight neighbouring people show all of them."""
    if family != "synth_mead":
        return "neutral", 1
    return tuple(EMOTIONS)[(person + take) % len(EMOTIONS)], LEVELS[(person // 8 + take // 8) % len(LEVELS)]
