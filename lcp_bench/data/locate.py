"""The face of one clip's portrait: what the manifest gives comes first, then landmarks, then a detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.faces import (
    Box,
    Face,
    FaceError,
    box_from_landmarks,
    checked_box,
    detect_faces,
    landmarks_from_box,
    single_face,
)
from lcp_bench.data.manifest import Clip


@dataclass(frozen=True, slots=True)
class LocatedFace:
    """A face with its origin: `given`, `landmarks`, or the detector's name; `embedding` only from insightface."""

    box: Box
    landmarks5: NDArray[np.float64]
    source: str
    embedding: NDArray[np.float32] | None = None


def locate_face(
    clip: Clip, image: NDArray[np.uint8], detector: str, insightface_root: str | None = None
) -> LocatedFace:
    """Box and five points of the face to animate.

    Args:
        clip: Its `box` and `landmarks5` are used when given.
        image: uint8 (height, width, 3) RGB portrait.
        detector: `cascade`, `insightface` or `manifest`.
        insightface_root: Folder of the ONNX files for `insightface`.

    Returns:
        The face; missing landmarks are estimated from the box, a missing box from the landmarks.

    Raises:
        FaceError: No face, several faces, a box outside of the image, or nothing given and `manifest` chosen.
        ConfigError: insightface is chosen and not available.
    """
    height, width = image.shape[:2]
    given = np.asarray(clip.landmarks5, dtype=np.float64) if clip.landmarks5 is not None else None
    if detector == "insightface":
        return _from_insightface(clip, image, given, insightface_root)
    if clip.box is not None:
        box = checked_box(clip.box, width, height)
        return LocatedFace(box, landmarks_from_box(box) if given is None else given, clip.box_source or "given")
    if given is not None:
        return LocatedFace(box_from_landmarks(given, width, height), given, "landmarks")
    if detector == "manifest":
        raise FaceError(
            "dataset.face_detector=manifest needs a box or five landmarks per clip, this one has neither; "
            "add them to the pairs.csv or use face_detector=cascade"
        )
    face = single_face(detect_faces(image), " by the frontal-face cascade")
    return LocatedFace(_inside(face.box, width, height), face.landmarks5, detector)


def _from_insightface(
    clip: Clip, image: NDArray[np.uint8], given: NDArray[np.float64] | None, root: str | None
) -> LocatedFace:
    """The face nearest to a given box, else upstream's choice, the largest one."""
    from lcp_bench.data.insight import detect_faces_insightface

    height, width = image.shape[:2]
    faces = detect_faces_insightface(image, root)
    if not faces:
        single_face(faces, " by insightface")
    if clip.box is None:
        face = single_face(faces, " by insightface")
        return LocatedFace(
            _inside(face.box, width, height), face.landmarks5 if given is None else given, "insightface", face.embedding
        )
    box = checked_box(clip.box, width, height)
    face = min(faces, key=lambda each: _distance(each, box))
    points = face.landmarks5 if given is None else given
    return LocatedFace(box, points, clip.box_source or "given", face.embedding)


def _distance(face: Face, box: Box) -> float:
    return float(np.abs(np.subtract(face.box, box)).sum())


def _inside(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box
    return checked_box((max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)), width, height)
