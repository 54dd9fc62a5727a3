"""Records as pandas tables: the numbers of the records, one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_records import write_records

from lcp_bench.errors import ConfigError
from lcp_bench.report.frames import COMPONENTS, load_frame, load_scores, load_stages, load_steps
from lcp_bench.store import list_records


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    write_records(folder, models=["mini"], strategies=("none", "lcp", "lcp_dfa_rm"), people=1, extras=False)
    return folder


def test_one_line_per_run_with_the_numbers_of_its_record(runs: Path) -> None:
    frame = load_frame(runs).set_index("run_id")
    records = {path.parent.name: json.loads(path.read_text()) for path in runs.glob("*/record.json")}
    assert set(frame.index) == set(records) and len(frame) == 6
    for run, record in records.items():
        line, speed = frame.loc[run], record["speed"]["seconds_per_clip"]
        assert (line.seconds_per_clip, line.seconds_per_clip_n) == (speed["value"], speed["n"])
        assert line.steps == record["plan"]["steps"] and line.key_steps == len(record["plan"]["key_steps"])
        assert line.speedup == (record["pair"]["ratio"] if record["pair"] else 1.0)
        assert line.dataset == record["labels"]["dataset"]


def test_components_say_what_a_strategy_uses(runs: Path) -> None:
    frame = load_frame(list_records(runs)).drop_duplicates("accel").set_index("accel")[list(COMPONENTS)]
    assert not frame.loc["none"].any()
    assert frame.loc["lcp"].to_dict() == dict.fromkeys(COMPONENTS, True) | {
        "foreground": False,
        "drops_reference": False,
    }
    assert frame.loc["lcp_dfa_rm"].all()


def test_stages_and_steps_are_those_of_the_record(runs: Path) -> None:
    stages, steps = load_stages(runs), load_steps(runs)
    for path in runs.glob("*/record.json"):
        record = json.loads(path.read_text())
        own = stages[stages.run_id == record["run_id"]]
        assert {stage: list(found.seconds) for stage, found in own.groupby("stage")} == record["timings"]
        mine = steps[steps.run_id == record["run_id"]]
        assert list(mine.step) == list(range(record["plan"]["steps"]))
        assert list(mine[mine.role == "key"].step) == record["plan"]["key_steps"]


def test_scores_keep_protocol_and_n(runs: Path) -> None:
    scores = load_scores(runs)
    assert {"videos", "difference"} <= set(scores.side)
    assert scores[scores.value.notna()][["n", "protocol", "label", "direction"]].notna().all().all()
    assert not scores.duplicated(["run_id", "set", "side", "name"]).any()


def test_a_folder_without_records_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make some with: python -m lcp_bench"):
        load_frame(tmp_path)
