"""From parameters to pictures, masks, boxes and landmarks: a face as a formula.

Layers from back to front: background, back hair, shoulders, neck, ears, skull cap of hair, head, nose, eyes, brows,
glasses, mouth, fringe. The foreground mask is every pixel that one of them touches.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic import features
from lcp_bench.data.synthetic.head import Head, Place
from lcp_bench.data.synthetic.people import Person
from lcp_bench.data.synthetic.shapes import Canvas
from lcp_bench.errors import DatasetError

Floats = NDArray[np.float32]

BATCH = 16
"""Frames painted at once; more do not fit the processor's cache."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Pictures and the truth about them; pixel i covers the coordinates i to i + 1.

    Attributes:
        frames: uint8 (frames, size, size, 3).
        masks: bool (frames, size, size), the person; outside of it a frame equals its background.
        lip_masks: bool (frames, size, size), at least half covered by the outer lips (with the opening).
        face_boxes: float32 (frames, 4), x0, y0, x1, y1 of the head without hair.
        mouth_box: float32 (frames, 4), of the outer lips.
        landmarks5: float32 (frames, 5, 2), x, y of eyes, nose tip and mouth corners, left of the picture first.
    """

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    lip_masks: NDArray[np.bool_]
    face_boxes: Floats
    mouth_box: Floats
    landmarks5: Floats

    @property
    def face_box(self) -> Floats:
        """The face box (4,) of the first frame."""
        return np.asarray(self.face_boxes[0])


def render(
    person: Person,
    mouth: Floats,
    expression: Floats,
    pose: Floats,
    gaze: Floats,
    background: Floats,
    size: int = 64,
) -> Rendered:
    """Draw a person.

    Args:
        person: Whom.
        mouth: (frames, 4), see `Take`.
        expression: (frames, 5), see `Motion`.
        pose: (frames, 5), see `Motion`.
        gaze: (frames, 2), see `Motion`.
        background: float32 (size, size, 3) in 0..1, or one per frame (frames, size, size, 3).
        size: Side of the picture in pixels, 16 or more.

    Raises:
        DatasetError: Shapes that do not fit together.
    """
    frames = mouth.shape[0]
    shapes = mouth.shape, expression.shape, pose.shape, gaze.shape
    wanted = (frames, 4), (frames, 5), (frames, 5), (frames, 2)
    if frames < 1 or size < 16 or shapes != wanted:
        raise DatasetError(
            f"expected {wanted} for 1 or more frames of 16 pixels or more, got {shapes} at {size} pixels"
        )
    if background.shape not in ((size, size, 3), (frames, size, size, 3)):
        raise DatasetError(f"expected a background of {size} pixels, still or {frames} frames, got {background.shape}")
    parts = [
        _render_batch(
            person,
            features.Face.of(mouth[chosen], expression[chosen], gaze[chosen]),
            pose[chosen],
            background if background.ndim == 3 else background[chosen],
        )
        for chosen in (slice(begin, begin + BATCH) for begin in range(0, frames, BATCH))
    ]
    return Rendered(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Rendered)))


def _render_batch(person: Person, face: features.Face, pose: Floats, background: Floats) -> Rendered:
    head, canvas = Head.posed(person, pose), Canvas(background, pose.shape[0])
    features.paint_body(canvas, head)
    coverage = features.paint_head(canvas, head, face)
    nose = features.paint_nose(canvas, head)
    eyes = features.paint_eyes(canvas, head, face)
    area, lips, corners = features.paint_mouth(canvas, head, face)
    features.paint_fringe(canvas, head)
    lip_masks = np.zeros_like(canvas.foreground)
    lip_masks[:, area.rows, area.columns] = lips >= 0.5
    return Rendered(
        frames=canvas.finish(),
        masks=canvas.foreground,
        lip_masks=lip_masks,
        face_boxes=_boxes(coverage >= 0.5),
        mouth_box=_boxes(lip_masks),
        landmarks5=_landmarks(head, (*eyes, nose, *corners), canvas.size),
    )


def _boxes(masks: NDArray[np.bool_]) -> Floats:
    """x0, y0, x1, y1 around the set pixels of every mask."""
    columns, rows = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    (x0, x1), (y0, y1) = ((hit.argmax(axis=1), hit.shape[1] - hit[:, ::-1].argmax(axis=1)) for hit in (columns, rows))
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)


def _landmarks(head: Head, places: tuple[Place, ...], size: int) -> Floats:
    points = [np.stack([axis[:, 0, 0] for axis in head.in_picture(place)], axis=1) for place in places]
    return np.asarray((np.stack(points, axis=1) + 1) * (size / 2), dtype=np.float32)
