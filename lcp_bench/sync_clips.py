"""`python -m lcp_bench.sync_clips VIDEOS`: the mini lip-sync network on real talking clips, one row per clip.

The mini network knows drawn people in the renderer's framing. Here every real face is tracked (the project's cascade,
on every fifth frame) and cropped so that its box lies where the cascade finds the box of drawn people. What comes out
is a test of the path from mp4 to LSE-C, LSE-D and offset, and of how far the network carries over: no score of quality,
and on no published scale. A clip that cannot be tracked or heard is named with its reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.faces import detect_faces
from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.measure.clock import utc_now
from lcp_bench.provenance import git_state, versions
from lcp_bench.score import find_videos
from lcp_bench.score_table import write_text
from metrics.cache import Gap
from metrics.errors import VideoGap
from metrics.faces import BoxFinder
from metrics.lipsync import SAMPLES_PER_FRAME, SyncScore, embed_track
from metrics.metric import FeatureSet
from metrics.mini import SHIPPED, load_mini
from metrics.mini_frames import lower_face, to_grey
from metrics.mini_sync import offset_curve
from metrics.nets.mini import SIDE
from metrics.protocol import SyncProtocol
from metrics.sync import Sync
from metrics.tracks import FaceTrack, TrackRules, link, smooth
from metrics.weights import Loaded

STRIDE = 5
"""Faces are looked for in every so manieth frame and interpolated in between."""
BOX_SIDE, BOX_X, BOX_Y = 0.542, 0.494, 0.450
"""Side and middle of the cascade's box of drawn people, in sides of the picture (42 frames of 4 test people)."""
MAX_SHIFT = 10
CLIP_KEYS = ("clip", "frames", "lse_c", "lse_d", "offset")


class TrackedMiniSync(Sync):
    """The mini network behind the face tracking of the published pipeline.

    Args:
        net: the mini SyncNet.
    """

    def __init__(self, net: Loaded[Any]) -> None:
        protocol = SyncProtocol(max_shift=MAX_SHIFT)
        super().__init__(net, BoxFinder(f"cascade, every {STRIDE}th frame", _cascade), protocol)

    def _tracks(self, frames: NDArray[np.uint8], name: str) -> list[FaceTrack]:
        settings = self.settings
        rows = [
            np.array([number, *box]) for number in range(0, len(frames), STRIDE) for box in _cascade(frames[number])
        ]
        if not rows:
            raise VideoGap(f"{name}: no face in {len(frames)} frames", reason="no face")
        wanted = settings.min_detections // STRIDE
        tracks = link(np.stack(rows), TrackRules(settings.min_iou, settings.max_gap, wanted, settings.min_size))
        if not tracks:
            raise VideoGap(
                f"{name}: no face track with more than {wanted} detections (every {STRIDE}th frame) and larger than "
                f"{settings.min_size:g} pixels; {len(rows)} detections in {len(frames)} frames",
                reason="no face track",
            )
        return tracks

    def _score(self, frames: NDArray[np.uint8], sound: NDArray[np.int16], track: FaceTrack) -> SyncScore:
        path = smooth(track.boxes)
        places = zip(track.frames, path.half, path.x, path.y, strict=True)
        crops = np.stack([as_drawn(frames[at], 2 * half, x, y) for at, half, x, y in places])
        begin, end = (int(at) * SAMPLES_PER_FRAME for at in (track.frames[0], track.frames[-1] + 1))
        mouth = lower_face(to_grey(crops))[..., None]
        lips, sounds = embed_track(self.net.module, mouth, sound[begin:end], 64)
        if len(lips) <= MAX_SHIFT:
            raise VideoGap(
                f"{len(lips)} windows with sound, offsets of {MAX_SHIFT} frames need more", reason="too short"
            )
        curve = offset_curve(lips, sounds, MAX_SHIFT)
        nothing = np.zeros(0)  # per-window values, which nobody asks for here
        return SyncScore(nothing, curve.mean_distance, curve.distance, curve.confidence, curve.offset, nothing)


