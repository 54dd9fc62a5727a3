"""Painting a person: shoulders, neck, hair and head, then what moves on the face."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic.head import Head, Place
from lcp_bench.data.synthetic.shapes import Area, Canvas, ellipse_distance

Floats = NDArray[np.floating[Any]]

WHITE, TEETH = (0.95, 0.95, 0.94), (0.96, 0.95, 0.90)
DARK, TONGUE, FRAME = (0.15, 0.04, 0.05), (0.78, 0.34, 0.36), (0.08, 0.08, 0.10)
MOUTH_Y, BROW_Y = 0.31, 0.135
"""Mouth below the head's centre; brows above the eyes."""


class Face(NamedTuple):
    """What moves on a face, each float32 (frames, 1, 1); see `Take` and `Motion`."""

    open: Floats
    wide: Floats
    round: Floats
    contact: Floats
    smile: Floats
    brow: Floats
    furrow: Floats
    lids: Floats
    blink: Floats
    gaze_x: Floats
    gaze_y: Floats

    @classmethod
    def of(cls, mouth: Floats, expression: Floats, gaze: Floats) -> Face:
        """From (frames, 4), (frames, 5) and (frames, 2)."""
        joined = np.concatenate([mouth, expression, gaze], axis=1).astype(np.float32)
        return cls(*(joined[:, index, None, None] for index in range(joined.shape[1])))


