"""Drawn portraits: a shaded head, features in known places, hair and shoulders before a soft background.

Coordinates are pixels of the 512 x 512 picture. Everything hangs on the face box (brows to chin, as the cascade sees
it), so landmarks and lip box are exact by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from lcp_bench.data.faces import Box, landmarks_from_box

SIZE = 512
OVERSAMPLING = 2
Colour = tuple[float, float, float]
Mask = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Person:
    """What sets one drawn identity apart; colours are RGB 0..255, `hair_length` is in face heights below the eyes."""

    name: str
    pitch_hz: float
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    cloth: Colour
    wall: Colour
    face_side: float
    jaw: float
    hair_length: float


PEOPLE = (
    Person(
        name="demo_ada",
        pitch_hz=205.0,
        skin=(232, 190, 165),
        hair=(92, 54, 32),
        iris=(70, 105, 90),
        lips=(190, 88, 88),
        cloth=(60, 84, 120),
        wall=(196, 202, 205),
        face_side=226,
        jaw=0.9,
        hair_length=0.75,
    ),
    Person(
        name="demo_ben",
        pitch_hz=118.0,
        skin=(186, 132, 98),
        hair=(28, 24, 24),
        iris=(66, 42, 28),
        lips=(150, 82, 74),
        cloth=(96, 58, 50),
        wall=(176, 190, 172),
        face_side=240,
        jaw=1.0,
        hair_length=0.05,
    ),
)


@dataclass(frozen=True, slots=True)
class Portrait:
    """uint8 (512, 512, 3) picture with its exact face box, five landmarks and lip box in pixels."""

    image: NDArray[np.uint8]
    box: Box
    landmarks5: tuple[tuple[float, float], ...]
    lip_box: Box


class _Canvas:
    """A float RGB picture that masks are painted onto."""

    def __init__(self, colour: Colour) -> None:
        self.pixels = np.ones((SIZE * OVERSAMPLING, SIZE * OVERSAMPLING, 3)) * np.array(colour)

    def paint(self, mask: Mask, colour: ArrayLike, strength: float = 1.0) -> None:
        """Blend a colour (or a picture) in where the mask (0..1) is set."""
        rows, columns = (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
        area = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        weight = (mask[area] * strength)[..., None]
        paint = np.broadcast_to(np.asarray(colour, dtype=np.float64), self.pixels.shape)[area]
        self.pixels[area] += (paint - self.pixels[area]) * weight

    def finish(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Reduce to 512 pixels and add sensor-like noise."""
        image = Image.fromarray(np.clip(self.pixels, 0, 255).astype(np.uint8))
        small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS), dtype=np.float64)
        return np.clip(small + rng.normal(0, 1.5, small.shape), 0, 255).round().astype(np.uint8)


def _shape(blur: float, *, ellipses: Sequence[Box] = (), polygons: Sequence[ArrayLike] = ()) -> Mask:
    """Mask (0..1) of filled ellipses (x0, y0, x1, y1) and polygons (n, 2), blurred by `blur` pixels."""
    side = SIZE * OVERSAMPLING
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for box in ellipses:
        draw.ellipse([value * OVERSAMPLING for value in box], fill=255)
    for polygon in polygons:
        draw.polygon([(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in np.asarray(polygon).tolist()], fill=255)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur * OVERSAMPLING)), dtype=np.float64) / 255


def _around(x: float, y: float, rx: float, ry: float) -> Box:
    return x - rx, y - ry, x + rx, y + ry


def _lowered(curve: Mask, pixels: float) -> Mask:
    """A curve (n, 2), moved down."""
    return np.asarray(curve + np.array([0.0, pixels]), dtype=np.float64)


def draw_portrait(person: Person, seed: int) -> Portrait:
    """Draw one person.

    Args:
        person: Whom to draw.
        seed: Of the noise.

    Returns:
        The picture and where its face is.
    """
    side = person.face_side
    x0, y0 = SIZE / 2 - side / 2, 138.0
    box = (x0, y0, x0 + side, y0 + side)
    points = landmarks_from_box(box)
    canvas = _Canvas(person.wall)
    _draw_background(canvas)
    _draw_body(canvas, person, box)
    _draw_head(canvas, person, box)
    for eye in points[:2]:
        _draw_eye(canvas, person, eye, side)
    _draw_nose(canvas, person, points[2], side)
    lip_box = _draw_mouth(canvas, person, points[3], points[4], side)
    _draw_fringe(canvas, person, box)
    landmarks = tuple((float(x), float(y)) for x, y in points)
    return Portrait(canvas.finish(np.random.default_rng(seed)), box, landmarks, lip_box)


