"""Painting shapes given by signed distances onto a batch of pictures.

Coverage falls from 1 to 0 over 1.5 pixels across an edge, so that edges are smooth at any size. Only square roots and
arithmetic touch pixels: their results do not depend on the machine's vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Size = Floats | np.floating[Any] | float
EDGE_PIXELS = 1.5


@dataclass(frozen=True, slots=True)
class Area:
    """A window of the picture with coordinates (frames, rows, columns) in half pictures.

    Attributes:
        rows, columns: The pixels.
        x, y: Coordinates of their centres, in whatever frame the painter wants.
    """

    rows: slice
    columns: slice
    x: Floats
    y: Floats


class Canvas:
    """A batch of pictures (3, frames, size, size) in 0..1, and what of them is foreground."""

    def __init__(self, background: Floats, frames: int) -> None:
        """Start from a background (size, size, 3), or one per frame (frames, size, size, 3)."""
        self.size = background.shape[-2]
        self.edge = np.float32(EDGE_PIXELS * 2 / self.size)
        planes = np.moveaxis(background.astype(np.float32), -1, 0)
        whole = planes[:, None] if planes.ndim == 3 else planes
        self.pixels = np.ascontiguousarray(np.broadcast_to(whole, (3, frames, self.size, self.size)))
        self.foreground = np.zeros((frames, self.size, self.size), dtype=bool)
        self.grid = ((np.arange(self.size) + 0.5) * (2 / self.size) - 1).astype(np.float32)

    def area(self, x: Floats, y: Floats, reach_x: float, reach_y: float) -> Area:
        """The window that holds all points within reach of (x, y), which are per frame; its own coordinates."""
        columns = self._span(float(x.min()) - reach_x, float(x.max()) + reach_x)
        rows = self._span(float(y.min()) - reach_y, float(y.max()) + reach_y)
        return Area(rows, columns, self.grid[None, None, columns], self.grid[None, rows, None])

    def _span(self, low: float, high: float) -> slice:
        margin = 2.0
        begin = int(np.floor((low + 1) / 2 * self.size - margin))
        end = int(np.ceil((high + 1) / 2 * self.size + margin))
        begin = min(max(begin, 0), self.size - 1)
        return slice(begin, min(max(end, begin + 1), self.size))

    def coverage(self, distance: Floats) -> Floats:
        """0..1 from a signed distance, negative inside."""
        return np.asarray(np.clip(np.float32(0.5) - distance / self.edge, 0, 1))

    def ellipse(self, x: Floats, y: Floats, rx: Size, ry: Size) -> Floats:
        """Coverage of an axis-parallel ellipse around the origin."""
        return self.coverage(ellipse_distance(x, y, rx, ry))

    def box(self, x: Floats, y: Floats, rx: Size, ry: Size) -> Floats:
        """Coverage of an axis-parallel box around the origin."""
        return self.coverage(np.maximum(np.abs(x) - np.float32(rx), np.abs(y) - np.float32(ry)))

    def paint(self, area: Area, coverage: Floats, colour: Sequence[float], shade: Size = 1.0) -> None:
        """Blend a colour, times a shade per pixel, in where the coverage says."""
        self.foreground[:, area.rows, area.columns] |= coverage > 0
        for plane, value in zip(self.pixels, colour, strict=True):
            part = plane[:, area.rows, area.columns]
            part += coverage * (np.float32(value) * shade - part)

    def finish(self) -> NDArray[np.uint8]:
        """uint8 (frames, size, size, 3)."""
        pixels = np.clip(np.rint(self.pixels * np.float32(255)), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def ellipse_distance(x: Floats, y: Floats, rx: Size, ry: Size) -> Floats:
    """Distance to an ellipse around the origin, exact in direction and to first order in size."""
    inverse_x, inverse_y = np.float32(1) / np.float32(rx), np.float32(1) / np.float32(ry)
    u, v = x * inverse_x, y * inverse_y
    radius = np.sqrt(u * u + v * v)
    slope = np.sqrt((u * inverse_x) ** 2 + (v * inverse_y) ** 2)
    return np.asarray(radius * (radius - 1) / np.maximum(slope, np.float32(1e-6)), dtype=np.float32)
