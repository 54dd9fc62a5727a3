"""A run from its configuration to videos, rows and a record: the tiny Hallo on drawn faces."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lcp_bench import clip_runner, clip_video, runner
from lcp_bench.clip_runner import ClipRunner, PreparedClip, to_uint8
from lcp_bench.config import build_strategy
from lcp_bench.data.manifest import Clip, Manifest
from lcp_bench.errors import ClipError, EngagementError, LcpBenchError, StoreError
from lcp_bench.models.hallo import Hallo
from lcp_bench.record import validate
from lcp_bench.video import MediaError, VideoWriter, read_audio, read_video
from runs import FRAMES, Bench, Done, refuse_to_write


def clip_of(folder: Path, name: str) -> Path:
    """A clip's video."""
    return folder / "clips" / f"{name}.mp4"


def break_generation(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, *, clips: set[str]) -> list[str]:
    """Generating one of `clips` raises; returns the ids of all clips asked for, in order."""
    asked: list[str] = []
    generate = ClipRunner.generate

    def guarded(self: ClipRunner, prepared: PreparedClip, *rest: Any) -> Any:
        asked.append(prepared.inputs.clip.id)
        if error is not None and prepared.inputs.clip.id in clips:
            raise error
        return generate(self, prepared, *rest)

    monkeypatch.setattr(ClipRunner, "generate", guarded)
    return asked


def reorder(monkeypatch: pytest.MonkeyPatch, order: Callable[[tuple[Clip, ...]], tuple[Clip, ...]]) -> None:
    """The same manifest with its clips in another order."""
    load = runner.load_dataset

    def loaded(*args: Any) -> Manifest:
        manifest = load(*args)
        return replace(manifest, clips=order(manifest.clips))

    monkeypatch.setattr(runner, "load_dataset", loaded)


# ------------------------------------------------------------------ a run that works


def test_record_rows_videos_and_the_last_line(bench: Bench) -> None:
    done = bench.usual()
    record, rows = done.record, done.rows
    validate(record)
    assert (done.summary.status, done.summary.exit_code) == ("complete", 0)
    assert [row["clip"] for row in rows] == ["demo_ada", "demo_ben"]
    assert len(set(done.hashes.values())) == 2
    for row in rows:
        assert (row["status"], row["frames"], row["segments"]) == ("ok", FRAMES, 2)
        assert set(row["stages_s"]) == {"preprocess", "encode", "reference", "denoise", "decode", "write"}
        video = done.folder / row["video"]
        frames = read_video(video)
        assert frames.shape == (FRAMES, 64, 64, 3)
        sound = read_audio(video)
        assert abs(len(sound) / 16000 - FRAMES / 25) < 0.1
        assert np.abs(sound).max() > 0.01
    counts = {key: value for key, value in record["clips"].items() if key != "identities"}
    assert counts == {"n_expected": 2, "n_ok": 2, "n_failed": 0, "failed": []}
    assert record["plan"] == {
        "steps": 3,
        "key_steps": [0],
        "groups": [{"key": 0, "followers": [1, 2], "scope": "shell:up.3.2", "parallel": True}],
    }
    assert record["labels"]["weights"] == "seeded"
    assert record["quality"] is None
    assert "random weights" in record["quality_reason"]
    assert record["pair"] is None
    assert "measure.pair" in record["pair_reason"]
    assert done.printed["record"] == str(done.summary.record)
    assert done.printed["already_complete"] is False
    assert done.printed["seconds_per_clip"] == record["speed"]["seconds_per_clip"]["value"]