def _draw_background(canvas: _Canvas) -> None:
    place = np.linspace(-1, 1, SIZE * OVERSAMPLING)
    rows, columns = place[:, None], place[None, :]
    canvas.pixels *= (1.06 - 0.16 * (rows**2 + columns**2) - 0.05 * rows)[..., None]


def _draw_body(canvas: _Canvas, person: Person, box: Box) -> None:
    side, middle, chin = person.face_side, SIZE / 2, box[3]
    hair_end = box[1] + side * (0.45 + person.hair_length)
    canvas.paint(
        _shape(3, ellipses=[(middle - 0.62 * side, box[1] - 0.32 * side, middle + 0.62 * side, hair_end)]), person.hair
    )
    skin = np.array(person.skin)
    canvas.paint(_shape(4, ellipses=[_around(middle, SIZE + 30, 1.05 * side, 0.62 * side)]), person.cloth)
    neck = _around(middle, chin + 0.02 * side, 0.27 * side, 0.42 * side)
    canvas.paint(_shape(2, ellipses=[neck]), skin * 0.8)
    canvas.paint(_shape(10, ellipses=[_around(middle, chin + 0.02 * side, 0.3 * side, 0.1 * side)]), skin * 0.55, 0.7)


def _draw_head(canvas: _Canvas, person: Person, box: Box) -> None:
    """Skull and jaw as one shape, lit from the upper left as if it were an ellipsoid."""
    side, middle = person.face_side, SIZE / 2
    centre = box[1] + 0.42 * side
    skin = np.array(person.skin)
    ears = [_around(middle + sign * 0.47 * side, centre + 0.05 * side, 0.06 * side, 0.12 * side) for sign in (-1, 1)]
    canvas.paint(_shape(1.5, ellipses=ears), skin * 0.82)
    angle = np.linspace(0, 2 * np.pi, 200)
    across, down = np.cos(angle), np.sin(angle)
    narrowing = 1 - (0.30 / person.jaw) * np.clip(down, 0, 1) ** 2.5
    reach = np.where(down > 0, 0.60, 0.66)  # chin and skull, in box sides from the centre
    outline = np.column_stack([middle + 0.475 * side * across * narrowing, centre + reach * side * down])
    grid = np.arange(SIZE * OVERSAMPLING) / OVERSAMPLING
    x, y = ((grid[None, :] - middle) / (0.52 * side), (grid[:, None] - centre) / (0.72 * side))
    depth = np.sqrt(np.clip(1 - x**2 - y**2, 0.02, 1))
    light = 0.62 + 0.42 * np.clip(-0.25 * x - 0.3 * y + 0.92 * depth, 0, 1)
    canvas.paint(_shape(1.2, polygons=[outline]), skin * light[..., None])
    for sign in (-1, 1):
        cheek = _around(middle + sign * 0.24 * side, centre + 0.22 * side, 0.11 * side, 0.08 * side)
        canvas.paint(_shape(12, ellipses=[cheek]), (210, 110, 100), 0.22)


def _draw_eye(canvas: _Canvas, person: Person, eye: NDArray[np.float64], side: float) -> None:
    x, y = eye.tolist()
    wide, high = 0.095 * side, 0.038 * side
    skin, dark = np.array(person.skin), (45.0, 30.0, 26.0)
    canvas.paint(_shape(7, ellipses=[_around(x, y - 0.02 * side, 0.13 * side, 0.07 * side)]), skin * 0.58, 0.75)
    along = np.linspace(-1, 1, 40)
    upper = np.column_stack([x + wide * along, y - high * 1.15 * (1 - along**2)])
    lower = np.column_stack([x + wide * along, y + high * (1 - along**2)])
    almond = _shape(0.6, polygons=[np.concatenate([upper, lower[::-1]])])
    canvas.paint(almond, (236, 232, 228))
    iris = _shape(0.6, ellipses=[_around(x, y - 0.003 * side, 0.042 * side, 0.042 * side)])
    canvas.paint(np.minimum(iris, almond), person.iris)
    pupil = _shape(0.5, ellipses=[_around(x, y - 0.003 * side, 0.02 * side, 0.02 * side)])
    canvas.paint(np.minimum(pupil, almond), (12, 10, 10))
    canvas.paint(
        _shape(0.5, ellipses=[_around(x - 0.014 * side, y - 0.018 * side, 0.008 * side, 0.008 * side)]), (250, 250, 250)
    )
    lid = np.concatenate([_lowered(upper, -0.013 * side), _lowered(upper[::-1], 0.006 * side)])
    canvas.paint(_shape(0.8, polygons=[lid]), dark)
    canvas.paint(_shape(1.0, polygons=[np.concatenate([lower, _lowered(lower[::-1], 0.008 * side)])]), skin * 0.55, 0.8)
    bend = np.column_stack([x + 0.13 * side * along, y - 0.115 * side + 0.022 * side * along**2])
    brow = np.concatenate([_lowered(bend, -0.013 * side), _lowered(bend[::-1], 0.016 * side)])
    canvas.paint(_shape(1.5, polygons=[brow]), np.array(person.hair) * 0.85, 0.9)


