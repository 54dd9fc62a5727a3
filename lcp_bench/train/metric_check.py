"""The finished networks of the `mini` metrics on people that no training has seen, through files as a metric reads."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lcp_bench.data.synthetic.clip import FAMILIES, SPLITS, SyntheticClip, make_clip
from lcp_bench.data.synthetic.speech import FPS, SAMPLES_PER_FRAME
from lcp_bench.train.metric_data import coded_clip, draw_stills
from lcp_bench.video import write_video
from metrics.mini import load_mini
from metrics.mini_frames import as_images
from metrics.mini_sync import MiniSync
from metrics.nets.mini import OUTPUTS, ExpressionNet

log = logging.getLogger(__name__)

STILLS_SEED = 3000
STILLS = 1000
SHIFTS = (0, -3, 6)
"""Frames by which the sound is made late."""
OTHER_TAKE = 1_000_000


def check_networks(folder: Path, people: int) -> dict[str, Any]:
    """Scores of the networks in a folder.

    Args:
        folder: with `expression.safetensors` and `sync.safetensors`.
        people: of the validation split, one take per family each.

    Returns:
        `r2_stills`: share of each parameter's variance that the regressor explains in single frames of `stills`.
        `r2_takes`: the same in all frames of `takes`, where most parameters vary less and mostly between people.
        `sync`: by delay of the sound, the shares of takes whose offset is found exactly and within one frame, and the
        mean confidence and distance with the right and the confidence with another sound.
    """
    regressor = load_mini("expression", folder).module
    _, coded, values = draw_stills(STILLS_SEED, STILLS)
    clips = [make_clip(family, None, person, 0) for family in FAMILIES for person in SPLITS["validation"][:people]]
    shown = [np.concatenate([clip.mouth, clip.motion.expression, clip.motion.pose], axis=1) for clip in clips]
    return {
        "stills": STILLS,
        "takes": len(clips),
        "r2_stills": _by_name(r2(predict(regressor, coded), values)),
        "r2_takes": _by_name(
            r2(np.concatenate([predict(regressor, coded_clip(clip)[0]) for clip in clips]), np.concatenate(shown))
        ),
        "sync": check_sync(MiniSync(load_mini("sync", folder)), clips),
    }


@torch.inference_mode()
def predict(net: ExpressionNet, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(F, 14) parameters that frames (F, 64, 64, 3) show, in the renderer's units."""
    parts = [net.natural(net(part)) for part in as_images(frames).split(128)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def r2(found: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of each column's variance that is explained; 1 is perfect, 0 no better than the mean."""
    error = np.square(found.astype(np.float64) - truth).mean(axis=0)
    return np.asarray(1 - error / truth.astype(np.float64).var(axis=0))


def check_sync(metric: MiniSync, clips: list[SyntheticClip]) -> dict[str, Any]:
    """Offsets that are found, and confidences, over takes that are written and read as videos."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for clip in clips:
            for late in SHIFTS:
                write_late(path, clip.frames, clip.waveform, late)
                arrays = metric.extract([path])
                found.setdefault(f"error_{late}", []).append(float(arrays["sync_offset"][0] + late))
                if not late:
                    found.setdefault("c", []).append(float(arrays["sync_c"][0]))
                    found.setdefault("d", []).append(float(arrays["sync_d"][0]))
            other = make_clip(clip.family, clip.root, clip.person_id, OTHER_TAKE, frames=len(clip.frames))
            write_late(path, clip.frames, other.waveform, 0)
            found.setdefault("c_wrong_sound", []).append(float(metric.extract([path])["sync_c"][0]))
    offsets = {
        f"late_by_{late}": {
            "exact": float(np.mean(np.array(found[f"error_{late}"]) == 0)),
            "within_1": float(np.mean(np.abs(found[f"error_{late}"]) <= 1)),
        }
        for late in SHIFTS
    }
    means = {name: round(float(np.mean(found[name])), 3) for name in ("c", "d", "c_wrong_sound")}
    return {**offsets, **means}


def write_late(path: Path, frames: NDArray[np.uint8], waveform: NDArray[np.int16], late: int) -> None:
    """A video whose sound is late by so many frames (early if negative); both are cut to what they share."""
    pictures = frames[max(0, late) : len(frames) + min(0, late)]
    sound = waveform[SAMPLES_PER_FRAME * max(0, -late) :][: SAMPLES_PER_FRAME * len(pictures)]
    write_video(path, pictures, FPS, sound.astype(np.float32) / np.float32(32768))


def _by_name(values: NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in zip(OUTPUTS, values, strict=True)}
