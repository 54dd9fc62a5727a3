"""`report check`: every rule has a record that breaks it, and a sweep without a fault passes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_records import write_records, write_run

from lcp_bench.record import run_id
from lcp_bench.report.__main__ import main
from lcp_bench.report.check import check

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main table of one model and one data set, 20 clips, with nothing wrong; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    for accel in ("none", "deepcache", "faster_diffusion", "lcp_dfa_rm"):
        write_run(folder, "hallo", accel, "hdtf", people=10)
    return folder


def verdict(folder: Path, layout: str = "main") -> tuple[str, int]:
    return check(["--runs", str(folder), "--layout", layout])


def changed(sound: Path, target: Path, change: Change, accel: str = "deepcache") -> Path:
    """A copy of the runs in which one record is different; its folder is renamed where its identity is."""
    for path in sound.glob("*/record.json"):
        record = json.loads(path.read_text())
        if record["accel"]["name"] == accel:
            change(record)
            record["run_id"] = run_id(record["identity"])
        folder = target / record["run_id"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record))
    return target


def test_a_sound_table_passes(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, code = verdict(sound)
    assert (text, code) == ("0 of 27 cells must not be published; 0 runs have no record\n", 0)
    assert main(["check", "--runs", str(sound), "--layout", "main"]) == 0
    assert capsys.readouterr().out == text


def _git(**values: Any) -> Change:
    return lambda record: record["git"].update(values)


def _seeded(record: dict[str, Any]) -> None:
    record["labels"] |= {"weights": "seeded", "metric_backbones": None, "metric_backbones_reason": "seeded"}
    record |= {"quality": None, "quality_reason": "random weights make no face: quality means nothing"}
    record["command_line"] += " model.weights=seeded"


def _no_engagement(record: dict[str, Any]) -> None:
    record["engagement"]["reused"] = {}
    record["flops"]["tflops_per_clip"] = record["flops"]["tflops_per_clip_unaccelerated"]


def _unscored(record: dict[str, Any]) -> None:
    record |= {"quality": None, "quality_reason": "no metric has been run on these videos"}
    record["labels"] |= {"metric_backbones": None, "metric_backbones_reason": "nothing was scored"}
    record["command_line"] = record["command_line"].replace(" +metric=paper", "")


def _few_pairs(record: dict[str, Any]) -> None:
    record["pair"]["n"] = 2
    record["pair"]["samples"] = {side: values[:2] for side, values in record["pair"]["samples"].items()}
    record["command_line"] += " measure.pair_repeats=2"


def _no_pair(record: dict[str, Any]) -> None:
    record |= {"pair": None, "pair_reason": "measure.pair is null: only this strategy was timed"}


def _interrupted(record: dict[str, Any]) -> None:
    record |= {"status": "partial", "status_reason": "12 of 20 clips have a row"}
    record["clips"] |= {"n_ok": 12}


def _failed(record: dict[str, Any]) -> None:
    record["clips"] |= {"n_ok": 19, "n_failed": 1, "failed": [{"clip": "x", "stage": "face", "reason": "no face"}]}


def _over_clips(record: dict[str, Any]) -> None:
    for block in record["quality"].values():
        for side in block["scores"].values():
            for score in side.values():
                if isinstance(score, dict):
                    score.pop("identities", None)


def _other_device(record: dict[str, Any]) -> None:
    record["device"]["name"] = "Other GPU"


def _other_source(record: dict[str, Any]) -> None:
    record["identity"]["source_sha256"] = "1" * 64


def _other_versions(record: dict[str, Any]) -> None:
    record["identity"]["versions"]["torch"] = "2.14.0"


def _other_protocol(record: dict[str, Any]) -> None:
    (block,) = record["quality"].values()
    score = block["scores"]["videos"]["fid"]
    block["protocols"]["f" * 16] = block["protocols"][score["protocol"]]
    score["protocol"] = "f" * 16


RULES: list[tuple[str, Change, str, str]] = [
    ("dirty", _git(dirty=True), "uncommitted changes", "rm -r runs/"),
    ("no commit", _git(commit=None, commit_reason="no git"), "the commit is unknown: no git", "git status"),
    ("seeded", _seeded, "random weights", "model.weights=checkpoint"),
    ("engagement", _no_engagement, "zero engagement", "look at engagement"),
    ("unscored", _unscored, "no score: no metric has been run", "+metric=paper"),
    ("few pairs", _few_pairs, "too few repeats: 2 interleaved pairs, at least 5", "measure=bench"),
    ("no pair", _no_pair, "no speed-up: measure.pair is null", "measure=bench"),
    ("interrupted", _interrupted, "the run is partial: 12 of 20", "+accel=deepcache"),
    ("failed", _failed, "1 of 20 clips failed, the first one (x) at face: no face", "run.retry_failed=true"),
    ("over clips", _over_clips, "counts clips of one person as different people", "+metric=paper"),
    ("hardware", _other_device, "mixed hardware: Other GPU", "on the machine, and from the commit, of the other runs"),
    ("source", _other_source, "mixed source code: 1111", "of the other runs"),
    ("versions", _other_versions, "mixed library versions: ", "of the other runs"),
    ("protocol", _other_protocol, "mixed protocol: public ffff", "+metric=paper"),
]


@pytest.mark.parametrize(("change", "reason", "command"), [each[1:] for each in RULES], ids=[each[0] for each in RULES])
def test_each_fault_is_named_with_the_command_that_mends_it(
    sound: Path, tmp_path: Path, change: Change, reason: str, command: str
) -> None:
    text, code = verdict(changed(sound, tmp_path, change))
    assert code == 1 and "0 of 27" not in text
    assert reason in text, text
    lines = text.splitlines()
    mends = [lines[index + 1] for index, line in enumerate(lines) if reason in line]
    assert mends and all(line.startswith("    mend: ") and command in line for line in mends), mends
    for line in mends:  # can be pasted into a shell
        assert shlex.split(line.removeprefix("    mend: "), comments=True)
        assert "measure.pair_repeats" not in line, "the fault is given again"


def test_what_nobody_ran_is_spelt_after_its_neighbours(sound: Path, tmp_path: Path) -> None:
    for path in sound.glob("*/record.json"):
        record = json.loads(path.read_text())
        if record["accel"]["name"] != "faster_diffusion":
            record["command_line"] += " sampler.steps=40"
            (tmp_path / record["run_id"]).mkdir()
            (tmp_path / record["run_id"] / "record.json").write_text(json.dumps(record))
    text, code = verdict(tmp_path)
    assert code == 1 and "fvd, fid, efid, lse_c, tflop, denoise_s, speedup: nobody ran it" in text
    assert (
        "mend: python -m lcp_bench +model=hallo +accel=faster_diffusion +dataset=hdtf +metric=paper sampler.steps=40"
        in text
    )


def test_few_clips_and_a_run_without_a_record(tmp_path: Path) -> None:
    write_records(tmp_path)
    (tmp_path / "0123456789ab").mkdir()
    (tmp_path / "0123456789ab" / "rows.jsonl").write_text('{"clip": "a", "status": "ok"}\n')
    text, code = verdict(tmp_path, "all")
    assert code == 1 and "too few clips for a score: 6, at least 20" in text
    assert "dataset.synthetic.people=20" in text
    assert "run 0123456789ab: no record yet (1 clips ok, 0 failed)" in text and text.endswith("1 runs have no record\n")
    assert "lcp (sampler.seed=7) on synth_hdtf" in text and "the run is partial: 3 of 6" in text


def test_an_empty_folder(tmp_path: Path) -> None:
    text, code = verdict(tmp_path)
    assert code == 1 and "No runs" in text
