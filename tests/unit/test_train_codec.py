"""What teaches the codec of mini: where eyes and mouth are, and how the landmarks move."""

from __future__ import annotations

import math

import numpy as np
import torch

from lcp_bench.models.motion_codec import warp
from lcp_bench.train.mini_codec import as_tensor, feature_map, landmark_flow

FACE = [[20.0, 26.0], [44.0, 26.0], [32.0, 34.0], [25.0, 46.0], [39.0, 46.0]]


def test_eyes_and_mouth_weigh() -> None:
    weights = feature_map(torch.tensor([FACE]), torch.tensor([[24.0, 43.0, 40.0, 49.0]]), 64)
    assert weights.shape == (1, 1, 64, 64) and weights.min() >= 0 and weights.max() <= 1
    for x, y in ((20, 26), (44, 26), (25, 44), (38, 48), (32, 46)):
        assert weights[0, 0, y, x] > 0.9, (x, y)
    for x, y in ((4, 4), (32, 10), (60, 60)):
        assert weights[0, 0, y, x] < 0.01, (x, y)


def test_the_flow_of_the_landmarks_brings_the_portrait_to_the_frame() -> None:
    """A picture that is turned, enlarged and shifted with its landmarks is found again where the face is."""
    rows, columns = np.mgrid[:64, :64] + 0.5
    angle, scale, shift = math.radians(12), 1.1, np.array([3.0, -2.0])
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = np.array(FACE)
    moved = (points - 32) @ turn.T + 32 + shift

    def picture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sin(x / 5) * np.cos(y / 7)

    back = np.linalg.inv(turn)
    places = (np.stack([columns, rows], -1) - 32 - shift) @ back.T + 32
    frame, portrait = picture(places[..., 0], places[..., 1]), picture(columns, rows)
    flow, near = landmark_flow(as_tensor(moved)[None], as_tensor(points)[None], 64)
    found = warp(as_tensor(portrait)[None, None].expand(1, 3, -1, -1), flow)
    assert near.shape == (1, 1, 64, 64) and near[0, 0, 32, 34] > 0.9 > 0.01 > near[0, 0, 0, 0]
    inside = near[0, 0] > 0.3
    assert (found[0, 0] - as_tensor(frame))[inside].abs().max() < 0.02
    still, _ = landmark_flow(as_tensor(points)[None], as_tensor(points)[None], 64)
    assert still.abs().max() < 1e-5
