"""Face tracks for lip-sync scores: linking detections, smoothing, cropping (joonson/syncnet_python's pipeline).

Boxes are x0, y0, x1, y1 in pixels, y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import medfilt

from metrics.errors import MetricError, VideoGap

Array = NDArray[np.float64]

FPS = 25
MEDIAN = 13
CROP_SIDE = 224
PAD_VALUE = 110


@dataclass(frozen=True, slots=True)
class TrackRules:
    """When detections form a track.

    Attributes:
        min_iou: overlap with the track's last box must be greater.
        max_gap: frames between two detections of a track, at most.
        min_detections: a track needs more detections than this (100 in the original: 4.04 s).
        min_size: mean of the longer box side in pixels must be greater.
    """

    min_iou: float = 0.5
    max_gap: int = 25
    min_detections: int = 100
    min_size: float = 100.0


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One face: frame numbers (T,) without gaps, and boxes (T, 4), interpolated where nothing was detected."""

    frames: NDArray[np.int64]
    boxes: Array


@dataclass(frozen=True, slots=True)
class CropPath:
    """Smoothed square per frame: half side and centre in pixels, (T,) each."""

    half: Array
    x: Array
    y: Array


def iou(first: Array, second: Array) -> float:
    """Intersection over union of two boxes; areas are differences of coordinates, without a pixel added."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:4], second[2:4])
    inside = float(np.prod(np.clip(high - low, 0, None)))
    areas = sum(float(np.prod(box[2:4] - box[:2])) for box in (first, second))
    return inside / (areas - inside) if areas > inside else 0.0


def link(detections: Any, rules: TrackRules | None = None) -> list[FaceTrack]:
    """Link the detections of one shot to face tracks.

    Passes over the frames take one face after another, first come first served. As in the original, the face that
    follows a taken one in its frame is not looked at in that pass, and a track that is too short or too small is
    dropped with its faces.

    Args:
        detections: (n, 6): frame, x0, y0, x1, y1, score; frames ascending, detection order inside a frame.
        rules: thresholds; default the original's.

    Returns:
        Accepted tracks in the order they were found.

    Raises:
        MetricError: not six columns, or frames not ascending.
    """
    rules = rules or TrackRules()
    rows = np.asarray(detections, dtype=np.float64).reshape(-1, 6) if np.size(detections) else np.zeros((0, 6))
    if (np.diff(rows[:, 0]) < 0).any():
        raise MetricError("detections must be sorted by frame")
    frames: dict[int, list[Array]] = {}
    for row in rows:
        frames.setdefault(int(row[0]), []).append(row)
    pool = list(frames.values())
    found: list[FaceTrack] = []
    while taken := _one_pass(pool, rules):
        if len(taken) <= rules.min_detections:
            continue
        track = _interpolated(np.stack(taken))
        sides = (track.boxes[:, 2:] - track.boxes[:, :2]).mean(axis=0)
        if sides.max() > rules.min_size:
            found.append(track)
    return found


def _one_pass(pool: list[list[Array]], rules: TrackRules) -> list[Array]:
    """Take the faces of one track out of the pool."""
    taken: list[Array] = []
    for faces in pool:
        index = 0
        while index < len(faces):
            face = faces[index]
            if taken and face[0] - taken[-1][0] > rules.max_gap:
                break
            if not taken or iou(face[1:5], taken[-1][1:5]) > rules.min_iou:
                taken.append(faces.pop(index))
            index += 1
    return taken


def _interpolated(rows: Array) -> FaceTrack:
    frames = np.arange(int(rows[0, 0]), int(rows[-1, 0]) + 1)
    boxes = np.stack([np.interp(frames, rows[:, 0], rows[:, column]) for column in range(1, 5)], axis=1)
    return FaceTrack(frames, boxes)


def smooth(boxes: Any) -> CropPath:
    """Median-filter (width 13, zeros beyond the ends) half the longer side and the centre of boxes (T, 4)."""
    corners = np.asarray(boxes, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4 or not len(corners):
        raise MetricError(f"expected boxes (frames, 4), got {corners.shape}")
    half = (corners[:, 2:] - corners[:, :2]).max(axis=1) / 2
    centre = (corners[:, 2:] + corners[:, :2]) / 2
    return CropPath(medfilt(half, MEDIAN), medfilt(centre[:, 0], MEDIAN), medfilt(centre[:, 1], MEDIAN))


def sound_span(frames: NDArray[np.int64], fps: float = FPS) -> tuple[float, float]:
    """Start and end of a track's sound in seconds, rounded to milliseconds."""
    return round(float(frames[0]) / fps, 3), round(float(frames[-1] + 1) / fps, 3)


def crop_face(frame: NDArray[np.uint8], half: float, x: float, y: float, share: float = 0.4) -> NDArray[np.uint8]:
    """Square of side 2 (1 + share) half around a face, resized to 224 x 224 (OpenCV, bilinear); grey beyond the frame.

    The square reaches `half` above the box's centre and (1 + 2 share) half below it.

    Args:
        frame: uint8 (H, W, 3).
        half: half of the longer box side, pixels.
        x: centre of the box, pixels.
        y: centre of the box, pixels.
        share: how much is added around the box, as a share of its side.

    Returns:
        uint8 (224, 224, 3), channels as in `frame`.

    Raises:
        VideoGap: the square holds no pixel.
    """
    pad = int(half * (1 + 2 * share))
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=PAD_VALUE)
    middle_x, middle_y = x + pad, y + pad
    rows = slice(int(middle_y - half), int(middle_y + half * (1 + 2 * share)))
    columns = slice(int(middle_x - half * (1 + share)), int(middle_x + half * (1 + share)))
    face = padded[rows, columns]
    if not face.size:
        raise VideoGap(
            f"the face square of half side {half:.1f} at ({x:.1f}, {y:.1f}) holds no pixel of the frame",
            reason="no face track",
        )
    return np.asarray(cv2.resize(face, (CROP_SIDE, CROP_SIDE)), dtype=np.uint8)


def crop_track(frames: NDArray[np.uint8], track_frames: NDArray[np.int64], path: CropPath) -> NDArray[np.uint8]:
    """Crop every frame of a track: uint8 (T, 224, 224, 3) from frames (F, H, W, 3)."""
    places = zip(track_frames, path.half, path.x, path.y, strict=True)
    return np.stack([crop_face(frames[index], half, x, y) for index, half, x, y in places])
