"""Face rectangles and Hallo's attention masks, as the image processor of its public inference code makes them.

Coordinates are pixels of the un-resized portrait, x to the right and y down. A rectangle is half open.

Deviation where no 478 landmarks exist (`rectangles_from_box`): the face rectangle grows from a face box, the lip
rectangle from a lip box or from the two mouth corners with a fixed height. A rectangle that would be larger than the
image is cut to it there; from landmarks it keeps upstream's result, in which a negative start counts from the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

SILHOUETTE = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
MASK_SIZE = 64
FACE_KERNEL, LIP_KERNEL = 51, 31
LIP_HEIGHT_PER_WIDTH = 0.45
"""Height of closed lips over the distance of the mouth corners; used where only those are known."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows y0..y1 and columns x0..x1 (half open) of a source image; a start may be negative, see the module's text."""

    y0: int
    y1: int
    x0: int
    x1: int

    def filled(self, width: int, height: int) -> Pixels:
        """White rectangle on black: uint8 (height, width), 0 or 255."""
        canvas = np.zeros((height, width), dtype=np.uint8)
        canvas[self.y0 : self.y1, self.x0 : self.x1] = 255
        return canvas


@dataclass(frozen=True, slots=True)
class FaceRectangles:
    """The expanded face and lip rectangles of one portrait of `width` x `height` pixels."""

    face: Rectangle
    lip: Rectangle
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SeparateMasks:
    """The 64 x 64 8-bit images (0..255) behind the attention masks; `background` is upstream's "full" mask."""

    face_blur: Pixels
    lip: Pixels
    background: Pixels
    face: Pixels


def expanded_rectangle(points: ArrayLike, ratio: float, width: int, height: int) -> Rectangle:
    """Bounding rectangle of points, grown by `ratio` about its middle and shifted (not cut) into the image.

    Args:
        points: (n, 2) x and y in pixels.
        ratio: Factor on each side's length.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        The rectangle; a start is negative when the grown side is longer than the image's.
    """
    points_xy = np.asarray(points, dtype=np.float64)
    x0, x1 = _expanded_span(points_xy[:, 0], ratio, width)
    y0, y1 = _expanded_span(points_xy[:, 1], ratio, height)
    return Rectangle(y0, y1, x0, x1)


def _expanded_span(values: NDArray[np.float64], ratio: float, size: int) -> tuple[int, int]:
    low, high = float(np.round(values.min())), float(np.round(values.max()))
    middle, half = (high + low) // 2, ((high - low) * ratio) // 2
    start, stop = middle - half, middle + half
    if start < 0:
        start, stop = 0.0, stop - start
    if stop > size:
        start, stop = start - (stop - size), float(size)
    return floor(start), floor(stop)


