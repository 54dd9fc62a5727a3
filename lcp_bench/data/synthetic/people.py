"""Who is shown: the parameters of a drawn person and of a voice.

Lengths are in half pictures (the picture spans -1..1, y downwards), colours are RGB 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lcp_bench.data.synthetic.streams import IDENTITY, generator

Colour = tuple[float, float, float]

LIGHT_SKIN, DARK_SKIN = (0.97, 0.83, 0.73), (0.42, 0.27, 0.19)
LIP_RED = (0.78, 0.22, 0.26)
HAIR: tuple[Colour, ...] = (
    (0.08, 0.07, 0.07),
    (0.22, 0.13, 0.08),
    (0.42, 0.26, 0.14),
    (0.82, 0.66, 0.36),
    (0.62, 0.28, 0.12),
    (0.66, 0.65, 0.64),
)
IRIS: tuple[Colour, ...] = ((0.24, 0.14, 0.08), (0.22, 0.42, 0.62), (0.26, 0.44, 0.26), (0.40, 0.42, 0.44))


@dataclass(frozen=True, slots=True)
class Person:
    """One identity.

    Attributes:
        skin, hair, lips, iris, shirt: Colours.
        head_width, head_height: Half axes of the head.
        jaw: How much the head narrows towards the chin, 0.05 to 0.35.
        eye_distance: Of each eye from the middle of the face.
        eye_height: Of the eyes above the head's centre.
        eye_size: Half width of an eye.
        brow_thickness: Half thickness of a brow.
        mouth_width: Half width of the relaxed mouth.
        mouth_height: Half height of the fully open mouth.
        lip_thickness: Of one lip.
        nose_length: From the eyes to the tip.
        hairline: Of the fringe above the head's centre, as a share of the head's half height.
        long_hair, glasses: Whether the person has them.
        tract: Factor on all formants, 0.92 (long vocal tract) to 1.12.
        pitch_hz: Mean pitch of the voice, 95 to 230 Hz.
    """

    skin: Colour
    hair: Colour
    lips: Colour
    iris: Colour
    shirt: Colour
    head_width: float
    head_height: float
    jaw: float
    eye_distance: float
    eye_height: float
    eye_size: float
    brow_thickness: float
    mouth_width: float
    mouth_height: float
    lip_thickness: float
    nose_length: float
    hairline: float
    long_hair: bool
    glasses: bool
    tract: float
    pitch_hz: float


def draw_person(root: int, person: int) -> Person:
    """The identity with this number.

    Args:
        root: Seed of the data set.
        person: Number of the person.

    Raises:
        DatasetError: A number that is negative or too large.
    """
    rng = generator(root, IDENTITY, person)
    tone = rng.uniform() ** 1.3
    skin = _jittered(rng, _mixed(LIGHT_SKIN, DARK_SKIN, tone), 0.03)
    pitch_hz = float(rng.uniform(95.0, 230.0))
    return Person(
        skin=skin,
        hair=_jittered(rng, HAIR[rng.integers(len(HAIR))], 0.04),
        lips=_jittered(rng, _mixed(skin, LIP_RED, 0.62), 0.03),
        iris=_jittered(rng, IRIS[rng.integers(len(IRIS))], 0.04),
        shirt=_vivid(rng),
        head_width=float(rng.uniform(0.42, 0.51)),
        head_height=float(rng.uniform(0.56, 0.64)),
        jaw=float(rng.uniform(0.05, 0.35)),
        eye_distance=float(rng.uniform(0.17, 0.21)),
        eye_height=float(rng.uniform(0.06, 0.12)),
        eye_size=float(rng.uniform(0.085, 0.11)),
        brow_thickness=float(rng.uniform(0.016, 0.036)),
        mouth_width=float(rng.uniform(0.18, 0.22)),
        mouth_height=float(rng.uniform(0.11, 0.14)),
        lip_thickness=float(rng.uniform(0.045, 0.07)),
        nose_length=float(rng.uniform(0.20, 0.26)),
        hairline=float(rng.uniform(0.50, 0.78)),
        long_hair=bool(rng.uniform() < 0.45),
        glasses=bool(rng.uniform() < 0.3),
        # Higher voices tend to come from shorter tracts, but not always.
        tract=float(np.clip(0.93 + 0.18 * (pitch_hz - 95) / 135 + rng.uniform(-0.05, 0.05), 0.92, 1.12)),
        pitch_hz=pitch_hz,
    )


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(first, second, strict=True))
    return red, green, blue


def _jittered(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-spread, spread, 3), 0.02, 0.99).tolist()
    return red, green, blue


def _vivid(rng: np.random.Generator) -> Colour:
    """A colour of any hue, rather saturated."""
    hue, strength, value = rng.uniform(0, 1), rng.uniform(0.35, 0.85), rng.uniform(0.35, 0.9)
    wheel = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    red, green, blue = (value * (1 - strength + strength * wheel)).tolist()
    return red, green, blue
