"""Face alignment of Deep3DFaceRecon (Deng et al. 2019): five landmarks to a 224 x 224 crop; float64.

Follows sicxu/Deep3DFaceRecon_pytorch. Pixels have y downwards; the least squares work with y upwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metrics.errors import MetricError

Array = NDArray[np.float64]

TEMPLATE = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032535, -0.04617932, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ]
)
"""Left eye, right eye, nose tip, left and right mouth corner of the mean face; x right, y up, z towards the camera."""
RESCALE = 102.0
SIDE = 224


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the crop lies: image size in pixels, scale, and the face's translation in pixels (y upwards)."""

    width: int
    height: int
    scale: float
    shift_x: float
    shift_y: float

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) of the resized image."""
        return int(self.width * self.scale), int(self.height * self.scale)

    def as_array(self) -> Array:
        """The five numbers in the order of the original's `trans_params`."""
        return np.array([self.width, self.height, self.scale, self.shift_x, self.shift_y])


def five_from_68(landmarks: Any) -> Array:
    """Left eye, right eye, nose tip and mouth corners (5, 2) of the 68-point layout (68, 2); eyes are means of corners.

    Raises:
        MetricError: not 68 points.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2):
        raise MetricError(f"expected 68 landmarks (68, 2), got {points.shape}")
    return np.stack([points[[36, 39]].mean(0), points[[42, 45]].mean(0), points[30], points[48], points[54]])


def fit(landmarks: Any, width: int, height: int) -> tuple[Alignment, Array]:
    """Least-squares affine camera from the template to the landmarks.

    Args:
        landmarks: (5, 2) x, y in pixels, y downwards: left eye, right eye, nose tip, left and right mouth corner (as
            seen in the image).
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        The alignment, and the landmarks (5, 2) in the 224 x 224 crop with y upwards.

    Raises:
        MetricError: not five finite points, or they do not span a face (all on one spot).
    """
    points = np.asarray(landmarks, dtype=np.float64).copy()
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise MetricError(f"expected 5 finite landmarks (5, 2), got shape {points.shape}")
    points[:, 1] = height - 1 - points[:, 1]
    system = np.zeros((10, 8))
    system[0::2, :3], system[0::2, 3] = TEMPLATE, 1.0
    system[1::2, 4:7], system[1::2, 7] = TEMPLATE, 1.0
    camera = np.linalg.lstsq(system, points.reshape(-1), rcond=None)[0]
    size = (np.linalg.norm(camera[:3]) + np.linalg.norm(camera[4:7])) / 2
    if size < 1e-6:
        raise MetricError("the five landmarks lie on one spot; the detector failed on this frame")
    alignment = Alignment(width, height, float(RESCALE / size), float(camera[3]), float(camera[7]))
    half = np.array([width, height]) / 2
    edge = np.array(alignment.resized) / 2 - SIDE / 2
    return alignment, (points - camera[[3, 7]] + half) * alignment.scale - edge


def crop(image: NDArray[np.uint8], alignment: Alignment) -> NDArray[np.uint8]:
    """Resize the whole image with Pillow's bicubic filter, then cut 224 x 224; black beyond the image.

    Args:
        image: uint8 (H, W, 3), RGB.
        alignment: of `fit`, for this image's size.

    Returns:
        uint8 (224, 224, 3), RGB.

    Raises:
        MetricError: the image has another size than the alignment's.
    """
    if image.shape != (alignment.height, alignment.width, 3) or image.dtype != np.uint8:
        raise MetricError(
            f"expected uint8 RGB of {alignment.width} x {alignment.height} pixels, got {image.dtype} {image.shape}"
        )
    width, height = alignment.resized
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    left = int(width / 2 - SIDE / 2 + (alignment.shift_x - alignment.width / 2) * alignment.scale)
    top = int(height / 2 - SIDE / 2 + (alignment.height / 2 - alignment.shift_y) * alignment.scale)
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.uint8)
