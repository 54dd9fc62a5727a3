"""Makes small source videos in the data sets' naming."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcp_bench.video import write_video

EXCERPT = Path(__file__).resolve().parent.parent / "data/hdtf"


def map_picture(width: int, height: int, blue: int = 0) -> NDArray[np.uint8]:
    """Red tells the column and green the row, 0..255 over the picture: a crop shows where it was cut."""
    picture = np.full((height, width, 3), blue, np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).round()
    picture[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return picture


def hum(seconds: float, rate: int) -> NDArray[np.float32]:
    return (0.3 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 220 / rate)).astype(np.float32)


def video(
    path: Path,
    seconds: float,
    *,
    size: tuple[int, int] = (192, 108),
    fps: Fraction | float = 30,
    rate: int = 44100,
    sound: NDArray[np.float32] | None = None,
    silent: bool = False,
    flash_s: float | None = None,
) -> Path:
    """A video with sound; at `flash_s` one source picture is white."""
    count = round(seconds * fps)
    plain, white = map_picture(*size), np.full((size[1], size[0], 3), 255, np.uint8)
    flash = None if flash_s is None else round(flash_s * fps)

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for index in range(count):
            yield white if index == flash else plain

    track = None if silent else hum(seconds, rate) if sound is None else sound
    write_video(path, pictures(), float(fps), track, sample_rate=rate)
    return path


def click(seconds: float, at_s: float, rate: int) -> NDArray[np.float32]:
    """A faint noise with one loud millisecond at `at_s`."""
    samples = (1e-3 * np.random.default_rng(0).standard_normal(round(seconds * rate))).astype(np.float32)
    begin = round(at_s * rate)
    samples[begin : begin + rate // 1000] = 0.9
    return samples
