"""The mini metrics: protocols that never meet the published ones, gaps, known answers, and the shipped weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lcp_bench.data.synthetic.clip import SyntheticClip, make_clip
from lcp_bench.data.synthetic.frames import PARAMETERS
from lcp_bench.data.synthetic.motion import EMOTIONS
from lcp_bench.metric_sets import against_ground_truth
from lcp_bench.train.metric_check import predict, r2, write_late
from lcp_bench.train.metric_data import draw_stills
from lcp_bench.video import write_video
from metrics.cache import FeatureCache, file_sha256
from metrics.errors import MetricError, VideoGap
from metrics.fidelity import Fidelity
from metrics.metric import FrechetMetric
from metrics.mini import SHIPPED, MiniFidelity, mini_metrics
from metrics.mini_frames import small
from metrics.mini_sync import offset_curve
from metrics.nets.mini import (
    ENERGY_FLOOR,
    MOTION_CLIP,
    MOUTH_AND_EXPRESSION,
    OUTPUTS,
    RandomFrames,
    RandomVideo,
    weights_sha256,
)
from metrics.protocol import EfidProtocol, FidelityProtocol, FidProtocol, FvdProtocol, SyncProtocol

NAMES = ("fvd", "fid", "efid", "sync", "fidelity")
KEYS = ("fvd_motion", "fvd_frames", "fid", "efid", "sync", "fidelity")
PERSON, FRAMES = 203, 64
PINNED = ["b5e81ec875444304", "01f9c0cb94559ac0", "cee9217c22bc5163"]
"""First digits of the hashes of the random filters: motion, video, frames."""


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return dict(mini_metrics(NAMES))


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("synth_hdtf", None, PERSON, 0, frames=FRAMES)


@pytest.fixture(scope="module")
def video(clip: SyntheticClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mini") / "clip.mp4"
    write_late(path, clip.frames, clip.waveform, 0)
    return path


# ------------------------------------------------------------------ protocols


def test_every_metric_is_made_with_both_branches_of_fvd(metrics: dict[str, Any]) -> None:
    assert tuple(metrics) == KEYS
    assert [metrics[key].protocol.metric for key in KEYS] == list(KEYS)
    assert {metric.protocol.label for metric in metrics.values()} == {"mini"}
    assert all(
        identity.identity.startswith("sha256:") for each in metrics.values() for identity in each.protocol.backbones
    )


def test_a_mini_protocol_never_has_the_hash_of_a_published_one(metrics: dict[str, Any]) -> None:
    published = (FvdProtocol, FidProtocol, EfidProtocol, SyncProtocol, FidelityProtocol)
    bare = {each.settings.with_backbones().hash for each in metrics.values()}
    assert len(bare) == len(KEYS) and not bare & {each().hash for each in published}
    assert len({each.protocol.feature_hash for each in metrics.values()}) == len(KEYS)


def test_the_hash_follows_the_weights(metrics: dict[str, Any], tmp_path: Path) -> None:
    for path in SHIPPED.glob("*.safetensors"):
        shutil.copy(path, tmp_path)
    assert mini_metrics(["efid"], tmp_path)["efid"].protocol == metrics["efid"].protocol
    changed = load_file(tmp_path / "expression.safetensors")
    changed["head.bias"][0] += 1
    save_file(changed, tmp_path / "expression.safetensors")
    assert mini_metrics(["efid"], tmp_path)["efid"].protocol.hash != metrics["efid"].protocol.hash


def test_no_setting_of_lpips_is_in_the_protocol_of_fidelity(metrics: dict[str, Any]) -> None:
    found = metrics["fidelity"].protocol.as_dict()
    assert not {"trunk", "lpips"} & set(found) and "regressor" in found["distance"]


def test_unknown_names_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="expected metrics of fvd, fid, efid, sync, fidelity, got 'fdv'"):
        mini_metrics(["fdv"])
    with pytest.raises(MetricError, match=r"(?s)expression.safetensors.*sync.safetensors.*\+metric=mini"):
        mini_metrics(NAMES, tmp_path)
    assert list(mini_metrics(["fvd"], tmp_path)) == ["fvd_motion", "fvd_frames"]  # random filters need no file


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "sync.safetensors", tmp_path / "expression.safetensors")
    with pytest.raises(MetricError, match="does not fit ExpressionNet"):
        mini_metrics(["efid"], tmp_path)


# ------------------------------------------------------------------ shipped files


def test_the_shipped_files_are_small_and_described() -> None:
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert [file.name for file in files] == ["expression.safetensors", "sync.safetensors"]
    assert sum(file.stat().st_size for file in files) < 1_500_000
    card = (SHIPPED / "MODEL_CARD.md").read_text(encoding="utf-8")
    noted = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))["sha256"]
    for file in files:
        assert noted[file.name] == file_sha256(file) and file_sha256(file) in card


def test_the_random_filters_are_pinned() -> None:
    """Another stream of random numbers would make another metric under the same name."""
    found = [weights_sha256(net)[:16] for net in (RandomVideo(motion=True), RandomVideo(motion=False), RandomFrames())]
    assert found == PINNED


# ------------------------------------------------------------------ gaps


@pytest.mark.parametrize("key", ["fvd_motion", "fid", "efid", "sync"])
def test_pictures_below_64_pixels_are_a_gap(metrics: dict[str, Any], tmp_path: Path, key: str) -> None:
    path = tmp_path / "small.mp4"
    write_video(path, np.zeros((40, 48, 64, 3), np.uint8), 25, np.zeros(40 * 640, np.float32))
    found = metrics[key].features({"small": path})
    assert found.gaps["small"].reason == "too small" and "64 x 48" in found.gaps["small"].message


def test_short_and_silent_clips_and_other_rates_are_gaps(metrics: dict[str, Any], tmp_path: Path) -> None:
    frames = np.zeros((29, 64, 64, 3), np.uint8)
    sound = np.zeros(29 * 640, np.float32)
    write_video(tmp_path / "short.mp4", frames[:15], 25)
    write_video(tmp_path / "brief.mp4", frames[:28], 25, sound[: 28 * 640])
    write_video(tmp_path / "enough.mp4", frames, 25, sound)
    write_video(tmp_path / "mute.mp4", frames, 25)
    write_video(tmp_path / "fast.mp4", frames, 30)
    reasons = {
        (key, name): metrics[key].features({name: tmp_path / f"{name}.mp4"}).gaps.get(name)
        for key, name in [
            ("fvd_motion", "short"),
            ("sync", "brief"),
            ("sync", "enough"),
            ("sync", "mute"),
            ("fid", "fast"),
        ]
    }
    assert {pair: gap and gap.reason for pair, gap in reasons.items()} == {
        ("fvd_motion", "short"): "too short", ("sync", "brief"): "too short", ("sync", "enough"): None,
        ("sync", "mute"): "no sound", ("fid", "fast"): "frame rate",
    }  # fmt: skip


def test_videos_of_two_lengths_are_a_gap_of_fidelity(metrics: dict[str, Any], video: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "cut.mp4", np.zeros((9, 64, 64, 3), np.uint8), 25)
    with pytest.raises(VideoGap, match="9 frames"):
        metrics["fidelity"].extract([tmp_path / "cut.mp4", video])


# ------------------------------------------------------------------ known answers


def test_other_sizes_are_resized_and_64_pixels_are_left_alone(clip: SyntheticClip) -> None:
    assert small(clip.frames) is clip.frames
    doubled = clip.frames[:3].repeat(2, axis=1).repeat(2, axis=2)
    difference = small(doubled).astype(int) - clip.frames[:3]
    assert small(doubled).shape == (3, 64, 64, 3) and np.abs(difference).mean() < 3


def test_the_offset_curve_finds_a_known_offset_and_its_sign() -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for late in (-5, 0, 7):
        found = offset_curve(vectors[20:50], vectors[20 - late : 50 - late], 12)
        assert (found.offset, found.distance) == (-late, 0)
        assert found.mean_distance.shape == (25,) and found.confidence > 1.2
    with pytest.raises(MetricError, match="more than 12 windows"):
        offset_curve(vectors[:12], vectors[:12], 12)


def test_a_short_clip_without_agreement_does_not_agree_at_its_ends() -> None:
    """With zero vectors beyond the ends, offsets of 12 of 24 frames would look best by far."""
    one, other = np.random.default_rng(1).standard_normal((2, 24, 32))
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
    assert offset_curve(one, other, 12).confidence < 0.1


def test_motion_features_see_motion_only_and_clip_it() -> None:
    torch.manual_seed(0)
    net, frames = RandomVideo(motion=True), torch.rand(1, 3, 16, 64, 64) * 0.02 + 0.4
    still = net(frames[:, :, :1].expand(-1, -1, 16, -1, -1))
    torch.testing.assert_close(still, torch.full((1, 64), ENERGY_FLOOR).log())
    torch.testing.assert_close(net(frames), net(frames + 0.2), rtol=1e-3, atol=1e-3)
    flash = torch.zeros(1, 3, 16, 64, 64)
    flash[:, :, 8:] = 1.0
    torch.testing.assert_close(net(flash), net(flash * MOTION_CLIP))


def test_frame_features_are_nearly_blind_to_time_and_motion_features_are_not(clip: SyntheticClip) -> None:
    frames = torch.from_numpy(clip.frames[:16]).permute(3, 0, 1, 2)[None].float() / 255
    order = torch.from_numpy(np.random.default_rng(0).permutation(16))
    change = {
        motion: float(
            (RandomVideo(motion=motion)(frames[:, :, order]) - RandomVideo(motion=motion)(frames)).abs().mean()
        )
        for motion in (True, False)
    }
    assert change[True] > 10 * change[False]


def test_equal_videos_are_equal(metrics: dict[str, Any], video: Path) -> None:
    found = metrics["fidelity"].values(metrics["fidelity"].extract([video, video]))
    assert found == pytest.approx(
        {"psnr_vs_unaccelerated": 100.0, "ssim_vs_unaccelerated": 1.0, "feature_distance_vs_unaccelerated": 0.0}
    )
    for key, metric in mini_metrics(["fvd", "fid", "efid"]).items():
        metric.protocol = replace(metric.protocol, bootstrap=0)
        features = metric.features({"a": video, "b": video})
        score = metric.scores(features, features)[0]
        assert score.name == key and score.value == pytest.approx(0, abs=1e-6)


def test_the_feature_distance_grows_with_damage(
    metrics: dict[str, Any], clip: SyntheticClip, video: Path, tmp_path: Path
) -> None:
    distances = []
    for late in (1, 4):
        write_video(tmp_path / f"{late}.mp4", np.roll(clip.frames, late, axis=0), 25)
        arrays = metrics["fidelity"].extract([tmp_path / f"{late}.mp4", video])
        distances.append(metrics["fidelity"].values(arrays)["feature_distance_vs_unaccelerated"])
    assert 0 < distances[0] < distances[1] < 2


def test_fidelity_is_one_and_can_compare_with_the_ground_truth(metrics: dict[str, Any]) -> None:
    assert isinstance(metrics["fidelity"], Fidelity)
    truth = against_ground_truth(metrics["fidelity"])
    assert isinstance(truth, MiniFidelity) and "feature_distance_vs_ground_truth" in truth.quantities
    assert truth.protocol.hash != metrics["fidelity"].protocol.hash


def test_features_are_read_from_the_cache(metrics: dict[str, Any], video: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    first = metrics["efid"].features({"a": video}, cache).arrays["a"]["features"]
    metric = mini_metrics(["efid"])["efid"]
    metric.extract = _fail  # type: ignore[method-assign]
    assert np.array_equal(metric.features({"a": video}, cache).arrays["a"]["features"], first)
    assert first.shape == (FRAMES, MOUTH_AND_EXPRESSION)


def _fail(files: Any) -> Any:
    raise AssertionError("computed again")


def test_a_frechet_metric_can_get_other_resamples(metrics: dict[str, Any], video: Path) -> None:
    metric = mini_metrics(["fid"])["fid"]
    metric.protocol = replace(metric.protocol, bootstrap=0)
    features = metric.features({"a": video, "b": video})
    assert isinstance(metric, FrechetMetric) and metric.scores(features, features)[0].interval.low is None


# ------------------------------------------------------------------ the trained networks


def test_the_regressor_names_what_the_renderer_draws() -> None:
    assert OUTPUTS == PARAMETERS


def test_the_regressor_explains_new_people(metrics: dict[str, Any]) -> None:
    _, coded, values = draw_stills(seed=77, count=120)
    found = dict(zip(OUTPUTS, r2(predict(metrics["fidelity"].net.module, coded), values), strict=True))
    assert min(found.values()) > 0.15, found
    assert min(found[name] for name in ("open", "contact", "yaw")) > 0.7, found


def test_every_emotion_is_farther_from_neutral_when_it_is_stronger(metrics: dict[str, Any]) -> None:
    net = metrics["fidelity"].net.module

    def shown(emotion: str, level: int) -> np.ndarray[Any, Any]:
        clips = [
            make_clip("synth_mead", None, person, 0, frames=8, emotion=emotion, level=level) for person in (204, 211)
        ]
        frames = np.concatenate([clip.frames for clip in clips])
        return predict(net, frames)[:, :MOUTH_AND_EXPRESSION].mean(axis=0)

    neutral = shown("neutral", 1)
    for emotion in set(EMOTIONS) - {"neutral"}:
        weak, strong = (float(np.linalg.norm(shown(emotion, level) - neutral)) for level in (1, 3))
        assert strong > 1.5 * weak, emotion


@pytest.mark.parametrize("late", [0, -3, 6])
def test_sync_finds_a_known_offset(metrics: dict[str, Any], clip: SyntheticClip, tmp_path: Path, late: int) -> None:
    write_late(tmp_path / "late.mp4", clip.frames, clip.waveform, late)
    found = metrics["sync"].values(metrics["sync"].extract([tmp_path / "late.mp4"]))
    assert found["sync_offset"] == -late
    assert found["sync_c"] > 0.3


def test_sync_hears_another_sound(metrics: dict[str, Any], clip: SyntheticClip, video: Path, tmp_path: Path) -> None:
    other = make_clip("synth_hdtf", None, PERSON, 1, frames=FRAMES)
    write_late(tmp_path / "other.mp4", clip.frames, other.waveform, 0)
    right, wrong = (metrics["sync"].values(metrics["sync"].extract([path])) for path in (video, tmp_path / "other.mp4"))
    assert wrong["sync_c"] < 0.5 * right["sync_c"]
    assert wrong["sync_d"] > right["sync_d"] + 0.2
