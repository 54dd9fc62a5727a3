"""Finding the face of a portrait offline, and five landmarks for it.

`cascade` is scikit-image's LBP frontal-face cascade, which ships with the package. `insightface` (upstream's detector
and identity embedding) is in `lcp_bench.data.insight`. `manifest` finds nothing by itself: boxes must be given.

The cascade answers with many overlapping windows per face. They are grouped here: the window with most similar ones
(intersection over union >= 0.5) is a face if it has at least `MIN_SUPPORT` of them, and whatever overlaps it by more
than 30 % of the smaller area is dropped. On the 21 portraits and the first frames of the 33 clips the values were
tuned on, true faces have 13 to 180 windows, false ones at most 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from lcp_bench.errors import LcpBenchError

DETECTORS = ("cascade", "manifest", "insightface")
WORKING_SIZE = 256
SCALE_FACTOR = 1.05
MIN_FACE = 0.15
"""Smallest face looked for, as a share of the image's longer side."""
MIN_SUPPORT = 10
SAME_FACE_IOU = 0.5
SUPPRESS_OVERLAP = 0.3
LANDMARKS_IN_BOX: tuple[tuple[float, float], ...] = (
    (0.320, 0.385),  # eye, left of the image
    (0.680, 0.385),  # eye, right of the image
    (0.500, 0.597),  # nose tip
    (0.335, 0.756),  # mouth corner, left of the image
    (0.665, 0.756),  # mouth corner, right of the image
)
"""Mean place of five points in the cascade's box (0..1), made symmetric; ten labelled portraits, SD 0.02 to 0.04."""

Box = tuple[float, float, float, float]


class FaceError(LcpBenchError):
    """No face, several faces, or an unusable box; whoever knows the clip turns it into a `ClipError`."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face: box (x0, y0, x1, y1) and five points (5, 2) in pixels; `embedding` (512,) only from insightface."""

    box: Box
    landmarks5: NDArray[np.float64]
    support: float
    embedding: NDArray[np.float32] | None = None


def detect_faces(image: NDArray[np.uint8]) -> list[Face]:
    """Faces found by the cascade, best supported first.

    Args:
        image: uint8 (height, width, 3) RGB.

    Returns:
        Faces with estimated landmarks; `support` counts the agreeing windows.
    """
    return [Face(box, landmarks_from_box(box), support) for box, support in _group(_windows(image))]


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]


def _windows(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """All windows that the cascade accepts, (n, 4) x0, y0, x1, y1 in pixels of `image`."""
    height, width = image.shape[:2]
    scale = WORKING_SIZE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    smallest = int(MIN_FACE * WORKING_SIZE)
    if min(size) < smallest:
        return np.zeros((0, 4))
    found = _cascade().detect_multi_scale(
        img=small,
        scale_factor=SCALE_FACTOR,
        step_ratio=1,
        min_size=(smallest, smallest),
        max_size=(WORKING_SIZE, WORKING_SIZE),
        min_neighbor_number=0,
        intersection_score_threshold=1.01,  # above 1 switches scikit-image's own merging off: it doubles nested faces
    )
    corners = [(each["c"], each["r"], each["c"] + each["width"], each["r"] + each["height"]) for each in found]
    return np.asarray(np.array(sorted(corners), dtype=np.float64).reshape(-1, 4) / scale, dtype=np.float64)


def _group(windows: NDArray[np.float64]) -> list[tuple[Box, int]]:
    """Merge windows into faces, see the module's text."""
    area = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
    low = np.maximum(windows[:, None, :2], windows[None, :, :2])
    high = np.minimum(windows[:, None, 2:], windows[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    similar = overlap / (area[:, None] + area[None] - overlap) >= SAME_FACE_IOU
    clashing = overlap / np.minimum(area[:, None], area[None]) > SUPPRESS_OVERLAP
    alive = np.ones(len(windows), dtype=bool)
    faces: list[tuple[Box, int]] = []
    while alive.any():
        support = (similar & alive[None]).sum(axis=1) * alive
        best = int(support.argmax())
        if support[best] < MIN_SUPPORT:
            break
        x0, y0, x1, y1 = np.median(windows[similar[best] & alive], axis=0).tolist()
        faces.append(((x0, y0, x1, y1), int(support[best])))
        alive &= ~(similar[best] | clashing[best])
    return faces


def single_face(faces: list[Face], hint: str = "") -> Face:
    """The only face of a portrait.

    Args:
        faces: What a detector found.
        hint: Who looked, for the message.

    Returns:
        That face.

    Raises:
        FaceError: None or several were found; the message says how to give a box.
    """
    if not faces:
        raise FaceError(
            f"expected one face, found none{hint}; give its box (x0 y0 x1 y1, pixels) in a pairs.csv, "
            "or use a frontal portrait"
        )
    if len(faces) > 1:
        listed = "; ".join(" ".join(f"{value:.0f}" for value in face.box) for face in faces)
        raise FaceError(
            f"expected one face, found {len(faces)}{hint} at boxes (x0 y0 x1 y1) {listed}; "
            "give the box of the wanted one in a pairs.csv, or crop the portrait"
        )
    return faces[0]


def landmarks_from_box(box: ArrayLike) -> NDArray[np.float64]:
    """Five points (5, 2) in pixels estimated from a face box (4,) by `LANDMARKS_IN_BOX`."""
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    scaled = np.array(LANDMARKS_IN_BOX) * np.array([x1 - x0, y1 - y0])
    return np.asarray(np.array([x0, y0]) + scaled, dtype=np.float64)


def box_from_landmarks(landmarks5: ArrayLike, width: int, height: int) -> Box:
    """The square box whose estimated landmarks lie closest to five given ones (least squares), cut to the image.

    Args:
        landmarks5: (5, 2) eyes, nose tip, mouth corners in pixels.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        x0, y0, x1, y1 in pixels.

    Raises:
        FaceError: The points lie (almost) on one spot or describe a box outside of the image.
    """
    points, template = (np.asarray(landmarks5, dtype=np.float64), np.array(LANDMARKS_IN_BOX))
    centred = template - template.mean(axis=0)
    side = float((centred * (points - points.mean(axis=0))).sum() / (centred**2).sum())
    x0, y0 = (points.mean(axis=0) - side * template.mean(axis=0)).tolist()
    return checked_box((max(x0, 0), max(y0, 0), min(x0 + side, width), min(y0 + side, height)), width, height)


def checked_box(box: ArrayLike, width: int, height: int) -> Box:
    """`box` as floats when it spans at least 8 pixels inside the image.

    Raises:
        FaceError: Wrong length, empty, or outside of the image.
    """
    values = np.asarray(box, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise FaceError(
            f"expected a face box of four numbers x0 y0 x1 y1, got {box!r}; correct it in the manifest's source"
        )
    x0, y0, x1, y1 = values.tolist()
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height or x1 - x0 < 8 or y1 - y0 < 8:
        raise FaceError(
            f"expected a face box of at least 8 pixels inside the {width}x{height} image, "
            f"got {x0:g} {y0:g} {x1:g} {y1:g}; give x0 y0 x1 y1 in pixels of the portrait file"
        )
    return x0, y0, x1, y1
