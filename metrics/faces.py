"""Who finds faces: named functions, because the finder decides numbers and belongs into the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metrics.detect import detect_faces
from metrics.frechet import Array
from metrics.nets.s3fd import S3fd
from metrics.protocol import BackboneId, SyncProtocol
from metrics.weights import Loaded


@dataclass(frozen=True, slots=True)
class BoxFinder:
    """Finds face boxes.

    Attributes:
        name: for the protocol; another name wherever the result can differ.
        find: uint8 RGB (H, W, 3) to (K, 5): x0, y0, x1, y1 in pixels, score; best first.
        backbone: its network, where it has one.
    """

    name: str
    find: Callable[[NDArray[np.uint8]], Array]
    backbone: BackboneId | None = None


@dataclass(frozen=True, slots=True)
class LandmarkFinder:
    """Finds five points of the main face.

    Attributes:
        name: for the protocol; another name wherever the result can differ.
        find: uint8 RGB (H, W, 3) to (5, 2) x, y in pixels: eyes, nose tip, mouth corners; None without a face.
        backbone: its network, where it has one.
    """

    name: str
    find: Callable[[NDArray[np.uint8]], Array | None]
    backbone: BackboneId | None = None


def s3fd_finder(net: Loaded[S3fd], protocol: SyncProtocol) -> BoxFinder:
    """The detector of the published SyncNet pipeline, with the threshold and scale of the protocol it is used under."""
    score, scale = protocol.min_score, protocol.detector_scale
    return BoxFinder("s3fd", lambda image: detect_faces(net.module, image, min_score=score, scale=scale), net.identity)
