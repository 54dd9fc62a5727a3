"""Where the parts of a turned head are seen: features sit on an ellipsoid that is turned and projected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic.people import Person
from lcp_bench.data.synthetic.shapes import Area, Canvas

Floats = NDArray[np.floating[Any]]
CENTRE_Y = -0.10
"""Of the unmoved head's centre in the picture."""


class Place(NamedTuple):
    """A feature in the head's plane, each (frames, 1, 1): centre, and how much its width and height shrink."""

    x: Floats
    y: Floats
    width: Floats
    height: Floats


@dataclass(frozen=True, slots=True)
class Head:
    """The pose of a batch of frames; all arrays are float32 (frames, 1, 1)."""

    person: Person
    x: Floats
    y: Floats
    cosine: Floats
    sine: Floats
    yaw: Floats
    pitch: Floats

    @classmethod
    def posed(cls, person: Person, pose: Floats) -> Head:
        """From pose (frames, 5), see `Motion`."""
        yaw, pitch, roll, x, y = (pose[:, index, None, None].astype(np.float32) for index in range(5))
        return cls(person, x, y + np.float32(CENTRE_Y), np.cos(roll), np.sin(roll), yaw, pitch)

    def place(self, x: float | Floats, y: float | Floats, depth: float = 1.0) -> Place:
        """Project a point of the unturned face; `depth` above 1 lies before the surface."""
        u = np.asarray(x, dtype=np.float32) / np.float32(self.person.head_width)
        v = np.asarray(y, dtype=np.float32) / np.float32(self.person.head_height)
        z = np.sqrt(np.maximum(1 - u * u - v * v, np.float32(0.09))) * np.float32(depth)
        sin_yaw, cos_yaw = np.sin(self.yaw), np.cos(self.yaw)
        sin_pitch, cos_pitch = np.sin(self.pitch), np.cos(self.pitch)
        turned = z * cos_yaw - u * sin_yaw
        return Place(
            (u * cos_yaw + z * sin_yaw) * np.float32(self.person.head_width),
            (v * cos_pitch + turned * sin_pitch) * np.float32(self.person.head_height),
            np.clip(cos_yaw - u / z * sin_yaw, 0.3, 1.15).astype(np.float32),
            np.clip(cos_pitch - v / z * sin_pitch, 0.6, 1.1).astype(np.float32),
        )

    def in_picture(self, place: Place) -> tuple[Floats, Floats]:
        """Picture coordinates of a place, after roll and shift."""
        return (
            self.x + place.x * self.cosine - place.y * self.sine,
            self.y + place.x * self.sine + place.y * self.cosine,
        )

    def area(self, canvas: Canvas, place: Place, reach: float) -> Area:
        """The window around a place, with coordinates in the head's plane relative to it."""
        x, y = self.in_picture(place)
        window = canvas.area(x, y, reach, reach)
        dx, dy = window.x - x, window.y - y
        return Area(window.rows, window.columns, dx * self.cosine + dy * self.sine, dy * self.cosine - dx * self.sine)

    def plane(self, canvas: Canvas) -> Area:
        """The whole picture with coordinates in the head's plane."""
        zero = np.zeros_like(self.x)
        return self.area(canvas, Place(zero, zero, zero, zero), 4.0)
