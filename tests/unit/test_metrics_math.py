"""The pure parts of the metrics: Fréchet distance, tracks, sync curve, alignment, pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metrics import align, lipsync, parsing, pixels, resize, tracks
from metrics.detect import suppress
from metrics.errors import MetricError, VideoGap
from metrics.frechet import frechet_distance, frechet_from_statistics, statistics
from metrics.mfcc import mfcc, pcm16


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# Fréchet distance


@pytest.mark.parametrize("n", [7, 200])
def test_frechet_of_a_set_with_itself_is_zero(n: int) -> None:
    features = normal(0, n, 16)
    found = frechet_distance(features, features)
    assert abs(found.value) < 1e-9 * found.trace
    assert found.full_rank == (n > 16)


def test_frechet_is_symmetric_and_ignores_rotations_and_adds_a_shift() -> None:
    first, second = normal(1, 60, 12), normal(2, 50, 12) @ np.diag(np.linspace(0.5, 2, 12))
    value = frechet_distance(first, second).value
    assert frechet_distance(second, first).value == pytest.approx(value, rel=1e-12)
    rotation = np.linalg.qr(normal(3, 12, 12))[0]
    assert frechet_distance(first @ rotation, second @ rotation).value == pytest.approx(value, rel=1e-10)
    shift = normal(4, 12)
    assert frechet_distance(first + shift, first).value == pytest.approx(float(shift @ shift), rel=1e-9)


@pytest.mark.parametrize("unbiased", [True, False])
def test_frechet_in_one_dimension(unbiased: bool) -> None:
    first, second = normal(5, 40, 1) * 3 + 1, normal(6, 30, 1)
    deviations = [float(x.std(ddof=int(unbiased))) for x in (first, second)]
    expected = (first.mean() - second.mean()) ** 2 + (deviations[0] - deviations[1]) ** 2
    assert frechet_distance(first, second, unbiased=unbiased).value == pytest.approx(float(expected), rel=1e-12)


def test_frechet_from_statistics_agrees() -> None:
    first, second = normal(7, 90, 20), normal(8, 70, 20) * 1.5
    direct = frechet_distance(first, second)
    from_statistics = frechet_from_statistics(statistics(first), statistics(second))
    assert from_statistics.value == pytest.approx(direct.value, rel=1e-10)
    assert (from_statistics.n, from_statistics.n_reference) == (90, 70)


@pytest.mark.parametrize("d", [24, 300])
def test_frechet_equals_torchmetrics_on_the_same_features(d: int) -> None:
    """Its FID class with a module that hands the features through, so that both see the same numbers."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class HandThrough(torch.nn.Module):
        num_features = d

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features.flatten(1)

    first, second = (normal(seed, 120, d).astype(np.float32) * scale for seed, scale in ((9, 1.0), (10, 1.3)))
    theirs = FrechetInceptionDistance(feature=HandThrough(), input_img_size=(1, d, 1)).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(first).double()[:, None, :, None], real=True)
    theirs.update(torch.from_numpy(second).double()[:, None, :, None], real=False)
    ours = frechet_distance(first, second)
    assert float(theirs.compute()) == pytest.approx(ours.value, abs=1e-6 * ours.trace)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((1, 4)), np.zeros((5, 4)), "at least 2 samples, got 1"),
        (np.zeros((5, 4)), np.zeros((5, 3)), "different backbones"),
        (np.zeros(5), np.zeros(5), r"shape \(n, d\)"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "not finite"),
    ],
)
def test_frechet_refuses(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        frechet_distance(first, second)


# Face tracks


def detections(frames: list[int], side: float = 150.0) -> np.ndarray:
    return np.array([[frame, 10.0, 20.0, 10.0 + side, 20.0 + side, 0.99] for frame in frames])


@pytest.mark.parametrize(("gap", "expected"), [(25, 1), (26, 2)])
def test_a_gap_of_25_frames_is_bridged(gap: int, expected: int) -> None:
    frames = [*range(110), *range(109 + gap, 109 + gap + 110)]
    assert len(tracks.link(detections(frames))) == expected


@pytest.mark.parametrize(("count", "expected"), [(100, 0), (101, 1)])
def test_a_track_needs_more_than_100_detections(count: int, expected: int) -> None:
    found = tracks.link(detections(list(range(count))))
    assert len(found) == expected
    assert all(len(track.frames) == 101 for track in found)


def test_missing_frames_are_interpolated_and_small_faces_dropped() -> None:
    rows = detections(list(range(0, 240, 2)))
    rows[:, [1, 3]] += rows[:, :1]
    (track,) = tracks.link(rows)
    np.testing.assert_array_equal(track.frames, np.arange(239))
    np.testing.assert_allclose(track.boxes[:, 0], 10.0 + np.arange(239))
    assert tracks.link(detections(list(range(200)), side=100.0)) == []
    assert tracks.link(np.zeros((0, 6))) == []
    with pytest.raises(MetricError, match="sorted"):
        tracks.link(detections([1, 0]))


def test_two_faces_make_two_tracks() -> None:
    left, right = detections(list(range(120))), detections(list(range(120)))
    right[:, [1, 3]] += 400
    both = np.concatenate([left, right])[np.argsort(np.tile(np.arange(120), 2), kind="stable")]
    found = tracks.link(both)
    assert sorted(track.boxes[0, 0] for track in found) == [10.0, 410.0]


def test_the_crop_is_a_square_below_the_centre_and_grey_outside() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    crop = tracks.crop_face(frame, 40.0, 50.0, 50.0)
    assert crop.shape == (224, 224, 3)
    # of 112 pixels, 6 lie left and right of the frame, and 22 below it; the upper edge lies inside
    assert crop[112, 0, 0] == 110 and crop[112, -1, 0] == 110 and crop[-1, 112, 0] == 110 and crop[0, 112, 0] == 0


def test_suppression_keeps_the_best() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60.0]])
    assert suppress(boxes, np.array([0.5, 0.9, 0.7]), 0.3).tolist() == [1, 2]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.3).tolist() == []


