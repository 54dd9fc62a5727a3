"""From video files to scores, with small stand-ins for the networks: gaps, caching, resuming, equal frames, offsets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from metric_clips import SIDE, Levels, loaded, picture_video, writer
from numpy.typing import NDArray
from torch import Tensor, nn

from metrics import align
from metrics.cache import FeatureCache
from metrics.efid import Efid
from metrics.errors import MetricError
from metrics.faces import BoxFinder, LandmarkFinder
from metrics.fid import Fid
from metrics.frames import read_frames
from metrics.frechet import frechet_distance
from metrics.fvd import Fvd
from metrics.metric import Metric
from metrics.protocol import EfidProtocol, FidProtocol, FvdProtocol
from metrics.resize import inception_input
from metrics.sync import Sync


class Colours(nn.Module):
    """Mean colour of each quarter of the last two axes, and of time where there is one; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, pictures: Tensor) -> Tensor:
        self.calls += 1
        still = pictures.mean(dim=2) if pictures.ndim == 5 else pictures
        return self.scale * F.adaptive_avg_pool2d(still, 2).flatten(1)


class Expressions(Colours):
    """257 numbers, of which 80..143 are an 8 x 8 picture."""

    def forward(self, pictures: Tensor) -> Tensor:
        self.calls += 1
        grey = F.adaptive_avg_pool2d(pictures.mean(dim=1, keepdim=True), 8).flatten(1)
        return F.pad(self.scale * grey, (80, 113))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return writer(tmp_path)


