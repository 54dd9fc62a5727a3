"""Real talking clips, from mp4 to lip-sync scores, with seeded weights: the numbers say nothing about quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lcp_bench.data.faces import detect_faces
from lcp_bench.models.weights.seeded import apply_seeded_v1
from metrics.cache import FeatureCache
from metrics.faces import BoxFinder
from metrics.nets.syncnet import SyncNet
from metrics.sync import Sync
from metrics.weights import Loaded


def cascade(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The project's own detector, as the metric takes one."""
    return np.array([[*face.box, face.support] for face in detect_faces(image)]).reshape(-1, 5)


@pytest.mark.slow
def test_real_clips_get_scores_or_a_reason(shared_dir: Path, tmp_path: Path) -> None:
    folder, cache = shared_dir / "data" / "real" / "clips", FeatureCache(tmp_path)
    videos = {name: folder / f"{name}.mp4" for name in ("desync_01", "vox_03", "expr_02", "nobody_01")}
    net = SyncNet()
    apply_seeded_v1(net, 0)
    metric = Sync(Loaded.of(net, "syncnet", "seeded-v1:0", "seeded"), BoxFinder("cascade", cascade))
    found = metric.features(videos, cache)
    assert {clip: gap.reason for clip, gap in found.gaps.items()} == {"expr_02": "no sound", "nobody_01": "missing"}
    for features in found.arrays.values():
        assert len(features["lse_c"]) == 1, "one face, one track"
        assert np.isfinite(features["curve"]).all() and features["lse_d"][0] > 0 <= features["lse_c"][0]
        assert abs(int(features["offset"][0])) <= 15
    scores = metric.scores(found)
    assert [(score.n, score.n_expected, score.label) for score in scores] == [(2, 4, "seeded")] * 3
    metric.boxes = BoxFinder("cascade", lambda _: pytest.fail("computed again"))
    again = metric.features(videos, cache)
    np.testing.assert_array_equal(again.arrays["vox_03"]["curve"], found.arrays["vox_03"]["curve"])
