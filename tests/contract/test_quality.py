"""The quality stage: scored at once or later, against real videos and the twin, never null without a reason."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from lcp_bench import quality, runner
from lcp_bench.assemble import WeightsLabel
from lcp_bench.clip_runner import ClipRunner
from lcp_bench.data.manifest import Manifest
from lcp_bench.errors import ClipError
from lcp_bench.quality_block import videos_digest
from lcp_bench.record import validate
from lcp_bench.report.table import make_tables
from lcp_bench.store import list_records
from lcp_bench.video import write_video
from metrics.cache import Arrays
from metrics.errors import MetricError
from metrics.fidelity import Fidelity
from metrics.frames import read_frames
from metrics.metric import ClipMetric, FrechetMetric, Metric
from metrics.protocol import BackboneId, FidelityProtocol, Protocol
from metrics.score import Direction
from runs import FRAMES, Bench, Done

BACKBONE = BackboneId("mini_net", "sha256:1", "mini")
SCORED = ("+metric=mini", "metric.metrics=[fvd,sync,fidelity]", "metric.min_clips=2", "metric.bootstrap=100")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColoursProtocol(Protocol):
    """Mean colours of frames."""

    metric: ClassVar[str] = "fvd"


@dataclass(frozen=True, slots=True, kw_only=True)
class LightProtocol(Protocol):
    """Mean brightness."""

    metric: ClassVar[str] = "sync"


EXTRACTED: list[str] = []


class Colours(FrechetMetric):
    """A Fréchet distance of the frames' mean colours."""

    def __init__(self) -> None:
        self.protocol = ColoursProtocol(backbones=(BACKBONE,))

    def extract(self, files: Sequence[Path]) -> Arrays:
        EXTRACTED.append(files[0].name)
        return {"colour": read_frames(files[0], 25.0).mean(axis=(1, 2)).astype(np.float32)}

    def rows(self, generated: Arrays, reference: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        count = min(len(generated["colour"]), len(reference["colour"]))
        left, right = (np.asarray(side["colour"][:count], dtype=np.float64) for side in (generated, reference))
        return left, right


class Light(ClipMetric):
    """A mean over clips."""

    def __init__(self) -> None:
        self.protocol = LightProtocol(backbones=(BACKBONE,))
        direction: Direction = "higher"
        self.quantities = {"light": ("1", direction)}

    def extract(self, files: Sequence[Path]) -> Arrays:
        return {"light": np.array([read_frames(files[0], 25.0).mean()])}

    def values(self, features: Arrays) -> dict[str, float]:
        return {"light": float(features["light"].mean())}


def mini(name: str, names: Sequence[str], backbones: Path | None = None, device: Any = "cpu") -> dict[str, Metric]:
    """Stands in for `metric_sets.metric_set`."""
    assert (name, backbones) == ("mini", None)
    made: dict[str, Metric] = {
        "fvd": Colours(), "sync": Light(), "fidelity": Fidelity(None, FidelityProtocol(against="unaccelerated"))
    }  # fmt: skip
    return {each: made[each] for each in names}


@dataclass
class Desk:
    """A bench whose weights count as trained and whose clips have real videos."""

    bench: Bench
    cache: str
    weights: str = "w1"

    def run(self, *words: str) -> Done:
        return self.bench.run(*words, f"paths.cache={self.cache}")

    def block(self, done: Done) -> dict[str, Any]:
        """The only block of a scored run."""
        validate(done.record)
        (found,) = done.record["quality"].values()
        return dict(found)


@pytest.fixture
def desk(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Real videos are pictures in colours of their own, two frames longer than what is generated."""
    desk = Desk(bench, str(tmp_path / "cache"))
    EXTRACTED.clear()
    file = {"file": "mini.safetensors", "sha256": "0" * 64, "bytes": 1}
    monkeypatch.setattr(runner, "describe_weights", lambda *_: WeightsLabel("mini", "trained", (file,)))
    monkeypatch.setattr(quality, "metric_set", mini)
    check = quality.check_set
    monkeypatch.setattr(quality, "check_set", lambda name, *rest: None if name == "mini" else check(name, *rest))
    monkeypatch.setattr(quality, "set_identity", lambda *_: {"net": desk.weights})
    load = runner.load_dataset

    def with_real(*arguments: Any) -> Manifest:
        manifest = load(*arguments)
        clips = []
        for number, clip in enumerate(manifest.clips):
            path = tmp_path / "real" / f"{clip.id}.mp4"
            if not path.is_file():
                drawn = np.random.default_rng(number).integers(0, 255, (FRAMES + 2, 1, 1, 3))
                write_video(path, np.broadcast_to(drawn, (FRAMES + 2, 64, 64, 3)).astype(np.uint8), 25.0)
            clips.append(replace(clip, video=str(path)))
        return replace(manifest, clips=tuple(clips))

    monkeypatch.setattr(runner, "load_dataset", with_real)
    return desk


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("this must not be needed")


def test_scored_right_after_generation(desk: Desk, tmp_path: Path) -> None:
    done = desk.run(*SCORED)
    record, block = done.record, desk.block(done)
    assert done.summary.exit_code == 0
    assert record["labels"]["metric_backbones"] == "mini" and "quality_reason" not in record
    scores = block["scores"]
    fvd, light = scores["videos"]["fvd"], scores["videos"]["light"]
    assert (fvd["n"], fvd["n_expected"], fvd["samples"], fvd["direction"]) == (2, 2, 2 * FRAMES, "lower")
    assert fvd["value"] > 0 and fvd["low"] <= fvd["value"] <= fvd["high"] and fvd["resamples"] == 100
    videos = [done.folder / row["video"] for row in done.rows]
    expected = np.mean([read_frames(video, 25.0).mean() for video in videos])
    assert light["value"] == pytest.approx(expected) and light["label"] == "mini"
    assert block["protocols"][fvd["protocol"]]["metric"] == "fvd"
    assert scores["reference"]["light"]["n"] == 2
    floor = scores["reference"]["fvd_floor"]
    assert (floor["n"], floor["n_expected"], floor["value"]) == (1, 1, None), "one clip against one other"
    assert scores["videos"]["psnr_vs_unaccelerated"] is None
    reason = scores["videos"]["psnr_vs_unaccelerated_reason"]
    assert "make it with python -m lcp_bench +accel=none metric=mini" in reason
    assert scores["videos"]["psnr_vs_ground_truth"]["gaps"][0]["reason"] == "frames differ"
    assert set(done.printed["quality"]) == set(record["quality"])
    assert len(list(tmp_path.glob("cache/features/*/*.safetensors"))) == 2 * (2 + 2) + 2


def test_a_finished_run_is_scored_later_without_generating(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk.run()
    assert first.record["quality"] is None and "no metric" in first.record["quality_reason"]
    rows = (first.folder / "rows.jsonl").read_bytes()
    monkeypatch.setattr(runner, "load_model", refuse)
    monkeypatch.setattr(runner, "cost_report", refuse)
    scored = desk.run(*SCORED)
    assert scored.folder == first.folder, "what is scored is no part of the identity"
    assert scored.printed["already_complete"] is True
    assert desk.block(scored)["scores"]["videos"]["fvd"]["value"] > 0
    assert (first.folder / "rows.jsonl").read_bytes() == rows
    rest = {key for key in first.record if not key.startswith(("quality", "labels"))}
    fresh = json.loads(scored.summary.record.read_text())
    monkeypatch.setattr(quality, "metric_set", refuse)
    again = desk.run(*SCORED)
    assert again.record == fresh and {key: fresh[key] for key in rest} == {key: first.record[key] for key in rest}
    assert desk.run().record == fresh, "asking for nothing keeps the scores"


def test_a_dry_command_scores_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    desk.run()
    monkeypatch.setattr(quality, "metric_set", refuse)
    with caplog.at_level(logging.INFO):
        assert desk.run(*SCORED, "run.dry=true").record["quality"] is None
    assert "complete, but not scored" in caplog.text


def test_other_questions_have_other_blocks(desk: Desk) -> None:
    desk.run(*SCORED)
    desk.weights = "w2"
    done = desk.run(*SCORED)
    assert len(done.record["quality"]) == 2
    assert len(desk.run(*SCORED[:3]).record["quality"]) == 3
    validate(done.record)


def test_the_twin_gives_fidelity_and_paired_differences(desk: Desk) -> None:
    """The accelerated run is scored again when its twin is there; nothing that was extracted is extracted anew."""
    lonely = desk.run(*SCORED)
    before = len(EXTRACTED)
    twin = desk.run("+accel=none", "measure.repeats=2", *SCORED)
    own = desk.block(twin)["scores"]["videos"]
    assert own["psnr_vs_unaccelerated"] is None and "unaccelerated one" in own["psnr_vs_unaccelerated_reason"]
    assert len(EXTRACTED) == before + 2
    done = desk.run(*SCORED)
    assert done.folder == lonely.folder and len(EXTRACTED) == before + 2
    block = desk.block(done)
    assert block["inputs"]["baseline"] == {
        "run_id": twin.record["run_id"], "videos": videos_digest(twin.rows, ["demo_ada", "demo_ben"])
    }  # fmt: skip
    scores = block["scores"]
    psnr = scores["videos"]["psnr_vs_unaccelerated"]
    assert psnr["n"] == 2 and 5 < psnr["value"] < 100
    difference = scores["difference"]["light_minus_baseline"]
    expected = scores["videos"]["light"]["value"] - scores["baseline"]["light"]["value"]
    assert difference["value"] == pytest.approx(expected) and difference["n"] == 2
    assert scores["difference"]["fvd_minus_baseline"]["value"] == pytest.approx(
        scores["videos"]["fvd"]["value"] - scores["baseline"]["fvd"]["value"]
    )
    assert scores["baseline"]["light"]["value"] == pytest.approx(own["light"]["value"])
    (table,) = make_tables(list_records(desk.bench.runs))
    columns = {column.name: column for row in table.rows for column in row.quality.cells}
    assert {"fvd", "light", "psnr_vs_unaccelerated", "fvd_minus_baseline", "light_minus_baseline"} <= set(columns)
    assert columns["fvd"].label == "mini" and columns["psnr_vs_unaccelerated"].label == "no backbone"


def test_a_run_of_other_settings_is_no_twin(desk: Desk) -> None:
    desk.run("+accel=none", "sampler.seed=7")
    done = desk.run(*SCORED)
    assert desk.block(done)["inputs"]["baseline"] is None


def fail(monkeypatch: pytest.MonkeyPatch, clip: str) -> Callable[[], None]:
    """One clip cannot be generated."""
    generate = ClipRunner.generate

    def guarded(self: ClipRunner, prepared: Any, *rest: Any) -> Any:
        if prepared.inputs.clip.id == clip:
            raise ClipError("two faces", clip=clip, stage="face")
        return generate(self, prepared, *rest)

    monkeypatch.setattr(ClipRunner, "generate", guarded)
    return lambda: monkeypatch.setattr(ClipRunner, "generate", generate)


def test_a_failed_clip_is_a_gap_and_too_few_clips_give_null(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    mend = fail(monkeypatch, "demo_ada")
    done = desk.run(*SCORED)
    scores = desk.block(done)["scores"]["videos"]
    light, fvd = scores["light"], scores["fvd"]
    assert (light["n"], light["n_expected"]) == (1, 2) and light["low"] is None
    gap = {"clip": "demo_ada", "reason": "missing", "message": "it was not generated: failed at face: two faces"}
    assert light["gaps"] == [gap]
    assert fvd["value"] is None and "n = 1 clips" in fvd["value_reason"] and "min_clips" in fvd["value_reason"]
    mend()
    retried = desk.run(*SCORED, "run.retry_failed=true")
    assert desk.block(retried)["scores"]["videos"]["light"]["n"] == 2, "scores of fewer videos are not kept"


def test_pairs_have_no_real_videos(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    load = runner.load_dataset

    def without(*arguments: Any) -> Manifest:
        manifest = load(*arguments)
        return replace(manifest, clips=tuple(replace(clip, video=None) for clip in manifest.clips))

    monkeypatch.setattr(runner, "load_dataset", without)
    scores = desk.block(desk.run(*SCORED))["scores"]
    assert scores["videos"]["fvd"] is None and "no real videos" in scores["videos"]["fvd_reason"]
    assert scores["videos"]["light"]["value"] > 0 and "reference" not in scores


def test_scoring_that_fails_costs_no_video(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Colours, "extract", full)
        with pytest.raises(MetricError, match="are made and recorded, but scoring them failed.*No space left"):
            desk.run(*SCORED)
    record = desk.bench.store(f"paths.cache={desk.cache}").read_record()
    assert record is not None and record["status"] == "complete" and record["quality"] is None
    monkeypatch.setattr(runner, "load_model", refuse)
    assert desk.block(desk.run(*SCORED))["scores"]["videos"]["fvd"]["value"] > 0


def test_missing_backbones_are_found_before_anything_is_generated(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="3 weight files are not in") as caught:
        desk.run("+metric=paper", "metric.metrics=[sync,fid]", f"paths.weights={tmp_path / 'w'}")
    assert "lcp_bench.fetch +metric=paper" in str(caught.value) and "+metric=mini" in str(caught.value)
    assert not [path for path in desk.bench.runs.glob("*") if not path.name.startswith(".")]


def test_random_weights_never_carry_a_score(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "metric_set", refuse)
    done = bench.run("+metric=paper", f"paths.weights={tmp_path}", f"paths.cache={tmp_path / 'cache'}")
    assert done.summary.exit_code == 0
    assert done.record["quality"] is None and "random weights" in done.record["quality_reason"]
    assert bench.run("+metric=mini").printed["already_complete"] is True