@pytest.fixture
def two_sets(write: Callable[..., Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Four real clips of 40 frames, and generated ones of 50 frames (one window more) with other colours."""
    real = {f"clip{i}": write(f"real{i}", picture_video(i, 40)) for i in range(4)}
    made = {f"clip{i}": write(f"made{i}", picture_video(100 + i, 50)) for i in range(4)}
    return real, made


# Common behaviour


def fvd(bootstrap: int = 20, **changes: Any) -> Fvd:
    return Fvd(loaded(Colours()), FvdProtocol(bootstrap=bootstrap, **changes))


def test_a_set_against_itself_and_against_another(two_sets: tuple[dict[str, Path], dict[str, Path]]) -> None:
    metric = fvd()
    real, made = (metric.features(videos) for videos in two_sets)
    (own,) = metric.scores(real, real)
    (other,) = metric.scores(made, real)
    assert own.value == pytest.approx(0, abs=1e-9)
    assert other.value is not None and other.value > 1e-3
    assert (other.name, other.n, other.n_expected, other.samples) == ("fvd", 4, 4, 8)
    assert other.protocol == metric.protocol.hash and other.label == "stand-in" and other.direction == "lower"
    assert other.interval.low is not None and other.interval.low < other.value < (other.interval.high or 0)
    assert "covariance is singular" in other.notes[0], "8 windows of 12 numbers"


def test_what_cannot_be_scored_is_named(
    two_sets: tuple[dict[str, Path], dict[str, Path]], write: Callable[..., Path], tmp_path: Path
) -> None:
    real, made = two_sets
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    made = made | {
        "short": write("short", picture_video(5, 15)),
        "fast": write("fast", picture_video(6, 40), fps=30.0),
        "broken": broken,
        "gone": tmp_path / "gone.mp4",
    }
    metric = fvd()
    found = metric.features(made)
    assert {clip: gap.reason for clip, gap in found.gaps.items()} == {
        "short": "too short",
        "fast": "frame rate",
        "broken": "undecodable",
        "gone": "missing",
    }
    (score,) = metric.scores(found, metric.features(real))
    assert (score.n, score.n_expected) == (4, 8)
    assert score.gaps.keys() == found.gaps.keys()
    assert "15 frames, a window needs 16" in score.gaps["short"].message


def test_a_clip_of_one_set_only_is_a_gap(two_sets: tuple[dict[str, Path], dict[str, Path]]) -> None:
    metric = fvd()
    real, made = two_sets
    del made["clip1"]
    (score,) = metric.scores(metric.features(made), metric.features(real))
    assert (score.n, score.n_expected) == (3, 4)
    assert score.gaps["clip1"].message == "clip1 is not in the scored set"


def test_nothing_to_score_is_null_with_a_reason(tmp_path: Path) -> None:
    metric = fvd()
    empty = metric.features({"a": tmp_path / "a.mp4"})
    (score,) = metric.scores(empty, empty)
    assert (score.value, score.n, score.n_expected) == (None, 0, 1)
    assert score.reason == "0 feature vectors, a covariance needs at least 2"
    sync = Sync(loaded(Levels(0.0)), BoxFinder("none", lambda _: np.zeros((0, 5))))
    values = {each.name: each.value for each in sync.scores(sync.features({"a": tmp_path / "a.mp4"}))}
    assert values == {"lse_c": None, "lse_d": None, "offset": None}


def test_features_of_another_protocol_or_weights_are_refused(
    two_sets: tuple[dict[str, Path], dict[str, Path]],
) -> None:
    real = two_sets[0]
    metric, wider = fvd(), fvd(window=20, stride=20)
    features = metric.features(real)
    with pytest.raises(MetricError, match="under one protocol"):
        metric.scores(features, wider.features(real))
    with pytest.raises(MetricError, match="under one protocol"):
        Fvd(loaded(Colours(), "stand-in:2")).scores(features, features)
    with pytest.raises(MetricError, match="real videos"):
        metric.scores(features)


# The cache


def count(metric: Metric) -> int:
    calls = metric.net.module.calls  # type: ignore[attr-defined]
    assert isinstance(calls, int)
    return calls


def test_features_are_computed_once(
    two_sets: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path, write: Callable[..., Path]
) -> None:
    real, cache = two_sets[0], FeatureCache(tmp_path / "cache")
    first = fvd()
    before = first.features(real, cache)
    assert count(first) == 4
    again = fvd(bootstrap=7)
    after = again.features(real, cache)
    assert count(again) == 0, "what comes after the features does not ask for them again"
    for clip, arrays in before.arrays.items():
        np.testing.assert_array_equal(arrays["logits"], after.arrays[clip]["logits"])
    write("real2", picture_video(77, 40))
    changed = fvd()
    found = changed.features(real, cache)
    assert count(changed) == 1, "one video changed"
    assert not np.array_equal(found.arrays["clip2"]["logits"], before.arrays["clip2"]["logits"])
    other_protocol = fvd(stride=8)
    other_protocol.features(real, cache)
    assert count(other_protocol) > 4
    other_weights = Fvd(loaded(Colours(), "stand-in:2"), FvdProtocol())
    other_weights.features(real, cache)
    assert count(other_weights) == 4


def test_gaps_are_remembered(tmp_path: Path, write: Callable[..., Path]) -> None:
    videos, cache = {"short": write("short", picture_video(5, 15))}, FeatureCache(tmp_path / "cache")
    first = fvd().features(videos, cache)
    second = fvd()
    second.extract = None  # type: ignore[method-assign, assignment]
    assert second.features(videos, cache).gaps == first.gaps != {}


def test_a_killed_run_goes_on(two_sets: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path) -> None:
    real, cache = two_sets[0], FeatureCache(tmp_path / "cache")

    class Killed(Colours):
        def forward(self, pictures: Tensor) -> Tensor:
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().forward(pictures)

    with pytest.raises(KeyboardInterrupt):
        Fvd(loaded(Killed()), FvdProtocol()).features(real, cache)
    rest = fvd()
    assert len(rest.features(real, cache).arrays) == 4
    assert count(rest) == 2


# Fréchet metrics


def test_fid_is_the_distance_of_the_frames_both_have(two_sets: tuple[dict[str, Path], dict[str, Path]]) -> None:
    net = Colours()
    metric = Fid(loaded(net), FidProtocol(bootstrap=0), batch=7)
    real, made = (metric.features(videos) for videos in two_sets)
    (score,) = metric.scores(made, real)
    frames = [np.concatenate([read_frames(path, 25)[:40] for path in videos.values()]) for videos in two_sets]
    with torch.inference_mode():
        left, right = (net(inception_input(each)).numpy() for each in frames)
    assert score.value == pytest.approx(frechet_distance(right, left).value, rel=1e-5)
    assert (score.samples, score.notes) == (160, ())
    assert score.as_dict()["low_reason"] == "no resampling asked for"


def test_fid_equals_torchmetrics_with_our_module(two_sets: tuple[dict[str, Path], dict[str, Path]]) -> None:
    """The whole class of torchmetrics, fed with the frames, around the same network and its own resize."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Resizing(Colours):
        num_features = 12

        def forward(self, frames: Tensor) -> Tensor:
            return super().forward(inception_input(frames.permute(0, 2, 3, 1), "antialias"))

    metric = Fid(loaded(Colours()), FidProtocol(bootstrap=0, resize="antialias"))
    theirs = FrechetInceptionDistance(feature=Resizing(), input_img_size=(3, SIDE, SIDE)).set_dtype(torch.float64)
    for videos, real in zip(two_sets, (True, False), strict=True):
        for path in videos.values():
            theirs.update(torch.from_numpy(read_frames(path, 25)[:40]).permute(0, 3, 1, 2), real=real)
    real_set, made_set = (metric.features(videos) for videos in two_sets)
    (score,) = metric.scores(made_set, real_set)
    assert float(theirs.compute()) == pytest.approx(score.value, rel=1e-5)


def test_the_floor_and_the_difference(two_sets: tuple[dict[str, Path], dict[str, Path]]) -> None:
    metric = fvd()
    real, made = (metric.features(videos) for videos in two_sets)
    floor = metric.floor(real)
    assert (floor.name, floor.n, floor.n_expected) == ("fvd_floor", 2, 2)
    assert floor.value is not None and floor.value > 0
    worse, better = metric.scores(made, real)[0].value, metric.scores(real, real)[0].value
    difference = metric.difference(made, real, real)
    assert difference.name == "fvd_minus_baseline" and worse is not None and better is not None
    assert difference.value == pytest.approx(worse - better, rel=1e-9)


def test_efid_drops_frames_without_a_face_on_both_sides(
    two_sets: tuple[dict[str, Path], dict[str, Path]], write: Callable[..., Path]
) -> None:
    """The finder sees a face where the first pixel is bright; the two sets are bright at different times."""
    points = align.TEMPLATE[:, :2] * 8 + 16

    def find(frame: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        return points if frame[:8, :8].mean() > 127 else None

    metric = Efid(loaded(Expressions()), LandmarkFinder("bright", find), EfidProtocol(bootstrap=0))
    assert metric.protocol.landmarks == "bright"  # type: ignore[attr-defined]
    real, made = (metric.features(videos) for videos in two_sets)
    expected = 0
    for clip in two_sets[0]:
        bright = [
            {number for number, frame in enumerate(read_frames(videos[clip], 25)) if find(frame) is not None}
            for videos in two_sets
        ]
        assert set(real.arrays[clip]["frame"].tolist()) == bright[0]
        expected += len(bright[0] & bright[1])
    (score,) = metric.scores(made, real)
    assert score.samples == expected > 2
    dark = write("dark", np.zeros((20, SIDE, SIDE, 3), np.uint8))
    assert metric.features({"dark": dark}).gaps["dark"].reason == "no face"
