"""From video files to lip-sync and fidelity scores, with small stand-ins for the networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_clips import Levels, loaded, picture_video, writer
from numpy.typing import NDArray

from metrics.errors import MetricError
from metrics.faces import BoxFinder
from metrics.fidelity import Fidelity
from metrics.mfcc import mfcc, pcm16
from metrics.nets.lpips import Lpips
from metrics.protocol import FidelityProtocol, SyncProtocol
from metrics.sync import Sync


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return writer(tmp_path)


# Lip-sync


def talking(frames: int, shift: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
    """A blue square whose brightness follows a curve, sound whose loudness follows it `shift` frames earlier."""
    generator = np.random.default_rng(21)
    curve = np.repeat(generator.uniform(0, 6, frames // 2 + 20), 2)[: frames + 30]
    pictures = np.zeros((frames, 160, 160, 3), np.uint8)
    pictures[..., 2] = np.round(40 + 30 * curve[15 : 15 + frames])[:, None, None]
    noise = generator.standard_normal(frames * 640) * 0.01
    loudness = np.repeat(curve[15 + shift : 15 + shift + frames], 640)
    return (
        pictures,
        (noise * np.exp(loudness / 2)).astype(np.float32),
        float(mfcc(pcm16(noise.astype(np.float32)))[:, 0].mean()),
    )


def middle(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.array([[25.0, 25.0, 135.0, 135.0, 0.99]])


@pytest.mark.parametrize("shift", [-6, 0, pytest.param(5, marks=pytest.mark.slow)])
def test_a_known_offset_is_found_in_a_file(shift: int, write: Callable[..., Path]) -> None:
    """Positive: the sound is ahead of the picture."""
    pictures, sound, silence = talking(90, shift)
    metric = Sync(loaded(Levels(silence)), BoxFinder("middle", middle))
    found = metric.features({"a": write("a", pictures, audio=sound)})
    scores = {score.name: score for score in metric.scores(found)}
    assert scores["offset"].value == shift
    assert scores["lse_c"].value is not None and scores["lse_c"].value > 1
    assert (scores["lse_c"].direction, scores["lse_d"].direction, scores["offset"].direction) == (
        "higher",
        "lower",
        "none",
    )
    assert scores["lse_c"].interval.reason == "n = 1: an interval needs at least 2 clips"
    assert found.arrays["a"]["last"].tolist() == [89] and found.arrays["a"]["curve"].shape == (1, 31)


def test_the_sound_of_a_track_starts_with_its_first_frame(write: Callable[..., Path]) -> None:
    """The face appears after ten frames."""
    pictures, sound, silence = talking(90, 3)
    pictures[:10] = 255
    seen = BoxFinder("late", lambda image: middle(image) if image[0, 0, 0] < 128 else np.zeros((0, 5)))
    found = Sync(loaded(Levels(silence)), seen).features({"a": write("a", pictures, audio=sound)}).arrays["a"]
    assert (found["first"].tolist(), found["offset"].tolist()) == ([10], [3])


def test_videos_that_cannot_be_tracked_are_named(write: Callable[..., Path]) -> None:
    pictures, sound, silence = talking(60, 0)
    videos = {
        "silent": write("silent", pictures),
        "short": write("short", pictures[:50], audio=sound),
        "good": write("good", pictures, audio=sound),
    }
    metric = Sync(loaded(Levels(silence)), BoxFinder("middle", middle))
    found = metric.features(videos)
    assert {clip: gap.reason for clip, gap in found.gaps.items()} == {"silent": "no sound", "short": "no face track"}
    assert "50 detections in 50 frames" in found.gaps["short"].message
    score = metric.scores(found)[0]
    assert (score.n, score.n_expected) == (1, 3)
    blind = Sync(loaded(Levels(silence)), BoxFinder("blind", lambda _: np.zeros((0, 5))))
    assert blind.features({"good": videos["good"]}).gaps["good"].reason == "no face"
    assert blind.protocol.hash != metric.protocol.hash


def test_differences_to_the_baseline_are_paired(write: Callable[..., Path]) -> None:
    pictures, sound, silence = talking(60, 0)
    in_sync, late = write("good", pictures, audio=sound), write("late", pictures, audio=talking(60, -3)[1])
    metric = Sync(loaded(Levels(silence)), BoxFinder("middle", middle), SyncProtocol(bootstrap=0))
    run = metric.features({"a": late, "b": in_sync})
    baseline = metric.features({"a": in_sync, "b": in_sync, "c": in_sync})
    found = {score.name: score for score in metric.differences(run, baseline)}
    assert found["offset_minus_baseline"].value == -1.5
    assert (found["offset_minus_baseline"].n, found["offset_minus_baseline"].n_expected) == (2, 3)


# Fidelity


def test_fidelity_of_a_video_with_itself_and_with_others(write: Callable[..., Path]) -> None:
    base = write("base", picture_video(1, 12, 64))
    near = write("near", np.clip(picture_video(1, 12, 64).astype(int) + 3, 0, 255).astype(np.uint8))
    torch.manual_seed(0)
    net = Lpips("alex")
    metric = Fidelity(loaded(net), FidelityProtocol(bootstrap=0), batch=5)
    pairs = {"same": (base, base), "near": (near, base)}
    found = metric.features(pairs)
    assert {name: array.shape for name, array in found.arrays["near"].items()} == dict.fromkeys(
        ("psnr", "ssim", "lpips"), (12,)
    )
    same = metric.scores(replace(found, arrays={"same": found.arrays["same"]}))
    assert {score.name: score.value for score in same} == {
        "psnr_vs_unaccelerated": 100.0,
        "ssim_vs_unaccelerated": pytest.approx(1.0),
        "lpips_vs_unaccelerated": 0.0,
    }
    assert found.arrays["near"]["psnr"].mean() == pytest.approx(
        20 * np.log10(255 / 3), abs=4
    )  # the codec adds its part
    truth = Fidelity(None, FidelityProtocol(against="ground truth"))
    assert set(truth.quantities) == {"psnr_vs_ground_truth", "ssim_vs_ground_truth"}
    assert truth.protocol.label == "no backbone"


def test_videos_that_do_not_match_are_gaps(write: Callable[..., Path]) -> None:
    base = write("base", picture_video(1, 12, 64))
    pairs = {
        "longer": (write("longer", picture_video(1, 13, 64)), base),
        "larger": (write("larger", picture_video(1, 12, 66)), base),
    }
    metric = Fidelity()
    assert {clip: gap.reason for clip, gap in metric.features(pairs).gaps.items()} == {
        "longer": "frames differ",
        "larger": "sizes differ",
    }
    with pytest.raises(MetricError, match="two videos per clip"):
        metric.features({"one": base})