def times(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    """A lighter or darker colour."""
    red, green, blue = (min(1.0, value * factor) for value in colour)
    return red, green, blue


def paint_body(canvas: Canvas, head: Head) -> None:
    """Back hair, shoulders and neck; the shoulders follow half of the head's shift."""
    person = head.person
    plane = head.plane(canvas)
    if person.long_hair:
        hang = plane.y - np.float32(0.22)
        canvas.paint(plane, canvas.ellipse(plane.x, hang, person.head_width * 1.15, 0.80), times(person.hair, 0.8))
    shift_x, shift_y = head.x * np.float32(0.5), (head.y + np.float32(0.10)) * np.float32(0.5)
    area = canvas.area(shift_x, shift_y + np.float32(0.8), 2.0, 0.45)
    x, y = area.x - shift_x, area.y - shift_y
    shade = np.float32(1.05) - np.float32(0.25) * np.abs(x)
    canvas.paint(area, canvas.ellipse(x, y - np.float32(1.15), 0.80, 0.50), person.shirt, shade)
    area = canvas.area(shift_x, shift_y + np.float32(0.45), 0.4, 0.4)
    x, y = area.x - np.float32(0.7) * head.x, area.y - shift_y
    neck = canvas.coverage(
        np.maximum(np.abs(x) - np.float32(0.17), ellipse_distance(x, y - np.float32(0.4), 0.3, 0.38))
    )
    canvas.paint(area, neck, times(person.skin, 0.78))


def paint_head(canvas: Canvas, head: Head, face: Face) -> Floats:
    """Ears, skull cap of hair and the head itself, whose jaw drops with the mouth; returns the head's coverage."""
    person, plane = head.person, head.plane(canvas)
    width, height = np.float32(person.head_width), np.float32(person.head_height)
    sway = np.sin(head.yaw)
    for side in (-1, 1):
        ear = head.place(side * person.head_width * 0.98, -0.02, 1.0)
        area = head.area(canvas, Place(np.float32(side) * width - sway * np.float32(0.06), *ear[1:]), 0.2)
        canvas.paint(area, canvas.ellipse(area.x, area.y, 0.065, 0.11), times(person.skin, 0.86))
    x, y = plane.x + sway * np.float32(0.07), plane.y + np.float32(0.05)
    canvas.paint(plane, canvas.ellipse(x, y, person.head_width * 1.07, person.head_height * 1.06), person.hair)
    low = np.maximum(plane.y, 0)
    below = low / height
    y = plane.y - low * (np.float32(0.10) * face.open / (1 + np.float32(0.10) * face.open))
    x = plane.x * (1 + np.float32(person.jaw) * below * below)
    coverage = canvas.ellipse(x, y, person.head_width, person.head_height)
    u, v = plane.x / width, plane.y / height
    shade = np.float32(1.06) - np.float32(0.13) * (u * u + v * v) + u * (np.float32(-0.05) + np.float32(0.30) * sway)
    canvas.paint(plane, coverage, person.skin, shade)
    return coverage


def paint_fringe(canvas: Canvas, head: Head) -> None:
    """Hair over the forehead; its line moves with pitch and yaw."""
    person, plane = head.person, head.plane(canvas)
    line = head.place(0.0, -person.hairline * person.head_height)
    x, y = plane.x + np.sin(head.yaw) * np.float32(0.03), plane.y + np.float32(0.03)
    skull = ellipse_distance(x, y, person.head_width * 1.03, person.head_height * 1.03)
    bend = np.float32(0.7 if person.long_hair else 0.25)
    edge = plane.y - line.y - bend * (plane.x - line.x) ** 2
    canvas.paint(plane, canvas.coverage(np.maximum(skull, edge)), person.hair, 1.08)


def paint_eyes(canvas: Canvas, head: Head, face: Face) -> tuple[Place, Place]:
    """Eyes with lids and iris, brows, and glasses; returns the places of both eyes, left of the picture first."""
    person = head.person
    left, right = (head.place(side * person.eye_distance, -person.eye_height) for side in (-1, 1))
    for side, place in ((-1, left), (1, right)):
        _paint_eye(canvas, head, face, place)
        _paint_brow(canvas, head, face, side)
    if person.glasses:
        for place in (left, right):
            area = head.area(canvas, place, 0.26)
            ring = ellipse_distance(area.x, area.y, np.float32(0.145) * place.width, 0.125)
            canvas.paint(area, canvas.coverage(np.abs(ring) - np.float32(0.008)), FRAME)
        area = head.area(canvas, head.place(0.0, -person.eye_height, 1.1), 0.2)
        canvas.paint(area, canvas.box(area.x, area.y, 0.045, 0.008), FRAME)
    return left, right


def _paint_eye(canvas: Canvas, head: Head, face: Face, place: Place) -> None:
    person, area = head.person, head.area(canvas, place, 0.2)
    rx = np.float32(person.eye_size) * place.width
    full = np.float32(person.eye_size * 0.62) * place.height
    aperture = np.clip((1 + np.float32(0.5) * face.lids) * (1 - face.blink), 0, 1.6)
    ry = np.maximum(full * aperture, np.float32(0.012))
    lift = full * np.float32(0.25) * (1 - np.minimum(aperture, 1))  # a closing eye sinks onto its lower lid
    y = area.y - lift
    canvas.paint(
        area, canvas.ellipse(area.x, area.y, rx * np.float32(1.1), full * np.float32(1.3)), times(person.skin, 0.84)
    )
    canvas.paint(
        area, canvas.ellipse(area.x, y + np.float32(0.012), rx * np.float32(1.1), ry + np.float32(0.014)), FRAME
    )
    white = canvas.ellipse(area.x, y, rx, ry) * np.clip(aperture * 5 - np.float32(0.5), 0, 1)
    canvas.paint(area, white, WHITE)
    x = area.x - face.gaze_x * rx * np.float32(0.4)
    y = area.y - face.gaze_y * full * np.float32(0.3)
    radius = np.float32(person.eye_size * 0.52)
    canvas.paint(area, np.minimum(white, canvas.ellipse(x, y, radius * place.width, radius)), person.iris)
    canvas.paint(
        area, np.minimum(white, canvas.ellipse(x, y, radius * np.float32(0.5), radius * np.float32(0.5))), DARK
    )


def _paint_brow(canvas: Canvas, head: Head, face: Face, side: int) -> None:
    """Raised by `brow`; `furrow` pulls the inner end down and inwards, or up where it is negative."""
    person = head.person
    x = np.float32(side) * (np.float32(person.eye_distance + 0.01) - np.float32(0.025) * np.maximum(face.furrow, 0))
    height = person.eye_height + BROW_Y + np.float32(0.055) * face.brow - np.float32(0.02) * np.abs(face.furrow)
    place = head.place(x, -np.asarray(height, dtype=np.float32))
    area = head.area(canvas, place, 0.25)
    outwards = area.x * np.float32(side)
    arch = np.float32(2.0) * (1 - np.float32(0.5) * np.abs(face.furrow))
    bent = area.y + outwards * (np.float32(0.45) * face.furrow - arch * outwards)
    thickness = np.float32(person.brow_thickness)
    canvas.paint(
        area, canvas.ellipse(area.x, bent, np.float32(0.125) * place.width, thickness), times(person.hair, 0.8)
    )


def paint_nose(canvas: Canvas, head: Head) -> Place:
    """A light ridge and a shadow under the tip; returns the tip."""
    person = head.person
    tip = head.place(0.0, person.nose_length - person.eye_height, 1.3)
    ridge = head.place(0.0, person.nose_length * 0.5 - person.eye_height, 1.15)
    area = head.area(canvas, ridge, 0.3)
    canvas.paint(
        area,
        canvas.ellipse(area.x, area.y, 0.03, person.nose_length * 0.45) * np.float32(0.6),
        times(person.skin, 1.14),
    )
    area = head.area(canvas, tip, 0.2)
    canvas.paint(area, canvas.ellipse(area.x, area.y, 0.062, 0.034), times(person.skin, 0.72))
    canvas.paint(area, canvas.ellipse(area.x, area.y + np.float32(0.018), 0.05, 0.032), times(person.skin, 1.04))
    return tip


def paint_mouth(canvas: Canvas, head: Head, face: Face) -> tuple[Area, Floats, tuple[Place, Place]]:
    """Lips, teeth, tongue; returns the window, the coverage of the outer lips, and both corners of the mouth."""
    person, place = head.person, head.place(0.0, MOUTH_Y)
    width = (np.float32(0.74) + np.float32(0.52) * face.wide) * (1 - np.float32(0.45) * face.round)
    width = np.float32(person.mouth_width) * width * (1 + np.float32(0.12) * face.smile) * place.width
    height = np.float32(person.mouth_height) * face.open * place.height
    lip = np.float32(person.lip_thickness) * (1 + np.float32(0.35) * face.round)
    area = head.area(canvas, place, 0.45)
    bow = np.float32(0.075) * face.smile * (1 - np.float32(0.6) * face.round)
    x, y = area.x, area.y - np.float32(0.5) * height + bow * (np.minimum((area.x / width) ** 2, 1.3) - np.float32(0.3))
    lips = canvas.ellipse(x, y, width, height + lip)
    canvas.paint(area, lips, person.lips, np.clip(np.float32(0.98) + np.float32(1.2) * y, 0.86, 1.08))
    inside_width = np.maximum(width - np.float32(0.75) * lip, np.float32(0.03))
    inside = canvas.ellipse(x, y, inside_width, np.maximum(height, np.float32(0.012)))
    inside = inside * np.clip(height * np.float32(50) - np.float32(0.4), 0, 1)
    canvas.paint(area, inside, DARK)
    upper = canvas.coverage(y + np.float32(0.35) * height)
    canvas.paint(area, np.minimum(inside, upper) * (1 - np.float32(0.8) * face.round), TEETH)
    tongue = canvas.ellipse(
        x,
        y - np.float32(0.8) * height,
        np.float32(0.6) * inside_width,
        np.maximum(np.float32(0.5) * height, np.float32(0.02)),
    )
    canvas.paint(area, np.minimum(inside, tongue), TONGUE)
    shut = np.clip(1 - height * np.float32(45), 0, 1)
    line = canvas.box(x, y, np.float32(0.88) * width, 0.012) * shut
    canvas.paint(area, line, times(person.lips, 0.42))
    bite = canvas.box(x, y - height - np.float32(0.022), np.float32(0.5) * width, 0.026) * face.contact
    canvas.paint(area, bite, TEETH)
    corner_y = np.float32(0.5) * height - bow * np.float32(0.7)
    left, right = (place._replace(x=place.x + side * width, y=place.y + corner_y) for side in (-1, 1))
    return area, lips, (left, right)