def _draw_nose(canvas: _Canvas, person: Person, tip: NDArray[np.float64], side: float) -> None:
    x, y = tip.tolist()
    skin = np.array(person.skin)
    ridge = [
        (x + 0.03 * side, y - 0.22 * side),
        (x + 0.075 * side, y + 0.02 * side),
        (x + 0.02 * side, y + 0.03 * side),
    ]
    canvas.paint(_shape(5, polygons=[ridge]), skin * 0.62, 0.6)
    canvas.paint(_shape(5, ellipses=[_around(x, y + 0.045 * side, 0.085 * side, 0.02 * side)]), skin * 0.5, 0.75)
    canvas.paint(
        _shape(5, ellipses=[_around(x - 0.008 * side, y - 0.06 * side, 0.018 * side, 0.1 * side)]),
        np.minimum(skin * 1.15, 255),
        0.5,
    )
    nostrils = [_around(x + sign * 0.04 * side, y + 0.035 * side, 0.018 * side, 0.01 * side) for sign in (-1, 1)]
    canvas.paint(_shape(1.5, ellipses=nostrils), skin * 0.3, 0.9)


def _draw_mouth(
    canvas: _Canvas, person: Person, left: NDArray[np.float64], right: NDArray[np.float64], side: float
) -> Box:
    """Closed lips between the two corners; returns their box."""
    middle, half = (left + right) / 2, float(right[0] - left[0]) / 2
    along = np.linspace(-1, 1, 60)
    seam = np.column_stack([middle[0] + half * along, middle[1] + 0.010 * side * (1 - along**2)])
    bow = 1 - 0.25 * np.exp(-((along / 0.12) ** 2))
    top = np.column_stack([seam[:, 0], middle[1] - 0.046 * side * (1 - np.abs(along) ** 1.6) * bow])
    bottom = np.column_stack([seam[:, 0], middle[1] + 0.072 * side * (1 - np.abs(along) ** 2.2)])
    lips, skin = np.array(person.lips), np.array(person.skin)
    shade = _around(float(middle[0]), float(middle[1]) + 0.105 * side, 0.11 * side, 0.02 * side)
    canvas.paint(_shape(5, ellipses=[shade]), skin * 0.6, 0.6)
    canvas.paint(_shape(0.8, polygons=[np.concatenate([top, seam[::-1]])]), lips * 0.85)
    canvas.paint(_shape(0.8, polygons=[np.concatenate([seam, bottom[::-1]])]), lips)
    canvas.paint(
        _shape(3, ellipses=[_around(float(middle[0]), float(middle[1]) + 0.04 * side, 0.06 * side, 0.008 * side)]),
        (255, 225, 220),
        0.35,
    )
    line = np.concatenate([_lowered(seam, -0.006 * side), _lowered(seam[::-1], 0.006 * side)])
    canvas.paint(_shape(0.8, polygons=[line]), (60, 22, 24), 0.9)
    return (float(left[0]), float(top[:, 1].min()), float(right[0]), float(bottom[:, 1].max()))


def _draw_fringe(canvas: _Canvas, person: Person, box: Box) -> None:
    """Hair over the forehead: the cap of the skull above a side parting, with strands of light."""
    side, middle, brow = person.face_side, SIZE / 2, box[1]
    angle = np.linspace(np.pi, 2 * np.pi, 80)
    crown = np.column_stack([middle + 0.54 * side * np.cos(angle), brow + 0.30 * side + 0.62 * side * np.sin(angle)])
    hairline = np.array(
        [
            (0.53, 0.30),
            (0.45, 0.12),
            (0.30, -0.01),
            (0.05, -0.06),
            (-0.15, -0.04),
            (-0.33, 0.04),
            (-0.45, 0.16),
            (-0.53, 0.30),
        ]
    )
    lower = hairline * side + np.array([middle, brow])
    mask = _shape(2.0, polygons=[np.concatenate([crown, lower])])
    grid = np.arange(SIZE * OVERSAMPLING) / OVERSAMPLING
    strands = 1 + 0.10 * np.sin(grid[None, :] * 0.9 + 0.25 * np.abs(grid[None, :] - middle) + grid[:, None] * 0.3)
    gloss = 1 + 0.35 * np.exp(-(((grid[:, None] - brow + 0.17 * side) / (0.07 * side)) ** 2))
    canvas.paint(mask, np.array(person.hair) * (strands * gloss)[..., None])
