"""From an image to face boxes with S3FD: resize, network, decoding, suppression of overlaps (syncnet_python)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metrics.errors import MetricError
from metrics.nets.s3fd import RawDetections, S3fd, decode

Array = NDArray[np.float64]

MEAN_RGB = (123.0, 117.0, 104.0)
CANDIDATE_SCORE = 0.05
CANDIDATE_IOU = 0.3
CANDIDATES, KEPT = 5000, 750
FINAL_IOU = 0.1


def suppress(boxes: NDArray[Any], scores: NDArray[Any], max_iou: float, limit: int | None = None) -> NDArray[np.int64]:
    """Greedy non-maximum suppression; areas are differences of coordinates, without a pixel added.

    Args:
        boxes: (n, 4) x0, y0, x1, y1.
        scores: (n,).
        max_iou: boxes that overlap a better one by more are dropped.
        limit: look at this many best boxes only; None for all.

    Returns:
        Indices of the boxes kept, best first.
    """
    order = np.argsort(-scores, kind="stable")[:limit]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        inside = np.prod(np.clip(high - low, 0, None), axis=1)
        order = rest[inside <= max_iou * (areas[best] + areas[rest] - inside)]
    return np.array(kept, dtype=np.int64)


def candidates(raw: RawDetections, row: int = 0) -> NDArray[np.float32]:
    """Boxes of one image of a batch: score > 0.05, the best 5000, overlap at most 0.3, at most 750.

    Returns:
        float32 (K, 5): score, x0, y0, x1, y1 as shares of the image, best first.
    """
    scores = raw.scores[row, :, 1].cpu().numpy()
    boxes = decode(raw.regression[row], raw.priors).cpu().numpy()
    chosen = scores > CANDIDATE_SCORE
    scores, boxes = scores[chosen], boxes[chosen]
    kept = suppress(boxes, scores, CANDIDATE_IOU, CANDIDATES)[:KEPT]
    return np.concatenate([scores[kept, None], boxes[kept]], axis=1).astype(np.float32)


def detector_input(image: NDArray[np.uint8], scale: float) -> torch.Tensor:
    """uint8 (H, W, 3) RGB, resized by `scale` (OpenCV, bilinear), as float32 (1, 3, h, w) minus the mean colour."""
    resized = cv2.resize(image, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    pixels = resized.astype(np.float32) - np.array(MEAN_RGB, dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@torch.inference_mode()
def detect_faces(net: S3fd, image: NDArray[np.uint8], *, min_score: float = 0.9, scale: float = 0.25) -> Array:
    """Faces in one image.

    Args:
        net: in eval mode.
        image: uint8 (H, W, 3), RGB.
        min_score: probability above which a box counts.
        scale: the network sees the image at this size.

    Returns:
        float64 (K, 5): x0, y0, x1, y1 in pixels of `image`, score; best first, overlap at most 0.1.

    Raises:
        MetricError: the image is not uint8 RGB.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise MetricError(f"expected a uint8 RGB image (height, width, 3), got {image.dtype} {image.shape}")
    device = next(net.parameters()).device
    found = candidates(net(detector_input(image, scale).to(device))).astype(np.float64)
    found = found[found[:, 0] > min_score]
    height, width = image.shape[:2]
    boxes = found[:, 1:] * np.array([width, height, width, height])
    kept = suppress(boxes, found[:, 0], FINAL_IOU)
    return np.concatenate([boxes[kept], found[kept, :1]], axis=1)
