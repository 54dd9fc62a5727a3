"""Upstream's face detector and identity embedding, as an extra with the user's own files.

Needs `pip install insightface onnxruntime` and, below `insightface_root`, `models/*.onnx` (scrfd_10g_bnkps and
glintr100 of the public Hallo files, folder `face_analysis`). Neither package nor files are fetched from here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.faces import Face
from lcp_bench.errors import ConfigError

DETECTION_SIZE = (640, 640)


def detect_faces_insightface(image: NDArray[np.uint8], root: str | None) -> list[Face]:
    """Faces with five landmarks and a raw (not normalised) 512-d embedding, largest box first.

    Args:
        image: uint8 (height, width, 3) RGB.
        root: Folder that holds `models/` with the ONNX files.

    Returns:
        Faces; `support` is the detector's score.

    Raises:
        ConfigError: The package or the files are missing.
    """
    found = _analysis(root).get(np.ascontiguousarray(image[:, :, ::-1]))
    faces = [_face(each) for each in found]
    return sorted(faces, key=lambda face: (face.box[0] - face.box[2]) * (face.box[3] - face.box[1]))


def _face(found: Any) -> Face:
    x0, y0, x1, y1 = (float(value) for value in found.bbox)
    points = np.asarray(found.kps, dtype=np.float64)
    return Face((x0, y0, x1, y1), points, float(found.det_score), np.asarray(found.embedding, dtype=np.float32))


@cache
def _analysis(root: str | None) -> Any:
    if root is None or not list(Path(root, "models").glob("*.onnx")):
        raise ConfigError(
            f"dataset.face_detector=insightface needs its ONNX files in <root>/models, got root={root}; set "
            "dataset.insightface_root to the face_analysis folder of the public Hallo files, or face_detector=cascade"
        )
    try:
        from insightface.app import FaceAnalysis  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ConfigError(
            "dataset.face_detector=insightface needs the packages insightface and onnxruntime; install them into an "
            "environment of their own (they replace OpenCV), or use face_detector=cascade"
        ) from error
    analysis = FaceAnalysis(name="", root=root, providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_size=DETECTION_SIZE)
    return analysis
