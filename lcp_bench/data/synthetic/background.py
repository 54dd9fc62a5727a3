"""What is behind a person: a gradient with blurred shapes, still or drifting, or one plain colour for everybody."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic.shapes import ellipse_distance

Floats = NDArray[np.float32]

PLAIN = (0.62, 0.65, 0.66)
DRIFT = 0.012
"""Typical speed of a drifting shape in half pictures per frame."""
SOFTNESS = 0.22


def draw_background(rng: np.random.Generator, size: int, *, plain: bool, drift_frames: int | None = None) -> Floats:
    """Draw a background.

    Args:
        rng: Its generator.
        size: Side in pixels.
        plain: One colour, the same for all people, instead of a gradient with shapes.
        drift_frames: Let shapes drift for so many frames; a plain background gets some shapes then.

    Returns:
        float32 in 0..1: (size, size, 3), or (drift_frames, size, size, 3) when it moves.
    """
    grid = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    if plain:
        start = end = np.array(PLAIN)
    else:
        start, end = rng.uniform(0.25, 0.9, 3), rng.uniform(0.25, 0.9, 3)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + 0.35 * (grid[None] * np.cos(angle) + grid[:, None] * np.sin(angle))
    picture = (start + (end - start) * ramp[..., None]).astype(np.float32)[None]
    moments = np.arange(drift_frames or 1, dtype=np.float32)[:, None, None]
    if not plain or drift_frames is not None:
        for _ in range(rng.integers(2, 7)):
            picture = _with_shape(rng, picture, grid, moments)
    return np.asarray(np.clip(picture, 0, 1)[0 if drift_frames is None else slice(None)], dtype=np.float32)


def _with_shape(rng: np.random.Generator, picture: Floats, grid: Floats, moments: Floats) -> Floats:
    """One blurred ellipse or box; its centre moves on a straight line and comes back on the other side."""
    centre, radius = rng.uniform(-1, 1, 2), rng.uniform(0.15, 0.6, 2).astype(np.float32)
    speed, colour = rng.normal(0, DRIFT, 2), rng.uniform(0.15, 0.95, 3).astype(np.float32)
    square, strength = rng.uniform() < 0.5, np.float32(rng.uniform(0.4, 0.9))
    reach = 1.9
    x, y = (
        ((place + step * moments + reach) % (2 * reach) - reach).astype(np.float32)
        for place, step in zip(centre, speed, strict=True)
    )
    dx, dy = grid[None, None] - x, grid[None, :, None] - y
    if square:
        distance = np.maximum(np.abs(dx) - radius[0], np.abs(dy) - radius[1])
    else:
        distance = ellipse_distance(dx, dy, float(radius[0]), float(radius[1]))
    share = np.clip(np.float32(0.5) - distance / np.float32(SOFTNESS), 0, 1)
    share = (strength * share * share * (3 - 2 * share))[..., None]
    return np.asarray(picture + share * (colour - picture), dtype=np.float32)
