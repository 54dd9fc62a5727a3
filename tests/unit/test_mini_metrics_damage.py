"""The mini metrics on drawn people whose videos are damaged in known ways: each finds what it is meant to find.

The floor is the re-roll: the same person, background, sound and mouth with other pose and blinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcp_bench.data.synthetic.dataset import load_synthetic
from lcp_bench.data.synthetic.variants import write_variants
from lcp_bench.synthetic_config import SyntheticConfig
from metrics.metric import ClipMetric
from metrics.mini import mini_metrics

FAMILIES = ("synth_hdtf", "synth_mead")
PEOPLE, SECONDS = 12, 2.2
VARIANTS = ("reroll", "wrong_sound", "half_mouth", "neutral", "averaged3", "averaged5", "frozen", "noise", "blur")
NAMES = ("fvd", "fid", "efid", "sync")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Score by variant and name over 24 clips of 12 validation people."""
    folder = tmp_path_factory.mktemp("damage")
    real: dict[str, Path] = {}
    for family in FAMILIES:
        options = SyntheticConfig(family=family, split="validation", people=PEOPLE, seconds=SECONDS)  # type: ignore[arg-type]
        load_synthetic(folder / family, options)
        write_variants(folder / family, folder / "variants", VARIANTS)
        real |= {path.stem: path for path in (folder / family / "clips").glob("*.mp4")}
    assert len(real) == 24
    found: dict[str, dict[str, float]] = {variant: {} for variant in ("real", *VARIANTS)}
    for variant, name, value in _scored(real, folder / "variants"):
        found[variant][name] = value
    return found


def _scored(real: dict[str, Path], folder: Path) -> Iterator[tuple[str, str, float]]:
    metric: Any
    for metric in mini_metrics(NAMES).values():
        metric.protocol = replace(metric.protocol, bootstrap=0)
        reference = metric.features(real)
        if isinstance(metric, ClipMetric):
            yield from (("real", score.name, score.value) for score in metric.scores(reference))  # type: ignore[misc]
        for variant in VARIANTS:
            features = metric.features({clip: folder / variant / f"{clip}.mp4" for clip in real})
            for score in metric.scores(features, reference):
                assert score.n == 24
                yield variant, score.name, score.value


def test_motion_finds_smoothing_and_noise(scores: dict[str, dict[str, float]]) -> None:
    motion = {variant: found["fvd_motion"] for variant, found in scores.items() if found.get("fvd_motion") is not None}
    steps = [motion[variant] for variant in ("reroll", "averaged3", "averaged5", "frozen")]
    assert all(more > 2 * less for less, more in zip(steps, steps[1:], strict=False)), motion
    assert motion["half_mouth"] > 2 * motion["reroll"]
    assert 10 * motion["reroll"] < motion["noise"] < 2 * motion["frozen"], "noise is found and does not drown the rest"


def test_frames_alone_do_not_find_smoothing_but_blur(scores: dict[str, dict[str, float]]) -> None:
    assert scores["averaged3"]["fvd_frames"] < 2 * scores["reroll"]["fvd_frames"]
    assert scores["blur"]["fvd_frames"] > 10 * scores["reroll"]["fvd_frames"]


def test_fid_finds_blur_and_frozen_pictures(scores: dict[str, dict[str, float]]) -> None:
    floor = scores["reroll"]["fid"]
    for variant in ("blur", "frozen"):
        assert scores[variant]["fid"] > 4 * floor, variant
    assert scores["wrong_sound"]["fid"] < 2 * floor


def test_efid_finds_a_lost_expression_and_a_lazy_mouth(scores: dict[str, dict[str, float]]) -> None:
    floor = scores["reroll"]["efid"]
    assert scores["neutral"]["efid"] > 4 * floor and scores["frozen"]["efid"] > 4 * floor
    assert scores["half_mouth"]["efid"] > 2 * floor
    assert scores["wrong_sound"]["efid"] < 2 * floor


def test_sync_finds_the_wrong_sound_and_nothing_else(scores: dict[str, dict[str, float]]) -> None:
    confidence = {variant: found["sync_c"] for variant, found in scores.items()}
    sharp = ("real", "reroll", "half_mouth", "neutral", "averaged3", "averaged5")
    assert all(confidence["wrong_sound"] < 0.5 * confidence[variant] for variant in sharp), confidence
    assert confidence["frozen"] < 0.5 * confidence["averaged5"]
    assert confidence["averaged5"] < confidence["averaged3"] < confidence["real"]
    for variant in ("reroll", "neutral", "noise"):
        assert confidence[variant] > 0.8 * confidence["real"], variant
    distance = {variant: found["sync_d"] for variant, found in scores.items()}
    assert distance["real"] < distance["averaged3"] < distance["averaged5"] < distance["wrong_sound"]