def as_drawn(frame: NDArray[np.uint8], side: float, x: float, y: float) -> NDArray[np.uint8]:
    """Cut a square so that a face's box lies in it as that of drawn people does.

    Args:
        frame: uint8 (H, W, 3).
        side: The box's longer side in pixels.
        x: Its middle in pixels.
        y: Its middle in pixels.

    Returns:
        uint8 (64, 64, 3); beyond the picture its border goes on.
    """
    scale = SIDE * BOX_SIDE / max(side, 1.0)
    move = np.array([[scale, 0, BOX_X * SIDE - scale * x], [0, scale, BOX_Y * SIDE - scale * y]])
    blurred = cv2.GaussianBlur(frame, (0, 0), 0.5 / scale) if scale < 1 else frame  # so that shrinking does not alias
    small = cv2.warpAffine(blurred, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(small, dtype=np.uint8)


def _cascade(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.array([[*face.box, face.support] for face in detect_faces(image)], dtype=np.float64).reshape(-1, 5)


def rows_of(found: FeatureSet) -> list[dict[str, Any]]:
    """One row per clip that has a track, of its longest track: `CLIP_KEYS`."""
    rows = []
    for clip, arrays in sorted(found.arrays.items()):
        lengths = arrays["last"] - arrays["first"] + 1
        best = int(lengths.argmax())
        values = (float(arrays["lse_c"][best]), float(arrays["lse_d"][best]), int(arrays["offset"][best]))
        rows.append(dict(zip(CLIP_KEYS, (clip, int(lengths[best]), *values), strict=True)))
    return rows


def as_document(found: FeatureSet) -> dict[str, Any]:
    """Rows, gaps, the protocol and where it was made, as JSON values."""
    gaps: dict[str, Gap] = found.gaps
    return {
        "schema_version": 1,
        "what": "mini lip-sync network on real talking clips",
        "created_utc": utc_now(),
        "versions": versions(),
        "git": git_state(),
        "protocol": found.protocol.as_dict(),
        "clips": rows_of(found),
        "gaps": [{"clip": clip, "reason": gap.reason, "message": gap.message} for clip, gap in sorted(gaps.items())],
    }


def as_markdown(document: dict[str, Any]) -> str:
    """The two tables."""
    lines = ["| clip | frames tracked | LSE-C ↑ | LSE-D ↓ | offset (frames of 40 ms, positive: sound ahead) |",
             "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    lines += [
        f"| {row['clip']} | {row['frames']} | {row['lse_c']:.3f} | {row['lse_d']:.3f} | {row['offset']:+d} |"
        for row in document["clips"]
    ]
    near = sum(abs(row["offset"]) <= 2 for row in document["clips"])
    total = len(document["clips"]) + len(document["gaps"])
    lines += ["", f"{len(document['clips'])} of {total} clips have a score; {near} of them an offset within 2 frames."]
    if document["gaps"]:
        lines += ["", "| clip without a score | reason |", "| --- | --- |"]
        lines += [f"| {gap['clip']} | {gap['reason']}: {gap['message']} |" for gap in document["gaps"]]
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 when no clip has a score, 2 when the command is wrong."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.sync_clips", description=__doc__.partition("\n")[0])
    parser.add_argument("videos", metavar="VIDEOS", help="folder of talking clips, 25 fps with sound")
    parser.add_argument("--out", metavar="FILE", help="also write the record as JSON")
    try:
        options = parser.parse_args(arguments)
        out = None if options.out is None else Path(options.out)
        if out is not None and not out.parent.is_dir():
            raise ConfigError(f"--out: expected a file in an existing folder, got {out}")
        metric = TrackedMiniSync(load_mini("sync", SHIPPED))
        document = as_document(metric.features(find_videos(options.videos, "VIDEOS")))
        if out is not None:
            write_text(out, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(as_markdown(document))
    return 0 if document["clips"] else 1


if __name__ == "__main__":
    sys.exit(main())