def test_numbers_of_the_record_follow_from_the_rows(bench: Bench) -> None:
    done = bench.run("measure.repeats=2")
    record, rows = done.record, done.rows
    segments = sum(row["segments"] for row in rows)
    assert record["engagement"]["segments"] == segments == 4
    assert record["engagement"]["computed"]["mid"] == segments
    assert record["engagement"]["computed"]["up.3.2"] == segments * 3
    assert record["engagement"]["reused"] == {"up.3.2:in": segments * 2}
    # float32, both branches, 2 frames, 32 channels at 8 x 8
    assert record["cache_bytes"] == 4 * 2 * 2 * 32 * 8 * 8
    for stage in ("encode", "reference", "denoise", "decode"):
        assert record["timings"][stage] == [sample for row in rows for sample in row["stages_s"][stage]]
        assert len(record["timings"][stage]) == 4
    per_clip = [
        sum(sum(row["stages_s"][stage]) / 2 for stage in ("encode", "reference", "denoise", "decode")) for row in rows
    ]
    assert record["speed"]["seconds_per_clip"]["value"] == pytest.approx(sum(per_clip) / 2)
    assert record["speed"]["seconds_per_clip"]["n"] == 2
    denoise = [sum(row["stages_s"]["denoise"]) / 2 / row["segments"] for row in rows]
    assert record["speed"]["denoise_seconds_per_segment"]["value"] == pytest.approx(sum(denoise) / 2)
    rates = [FRAMES / seconds for seconds in per_clip]
    assert record["speed"]["frames_per_second"]["value"] == pytest.approx(sum(rates) / 2)