# Lip-sync


@pytest.mark.parametrize("late", [-7, 0, 4])
def test_sync_finds_a_known_offset(late: int) -> None:
    """The lip window at frame i matches the sound at i - offset."""
    long = normal(11, 140, 32)
    found = lipsync.sync_score(long[20:120], long[20 + late : 120 + late])
    assert found.offset == late
    assert found.confidence > 1
    assert found.min_distance < 0.1 * found.distance.mean()  # not 0: zero vectors stand beyond the ends


def test_constant_embeddings_have_offset_zero_and_bad_ones_are_refused() -> None:
    same = np.ones((50, 8))
    assert lipsync.sync_score(same, same).offset == 0
    with pytest.raises(MetricError, match="equal embeddings"):
        lipsync.sync_score(same, same[1:])


def test_a_short_track_is_a_named_gap() -> None:
    with pytest.raises(VideoGap, match="at least 6 frames") as caught:
        lipsync.embed_track(None, np.zeros((5, 224, 224, 3), np.uint8), np.zeros(9000, np.int16))  # type: ignore[arg-type]
    assert caught.value.reason == "too short"
    assert lipsync.window_count(125, 125 * 640) == 120


def test_mfcc_has_four_columns_per_video_frame() -> None:
    assert mfcc(np.zeros(640 * 10, np.int16)).shape == (39, 13)
    assert mfcc(np.ones(100, np.int16)).shape == (1, 13)
    assert pcm16(np.array([-1.5, -1.0, 0.0, 0.5, 1.0], np.float32)).tolist() == [-32768, -32768, 0, 16384, 32767]
    with pytest.raises(MetricError, match="one channel"):
        mfcc(np.zeros((2, 100)))


# Alignment, resizing, parsing


def test_a_face_like_the_template_lands_where_the_template_is() -> None:
    """An affine camera of scale 100 around (130, 90): the crop shows it at scale 102, centred."""
    points = align.TEMPLATE[:, :2] * 100 + [130, 90]
    pixels_down = np.stack([points[:, 0], 199 - points[:, 1]], axis=1)
    alignment, found = align.fit(pixels_down, 260, 200)
    assert alignment.scale == pytest.approx(1.02)
    assert (alignment.shift_x, alignment.shift_y) == pytest.approx((130, 90))
    offset = np.array([260, 200]) * 1.02 / 2 - np.array(alignment.resized) / 2
    np.testing.assert_allclose(found, align.TEMPLATE[:, :2] * 102 + 112 + offset, atol=1e-6)
    assert align.crop(np.zeros((200, 260, 3), np.uint8), alignment).shape == (224, 224, 3)


