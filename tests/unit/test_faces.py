"""Finding faces and masks: the real portraits, drawn crowds, and the golden masks' building blocks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lcp_bench.data.demo_face import PEOPLE, draw_portrait
from lcp_bench.data.faces import (
    FaceError,
    box_from_landmarks,
    checked_box,
    detect_faces,
    landmarks_from_box,
    single_face,
)
from lcp_bench.data.insight import detect_faces_insightface
from lcp_bench.data.masks import (
    Rectangle,
    attention_levels,
    attention_masks,
    expanded_rectangle,
    face_region,
    masks_from_landmarks,
    rectangles_from_box,
    rectangles_from_landmarks,
    separate_masks,
)
from lcp_bench.errors import ConfigError


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def real_points(folder: Path) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[tuple[float, float]]] = {}
    with (folder / "landmarks.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["file"], []).append((float(row["x"]), float(row["y"])))
    return {name: np.array(points) for name, points in found.items()}


def test_every_real_portrait_has_one_face_and_the_mask_none(shared_dir: Path) -> None:
    folder = shared_dir / "data/real/portraits"
    counts = {path.name: len(detect_faces(pixels(path))) for path in sorted(folder.glob("*.[jp][pn]g"))}
    assert len(counts) == 22
    assert counts.pop("mask_11.png") == 0
    assert counts == dict.fromkeys(counts, 1)


def test_estimated_landmarks_are_near_the_labelled_ones(shared_dir: Path) -> None:
    folder = shared_dir / "data/real/portraits"
    for name, points in real_points(folder).items():
        face = single_face(detect_faces(pixels(folder / name)))
        side = face.box[2] - face.box[0]
        assert np.linalg.norm(face.landmarks5 - points, axis=1).max() < 0.12 * side, name


def test_box_from_landmarks_is_near_the_detected_one(shared_dir: Path) -> None:
    folder = shared_dir / "data/real/portraits"
    for name, points in real_points(folder).items():
        image = pixels(folder / name)
        found = np.array(single_face(detect_faces(image)).box)
        fitted = np.array(box_from_landmarks(points, image.shape[1], image.shape[0]))
        assert np.abs(found - fitted).max() < 0.2 * (found[2] - found[0]), name


def test_two_faces_are_refused_with_their_boxes(shared_dir: Path) -> None:
    folder = shared_dir / "data/real/portraits"
    pair = [np.asarray(Image.open(folder / name).convert("RGB").resize((256, 256))) for name in
            ("portrait_01.jpg", "portrait_06.png")]  # fmt: skip
    faces = detect_faces(np.hstack(pair))
    assert len(faces) == 2
    assert sorted(face.box[0] < 256 for face in faces) == [False, True]
    with pytest.raises(FaceError, match=r"found 2 .*pairs\.csv"):
        single_face(faces)


@pytest.mark.parametrize("person", PEOPLE, ids=lambda person: person.name)
def test_drawn_portrait_is_a_face_where_it_says(person: object) -> None:
    portrait = draw_portrait(person, 3)  # type: ignore[arg-type]
    face = single_face(detect_faces(portrait.image))
    assert np.abs(np.array(face.box) - portrait.box).max() < 0.08 * (portrait.box[2] - portrait.box[0])
    x0, y0, x1, y1 = portrait.lip_box
    assert x0 == portrait.landmarks5[3][0] and x1 == portrait.landmarks5[4][0] and y0 < portrait.landmarks5[3][1] < y1
    np.testing.assert_array_equal(portrait.image, draw_portrait(person, 3).image)  # type: ignore[arg-type]


def test_noise_and_slivers_hold_no_face() -> None:
    rng = np.random.default_rng(0)
    assert detect_faces(rng.integers(0, 256, (200, 300, 3)).astype(np.uint8)) == []
    assert detect_faces(rng.integers(0, 256, (3000, 40, 3)).astype(np.uint8)) == []
    with pytest.raises(FaceError, match=r"found none.*pairs\.csv"):
        single_face([])


@pytest.mark.parametrize("box", [(0, 0, 300, 50), (-1, 0, 50, 50), (10, 10, 12, 40), (50, 50, 20, 80), (1, 2, 3)])
def test_bad_boxes_are_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(FaceError, match="face box"):
        checked_box(box, 256, 256)


def test_landmarks_and_box_are_each_others_inverse() -> None:
    box = (40.0, 30.0, 140.0, 130.0)
    assert box_from_landmarks(landmarks_from_box(box), 256, 256) == pytest.approx(box)
    with pytest.raises(FaceError):
        box_from_landmarks(np.full((5, 2), 60.0), 256, 256)


def test_insightface_without_files_says_what_to_do(tmp_path: Path) -> None:
    for root in (None, str(tmp_path)):
        with pytest.raises(ConfigError, match="insightface_root"):
            detect_faces_insightface(np.zeros((8, 8, 3), np.uint8), root)


def test_rectangle_grows_about_its_middle_and_shifts_inside() -> None:
    assert expanded_rectangle([(40, 50), (60, 90)], 2.0, 200, 200) == Rectangle(30, 110, 30, 70)
    assert expanded_rectangle([(5, 50), (45, 90)], 2.0, 200, 200) == Rectangle(30, 110, 0, 80)
    assert expanded_rectangle([(150, 50), (190, 90)], 2.0, 200, 200) == Rectangle(30, 110, 120, 200)


def test_oversized_rectangle_wraps_from_landmarks_and_is_cut_from_a_box() -> None:
    wide = expanded_rectangle([(10, 60), (110, 100)], 2.0, 150, 150)
    assert wide.x0 == -50 and wide.x1 == 150
    assert np.flatnonzero(wide.filled(150, 150).any(axis=0)).tolist() == list(range(100, 150))
    boxed = rectangles_from_box((10, 60, 110, 100), landmarks_from_box((10, 60, 110, 100)), 150, 150, face_ratio=2.0)
    assert boxed.face == Rectangle(40, 120, 0, 150)


def test_lip_rectangle_from_corners_and_from_a_lip_box() -> None:
    points = [(60, 60), (100, 60), (80, 80), (65, 100), (95, 100)]
    by_corners = rectangles_from_box((40, 40, 120, 120), points, 200, 200).lip
    assert (by_corners.x0, by_corners.x1) == (50, 110)
    assert by_corners.y1 - by_corners.y0 == pytest.approx(2 * 0.45 * 30, abs=2)
    by_box = rectangles_from_box((40, 40, 120, 120), points, 200, 200, lip_box=(60, 90, 100, 110)).lip
    assert by_box == Rectangle(80, 120, 40, 120)


def test_masks_separate_lips_face_and_background() -> None:
    box = (60.0, 60.0, 190.0, 190.0)
    rectangles = rectangles_from_box(box, landmarks_from_box(box), 256, 256)
    images = separate_masks(rectangles)
    middle, mouth = images.face_blur[32, 32], round((60 + 0.756 * 130) / 4)
    assert middle > 250 and images.background[0, 0] >= 250 and images.background[32, 32] <= 5
    assert images.lip[mouth, 31] > 200 and images.face[mouth, 31] < 60
    masks = attention_masks(rectangles, 16)
    assert [mask.shape for mask in masks["lip"]] == [(1, 256), (1, 64), (1, 16), (1, 4)]
    assert all(mask.min() >= 0 and mask.max() <= 1 and mask.dtype == np.float32 for mask in masks["full"])
    assert face_region(rectangles, 128).shape == (3, 128, 128)


def test_a_latent_too_small_for_its_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 4 levels"):
        attention_levels(np.zeros((64, 64), np.uint8), 4)


def test_masks_from_landmarks_join_region_and_levels() -> None:
    points = np.random.default_rng(0).uniform(100, 300, (478, 2))
    region, masks = masks_from_landmarks(points, 400, 420, 256)
    rectangles = rectangles_from_landmarks(points, 400, 420)
    np.testing.assert_array_equal(region, face_region(rectangles, 256))
    np.testing.assert_array_equal(masks["lip"][1], attention_masks(rectangles, 32)["lip"][1])
    with pytest.raises(ValueError, match="478"):
        rectangles_from_landmarks(points[:68], 400, 420)