def test_the_order_of_clips_changes_no_frame(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = bench.usual()
    reorder(monkeypatch, lambda clips: clips[::-1])
    turned = bench.run(f"paths.runs={tmp_path / 'turned'}")
    assert [row["clip"] for row in turned.rows] == ["demo_ben", "demo_ada"]
    assert turned.hashes == usual.hashes


def test_warm_up_and_repeats_change_no_frame(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = bench.usual()
    asked = break_generation(monkeypatch, None, clips=set())
    warm = bench.run("measure.warmup_clips=1", "measure.repeats=2")
    assert asked == ["demo_ada", *["demo_ada"] * 2, *["demo_ben"] * 2]
    assert warm.hashes == usual.hashes
    assert warm.folder != usual.folder


def test_the_seed_changes_every_frame(bench: Bench) -> None:
    one, other = bench.usual("run.limit=1"), bench.run("run.limit=1", "sampler.seed=43")
    assert one.hashes["demo_ada"] != other.hashes["demo_ada"]
    assert one.folder != other.folder


def test_limit(bench: Bench) -> None:
    done = bench.usual("run.limit=1")
    assert (done.record["clips"]["n_expected"], list(done.hashes)) == (1, ["demo_ada"])


@pytest.mark.slow
def test_one_branch(bench: Bench) -> None:
    """Without guidance no unconditional half is computed; the frames are others than usual."""
    usual, single = bench.usual("run.limit=1"), bench.run("run.limit=1", "sampler.guidance_scale=1.0")
    assert single.summary.exit_code == 0
    assert single.hashes["demo_ada"] != usual.hashes["demo_ada"]
    assert single.record["cache_bytes"] * 2 == usual.record["cache_bytes"]


def test_frames_are_truncated_to_bytes_as_upstream() -> None:
    frames = torch.tensor([0.0, 1.0, 0.999, 0.5, 1 / 255]).reshape(5, 1, 1, 1).expand(5, 3, 2, 2)
    assert to_uint8(frames)[:, 0, 0, 0].tolist() == [0, 255, 254, 127, 1]
    assert to_uint8(frames).shape == (5, 2, 2, 3)


# ------------------------------------------------------------------ again


def test_a_finished_run_does_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    first = bench.usual()
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(runner, "load_model", refuse)
    monkeypatch.setattr(runner, "cost_report", refuse)
    with caplog.at_level(logging.INFO):
        again = bench.run()
    assert "nothing to do" in caplog.text
    assert again.printed == {**first.printed, "already_complete": True}
    assert again.summary == first.summary
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.is_file()} == before


def test_a_run_interrupted_after_the_first_clip(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench.usual(runs=tmp_path / "whole")
    with monkeypatch.context() as patch:
        break_generation(patch, KeyboardInterrupt(), clips={"demo_ben"})
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    store = bench.store()
    assert [row["clip"] for row in store.rows()] == ["demo_ada"]
    assert store.read_record() is None
    asked = break_generation(monkeypatch, None, clips=set())
    resumed = bench.run()
    assert asked == ["demo_ben"], "a finished clip is never made again"
    assert [row["clip"] for row in resumed.rows] == ["demo_ada", "demo_ben"]
    assert resumed.hashes == whole.hashes
    assert resumed.folder.name == whole.folder.name
    assert resumed.record["clips"] == whole.record["clips"]
    assert resumed.record["engagement"] == whole.record["engagement"]


def test_only_the_record_was_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.usual()
    first.summary.record.unlink()

    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(runner, "load_model", refuse)
    again = bench.run()
    assert len(again.rows) == 2
    assert (again.summary.exit_code, again.printed["already_complete"]) == (0, False)
    assert again.record["speed"]["seconds_per_clip"]["value"] == first.printed["seconds_per_clip"]


def test_a_half_written_row_is_made_again(bench: Bench) -> None:
    first = bench.usual()
    whole, rows = first.hashes, first.folder / "rows.jsonl"
    content = rows.read_bytes()
    rows.write_bytes(content[: len(content) - 20])
    first.summary.record.unlink()
    again = bench.run()
    assert again.hashes == whole
    assert [row["clip"] for row in again.rows] == ["demo_ada", "demo_ben"]


def test_a_run_held_by_another_process_is_refused(bench: Bench) -> None:
    with bench.store(), pytest.raises(StoreError, match="must have one writer"):
        bench.run()


def test_dry(bench: Bench) -> None:
    dry = bench.run("run.dry=true")
    assert dry.printed == {
        "record": str(dry.summary.record), "dry": True, "status": "missing", "clips_done": 0, "clips": 2,
        "expected_seconds": None,
        "expected_seconds_reason": "no finished run of this model, strategy, number of steps and device",
    }  # fmt: skip
    assert not dry.folder.exists()
    done = bench.usual()
    assert done.summary.record == dry.summary.record
    assert bench.run("run.dry=true").printed["already_complete"] is True


# ------------------------------------------------------------------ failures


def failed(done: Done) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of ada, who failed, and ben, who did not."""
    validate(done.record)
    bad, good = done.rows
    assert (bad["clip"], bad["status"], good["clip"], good["status"]) == ("demo_ada", "failed", "demo_ben", "ok")
    assert done.record["clips"]["n_failed"] == 1
    assert done.record["clips"]["failed"] == [{key: bad[key] for key in ("clip", "stage", "reason")}]
    assert (done.summary.exit_code, done.printed["clips_failed"], done.printed["clips_ok"]) == (1, 1, 1)
    assert done.record["speed"]["seconds_per_clip"]["n"] == 1
    assert not clip_of(done.folder, "demo_ada").exists()
    assert clip_of(done.folder, "demo_ben").is_file()
    return bad, good


@pytest.mark.parametrize(
    ("error", "stage", "reason"),
    [
        (ClipError("no face", clip="demo_ada", stage="face"), "face", "no face"),
        pytest.param(
            RuntimeError("CUDA out of memory"), "denoise", "RuntimeError: CUDA out of memory", marks=pytest.mark.slow
        ),
        (ZeroDivisionError(), "denoise", "ZeroDivisionError"),
    ],
    ids=["clip", "memory", "bug without text"],
)
def test_a_failing_clip_is_a_row(
    error: Exception, stage: str, reason: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = bench.usual()
    break_generation(monkeypatch, error, clips={"demo_ada"})
    bad, good = failed(bench.run(f"paths.runs={bench.runs / 'again'}"))
    assert bad["stage"] == stage
    assert bad["reason"].strip(": ") == reason
    assert good["frames_sha256"] == usual.hashes["demo_ben"]


def test_a_clip_that_fails_in_the_warm_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is skipped there, whatever the error, and becomes a row when its turn comes."""
    asked = break_generation(monkeypatch, RuntimeError("out of memory"), clips={"demo_ada"})
    failed(bench.run("measure.warmup_clips=1"))
    assert asked == ["demo_ada", "demo_ben", "demo_ada", "demo_ben"]


def test_failed_clips_are_made_again_only_when_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        break_generation(patch, RuntimeError("out of memory"), clips={"demo_ada"})
        first = bench.run()
    failed(first)
    asked = break_generation(monkeypatch, None, clips=set())
    again = bench.run()
    assert (asked, again.printed["already_complete"], again.summary.exit_code) == ([], True, 1)
    retried = bench.run("run.retry_failed=true")
    assert asked == ["demo_ada"]
    assert retried.folder == first.folder
    assert (retried.summary.exit_code, retried.printed["clips_ok"], retried.printed["clips_failed"]) == (0, 2, 0)
    assert [row["status"] for row in bench.store().rows()] == ["ok", "ok"]
    assert bench.run("run.retry_failed=true").printed["already_complete"] is True


@pytest.mark.parametrize("error", [EngagementError("counters differ"), StoreError("disk full")])
def test_what_would_void_every_clip_stops_the_run(
    error: Exception, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_generation(monkeypatch, error, clips={"demo_ben"})
    with pytest.raises(type(error)):
        bench.run()
    store = bench.store()
    assert [row["clip"] for row in store.rows()] == ["demo_ada"]
    record = store.read_record()
    assert record is not None and str(error) in record["status_reason"]
    assert not store.is_complete()
    if isinstance(error, EngagementError):
        assert record["speed"] is None, "its numbers must not be used"


def test_all_clips_fail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    break_generation(monkeypatch, ClipError("no face", clip="x", stage="face"), clips={"demo_ada", "demo_ben"})
    done = bench.run()
    record = done.record
    validate(record)
    assert (record["status"], done.summary.exit_code) == ("failed", 1)
    assert "no face" in record["status_reason"]
    for name in ("speed", "timings", "memory", "engagement", "cache_bytes"):
        assert record[name] is None
        assert record[f"{name}_reason"]
    assert done.printed["seconds_per_clip"] is None
    json.dumps(done.printed, allow_nan=False)


def folder_of(demo: Path, root: Path) -> Path:
    """The demo's files as a user's folder, with boxes in `pairs.csv`."""
    shutil.copytree(demo, root)
    (root / "manifest.lcp.jsonl").unlink()
    lines = [json.loads(line) for line in (demo / "manifest.lcp.jsonl").read_text().splitlines()]
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "audio", "box", "landmarks"])
        for clip in (line for line in lines if "box" in line):
            points = [number for point in clip["landmarks5"] for number in point]
            writer.writerow([clip["id"], f"portraits/{clip['id']}.png", f"speech/{clip['id']}.wav",
                             " ".join(map(str, clip["box"])), " ".join(map(str, points))])  # fmt: skip
    return root


@pytest.mark.parametrize("content", [b"", pytest.param(b"not sound at all " * 50, marks=pytest.mark.slow)])
def test_a_corrupt_wav(content: bytes, bench: Bench, tmp_path: Path) -> None:
    root = folder_of(bench.demo, tmp_path / "mine")
    (root / "speech" / "demo_ada.wav").write_bytes(content)
    bad, _ = failed(bench.run("+dataset=folder", f"dataset.root={root}", "dataset.face_detector=manifest"))
    assert bad["stage"] in ("read", "audio")
    assert "demo_ada.wav" in bad["reason"]


def test_a_corrupt_portrait(bench: Bench, tmp_path: Path) -> None:
    root = folder_of(bench.demo, tmp_path / "mine")
    (root / "portraits" / "demo_ada.png").write_text("this is no picture")
    bad, _ = failed(bench.run("+dataset=folder", f"dataset.root={root}", "dataset.face_detector=manifest"))
    assert bad["stage"] == "read"
    assert "demo_ada.png" in bad["reason"]


def test_frames_are_written_as_they_are_decoded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long clip never lies in memory: the writer has the first segment's frames before the second is denoised."""
    written: list[tuple[str, int]] = []

    class Noted(VideoWriter):
        def write(self, pictures: Any) -> None:
            super().write(pictures)
            written.append((self.target.stem, self.count))

    decode = Hallo.decode_pieces

    def noted(self: Hallo, *args: Any) -> Any:
        written.append(("segment", 0))
        return decode(self, *args)

    monkeypatch.setattr(clip_video, "VideoWriter", Noted)
    monkeypatch.setattr(Hallo, "decode_pieces", noted)
    bench.run()
    first = written[: len(written) // 2]  # the first clip
    assert FRAMES == 4 and [name for name, _ in first].count("segment") == 2
    second = [at for at, (name, _) in enumerate(first) if name == "segment"][1]
    assert first[second - 1] == ("demo_ada", 2) and first[-1] == ("demo_ada", 4)


def test_a_video_that_cannot_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec error is the clip's, a full disk is the run's."""
    with monkeypatch.context() as patch:
        refuse_to_write(patch, "demo_ada", MediaError("the encoder refused"))
        bad, _ = failed(bench.run())
    assert (bad["stage"], bad["reason"]) == ("write", "the encoder refused")
    assert not list(bench.store().path.glob("clips/*demo_ada*")), "the frames so far are no video"
    refuse_to_write(monkeypatch, "demo_ada", OSError(28, "No space left on device"))
    with pytest.raises(StoreError, match=r"demo_ada cannot be written.*No space left.*run again"):
        bench.run("sampler.seed=1")


def test_public_weights_need_an_identity_embedding(bench: Bench) -> None:
    """They are conditioned on it; a seeded run says that it has none."""
    config = bench.config("+accel=none")
    strategy = build_strategy(config)
    plan = strategy.plan(config.sampler.steps)
    model = runner.load_model(config, torch.device("cpu"))
    clip = runner.plan_run(config).clips[0]
    assert ClipRunner(config, model, strategy, plan).prepare(clip).inputs.notes["embedding"] == "absent"
    public = replace(config, model=replace(config.model, size="full", weights="checkpoint"))
    with pytest.raises(LcpBenchError, match="no identity embedding, and public weights depend on it"):
        ClipRunner(public, model, strategy, plan).prepare(clip)


# ------------------------------------------------------------------ pairs


def test_a_pair_is_in_the_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []
    generate = ClipRunner.generate

    def noted(self: ClipRunner, prepared: PreparedClip, *rest: Any) -> Any:
        asked.append((prepared.inputs.clip.id, len(self.plan.key_steps) == self.plan.num_steps))
        return generate(self, prepared, *rest)

    monkeypatch.setattr(clip_runner.ClipRunner, "generate", noted)
    done = bench.run("measure.pair=none", "measure.pair_clips=1", "measure.pair_repeats=2")
    record = done.record
    validate(record)
    pair = record["pair"]
    assert "pair_reason" not in record
    assert (pair["baseline"], pair["stage"], pair["n"]) == ("none", "denoise", 2)
    base, fast = pair["samples"]["baseline_s"], pair["samples"]["accelerated_s"]
    assert pair["ratio"] == pytest.approx(sum(base) / sum(fast))
    assert pair["low"] <= pair["ratio"] <= pair["high"]
    assert all(whole > part for whole, part in zip(pair["generation"]["samples"]["baseline_s"], base, strict=True))
    assert done.printed["speedup"] == pair["ratio"]
    assert done.printed["speedup_interval"] == [pair["low"], pair["high"]]
    # after the two clips of the run: one warm-up of each side, then AB, BA
    assert asked[2:] == [("demo_ada", side) for side in (True, False, True, False, False, True)]


def test_no_pair_where_nothing_could_be_generated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    break_generation(monkeypatch, ClipError("no face", clip="x", stage="face"), clips={"demo_ada", "demo_ben"})
    record = bench.run("measure.pair=none", "measure.pair_clips=1", "measure.pair_repeats=2").record
    assert (record["pair"], record["pair_reason"]) == (None, "no clip could be generated")