def test_alignment_refuses() -> None:
    with pytest.raises(MetricError, match="one spot"):
        align.fit(np.full((5, 2), 7.0), 100, 100)
    with pytest.raises(MetricError, match="68"):
        align.five_from_68(np.zeros((5, 2)))
    alignment, _ = align.fit(align.TEMPLATE[:, :2] * 50 + 50, 100, 100)
    with pytest.raises(MetricError, match="100 x 100"):
        align.crop(np.zeros((90, 100, 3), np.uint8), alignment)


def test_the_two_i3d_resizes_agree_on_square_frames() -> None:
    frames = np.random.default_rng(12).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    direct, short = resize.i3d_input(frames), resize.i3d_input(frames, "short_side")
    torch.testing.assert_close(direct, short, rtol=0, atol=1e-5)
    assert direct.shape == (3, 2, 224, 224) and direct.min() >= -1 and direct.max() <= 1
    with pytest.raises(MetricError, match="uint8"):
        resize.i3d_input(frames.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="tf1"):
        resize.inception_input(frames, "bicubic")  # type: ignore[arg-type]


def test_foreground_tokens() -> None:
    labels = np.zeros((512, 512), np.uint8)
    labels[:8, :4], labels[8, 8], labels[16:24, :8] = 17, 1, 16
    share = parsing.foreground(labels, parsing.CLASS_SETS["face_hair_neck"])
    assert share[0, 0] == 0.5 and share[1, 1] == pytest.approx(1 / 64) and share[2, 0] == 0
    assert parsing.tokens(share).sum() == 2 and parsing.tokens(share, "half").sum() == 1
    assert len(parsing.CLASS_NAMES) == 19
    with pytest.raises(MetricError, match="multiples of 64"):
        parsing.foreground(np.zeros((100, 100)), (1,))


# Pixels


def test_identity_and_monotony_of_psnr_and_ssim() -> None:
    generator = np.random.default_rng(13)
    video = generator.integers(40, 216, (2, 32, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels.psnr(video, video), [100.0, 100.0])
    assert np.isinf(pixels.psnr(video, video, capped=False)).all()
    np.testing.assert_allclose(pixels.ssim(video, video), 1.0)
    noisy = [(video + generator.integers(-s, s + 1, video.shape)).astype(np.uint8) for s in (2, 8, 32)]
    for measure in (pixels.psnr, pixels.ssim):
        values = [float(measure(other, video).mean()) for other in noisy]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("shape", [(11, 11), (40, 27)])
def test_ssim_equals_torchmetrics(shape: tuple[int, int]) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    generator = np.random.default_rng(14)
    first = generator.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    second = (first * 0.8 + generator.integers(0, 50, first.shape)).astype(np.uint8)
    planar = [torch.from_numpy(video).permute(0, 3, 1, 2).double() / 255 for video in (first, second)]
    theirs, full = structural_similarity_index_measure(
        planar[0], planar[1], data_range=1.0, reduction="none", return_full_image=True
    )
    np.testing.assert_allclose(pixels.ssim(first, second, border="reflect"), theirs.numpy(), rtol=1e-11)
    inner = full[..., 5 : shape[0] - 5, 5 : shape[1] - 5].mean(dim=(1, 2, 3))
    np.testing.assert_allclose(pixels.ssim(first, second), inner.numpy(), rtol=1e-11)


def test_psnr_of_a_known_error() -> None:
    black, grey = np.zeros((1, 12, 12, 3), np.uint8), np.full((1, 12, 12, 3), 51, np.uint8)
    assert pixels.psnr(black, grey)[0] == pytest.approx(20 * np.log10(5))


def test_pixels_refuse_what_is_not_aligned() -> None:
    video = np.zeros((2, 32, 40, 3), np.uint8)
    with pytest.raises(MetricError, match="same frames"):
        pixels.psnr(video, video[:1])
    with pytest.raises(MetricError, match="11 x 11"):
        pixels.ssim(video[:, :10], video[:, :10])
