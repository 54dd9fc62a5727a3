"""Features on disk: found again by content, never mistaken, never half written."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metrics.cache import CacheKey, FeatureCache, Gap, file_sha256
from metrics.errors import MetricError

KEY = CacheKey(("a" * 64,), "protocol", "weights")
ARRAYS = {"logits": np.arange(6, dtype=np.float32).reshape(2, 3), "frame": np.array([0, 4])}


def test_features_come_back(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features")
    assert cache.read(KEY) is None
    cache.write(KEY, ARRAYS)
    found = cache.read(KEY)
    assert isinstance(found, dict) and found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert [path.name for path in cache.path(KEY).parent.iterdir()] == [cache.path(KEY).name], "nothing half written"


def test_a_gap_comes_back(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.write(KEY, Gap("no face", "clip.mp4: no face"))
    assert cache.read(KEY) == Gap("no face", "clip.mp4: no face")


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, videos=("b" * 64,)),
        replace(KEY, videos=("a" * 64, "a" * 64)),
        replace(KEY, protocol="other"),
        replace(KEY, weights="other"),
    ],
)
def test_another_video_protocol_or_weights_find_nothing(
    other: CacheKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(tmp_path)
    cache.write(KEY, ARRAYS)
    assert cache.read(other) is None
    cache.path(other).parent.mkdir(exist_ok=True)
    shutil.copy(cache.path(KEY), cache.path(other))  # even where a file lies in the wrong place
    with caplog.at_level(logging.WARNING):
        assert cache.read(other) is None
    assert "names another video" in caplog.text


@pytest.mark.parametrize("size", [0, 5, 40, -1])
def test_a_damaged_file_is_reported_and_replaced(size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureCache(tmp_path)
    cache.write(KEY, ARRAYS)
    content = cache.path(KEY).read_bytes()
    cache.path(KEY).write_bytes(content[:size])
    with caplog.at_level(logging.WARNING):
        assert cache.read(KEY) is None
    assert "computed again" in caplog.text
    cache.write(KEY, ARRAYS)
    assert isinstance(cache.read(KEY), dict)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MetricError, match="No space left"):
        cache.write(KEY, ARRAYS)
    assert list(tmp_path.rglob("*.part")) == [] and cache.read(KEY) is None


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