def rectangles_from_landmarks(
    landmarks: ArrayLike, width: int, height: int, face_ratio: float = 1.2, lip_ratio: float = 2.0
) -> FaceRectangles:
    """Face and lip rectangles from the 478 points of a face mesh, exactly as upstream.

    Args:
        landmarks: (478, 2) x and y in pixels of the un-resized image.
        width: Image width in pixels.
        height: Image height in pixels.
        face_ratio: Growth of the silhouette's bounding box.
        lip_ratio: Growth of the lips' bounding box.

    Returns:
        Both rectangles.

    Raises:
        ValueError: Not 478 points.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (478, 2):
        raise ValueError(f"expected 478 landmarks (x, y), got shape {points.shape}; use rectangles_from_box for others")
    face = expanded_rectangle(points[list(SILHOUETTE)], face_ratio, width, height)
    lip = expanded_rectangle(points[list(LIPS)], lip_ratio, width, height)
    return FaceRectangles(face, lip, width, height)


def rectangles_from_box(
    box: ArrayLike,
    landmarks5: ArrayLike,
    width: int,
    height: int,
    face_ratio: float = 1.2,
    lip_ratio: float = 2.0,
    lip_box: ArrayLike | None = None,
) -> FaceRectangles:
    """Face and lip rectangles from a face box and five points (deviation from upstream, see the module's text).

    Args:
        box: (4,) x0, y0, x1, y1 of the face, brows to chin, in pixels.
        landmarks5: (5, 2) eyes, nose tip, mouth corners; left of the image first.
        width: Image width in pixels.
        height: Image height in pixels.
        face_ratio: Growth of the face box.
        lip_ratio: Growth of the lip box.
        lip_box: (4,) x0, y0, x1, y1 of the lips; None takes the mouth corners and `LIP_HEIGHT_PER_WIDTH`.

    Returns:
        Both rectangles, cut to the image.
    """
    lips = lips_from_corners(landmarks5) if lip_box is None else np.asarray(lip_box, dtype=np.float64).reshape(2, 2)
    face = expanded_rectangle(np.asarray(box, dtype=np.float64).reshape(2, 2), face_ratio, width, height)
    return FaceRectangles(_cut(face), _cut(expanded_rectangle(lips, lip_ratio, width, height)), width, height)


def _cut(rectangle: Rectangle) -> Rectangle:
    return Rectangle(max(rectangle.y0, 0), rectangle.y1, max(rectangle.x0, 0), rectangle.x1)


def lips_from_corners(landmarks5: ArrayLike) -> NDArray[np.float64]:
    """Two corner points (2, 2) of a lip box around the mouth corners of five landmarks (5, 2), in pixels."""
    corners = np.asarray(landmarks5, dtype=np.float64)[3:5]
    centre, half_width = (corners.mean(axis=0), np.linalg.norm(corners[1] - corners[0]) / 2)
    reach = np.array([half_width, half_width * LIP_HEIGHT_PER_WIDTH])
    return np.stack([centre - reach, centre + reach])


def separate_masks(rectangles: FaceRectangles) -> SeparateMasks:
    """The blurred 64 x 64 images of face, lips and background (golden `face_masks`)."""
    face_blur = _blurred(rectangles.face.filled(rectangles.width, rectangles.height), FACE_KERNEL)
    lip = _blurred(rectangles.lip.filled(rectangles.width, rectangles.height), LIP_KERNEL)
    # Upstream truncates instead of rounding, so the background is often one lower than 255 - face.
    background = ((1.0 - face_blur.astype(np.float64) / 255.0) * 255.0).astype(np.uint8)
    return SeparateMasks(face_blur, lip, background, np.asarray(cv2.subtract(face_blur, lip), dtype=np.uint8))


def _blurred(mask: Pixels, kernel: int) -> Pixels:
    """Resize to 64 x 64 ignoring the aspect, Gaussian blur with automatic sigma, stretch to 0..255."""
    small = cv2.resize(mask, (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_LINEAR)
    blurred = cv2.GaussianBlur(small, (kernel, kernel), 0)
    out = np.empty_like(blurred)
    return np.asarray(cv2.normalize(blurred, out, 0, 255, cv2.NORM_MINMAX), dtype=np.uint8)


def attention_levels(mask: Pixels, finest: int, levels: int = 4) -> tuple[NDArray[np.float32], ...]:
    """One 64 x 64 image as flat masks per resolution level.

    Args:
        mask: uint8 (64, 64).
        finest: Side of the finest level, i.e. of the latent (image size / 8).
        levels: How many levels, each half as wide as the one before.

    Returns:
        `levels` arrays float32 (1, side * side) in [0, 1], finest first.

    Raises:
        ValueError: The finest side cannot be halved that often.
    """
    if finest >> (levels - 1) < 1:
        raise ValueError(f"a latent of {finest} has fewer than {levels} levels; use at least {1 << (levels - 1)}")
    image = Image.fromarray(mask)
    sides = [finest >> level for level in range(levels)]
    resized = (image.resize((side, side), Image.Resampling.BILINEAR) for side in sides)
    return tuple((np.asarray(each, dtype=np.float32) / np.float32(255)).reshape(1, -1) for each in resized)


def face_region(rectangles: FaceRectangles, image_size: int) -> NDArray[np.float32]:
    """The un-blurred face rectangle as the face locator's input: float32 (3, image_size, image_size) in [0, 1]."""
    filled = Image.fromarray(rectangles.face.filled(rectangles.width, rectangles.height))
    resized = np.asarray(filled.resize((image_size, image_size), Image.Resampling.BILINEAR), dtype=np.float32)
    return np.repeat((resized / np.float32(255))[None], 3, axis=0)


def attention_masks(
    rectangles: FaceRectangles, finest: int, levels: int = 4
) -> dict[str, tuple[NDArray[np.float32], ...]]:
    """Masks of the three audio branches, "full" (outside of the face), "face" and "lip"; see `attention_levels`."""
    images = separate_masks(rectangles)
    named = {"full": images.background, "face": images.face, "lip": images.lip}
    return {name: attention_levels(image, finest, levels) for name, image in named.items()}


def masks_from_landmarks(
    landmarks: ArrayLike,
    width: int,
    height: int,
    image_size: int,
    face_ratio: float = 1.2,
    lip_ratio: float = 2.0,
    levels: int = 4,
) -> tuple[NDArray[np.float32], dict[str, tuple[NDArray[np.float32], ...]]]:
    """Face region (3, image_size, image_size) and the three mask pyramids from 478 landmarks, exactly as upstream."""
    rectangles = rectangles_from_landmarks(landmarks, width, height, face_ratio, lip_ratio)
    return face_region(rectangles, image_size), attention_masks(rectangles, image_size // 8, levels)
