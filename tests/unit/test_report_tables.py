"""The paper's tables from records: which run is behind a cell, what is bold, what never shares a column, bytes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_records import ALL_STRATEGIES, write_records, write_run

from lcp_bench.report.__main__ import main
from lcp_bench.report.paired import Difference
from lcp_bench.report.published import load_published
from lcp_bench.report.tables_cells import SPEED, Baseline, Cell, Column
from lcp_bench.report.tables_layout import LAYOUTS, build
from lcp_bench.report.tables_text import cell_text
from lcp_bench.store import list_records

FVD = Column("d", 0, "fvd", "public", "a" * 16, "squared feature units", "lower")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a sweep; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables of these records."""
    out = tmp_path_factory.mktemp("tables")
    assert main(["tables", "--runs", str(runs), "--out", str(out)]) == 0
    return out


def cells(written: Path, layout: str = "main", **wanted: str) -> list[dict[str, str]]:
    """The lines of a CSV that have these fields."""
    with (written / f"{layout}.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def record_of(runs: Path, run: str) -> Any:
    return json.loads((runs / run / "record.json").read_text())


def test_deleting_the_tables_and_one_command_restores_them_byte_for_byte(runs: Path, written: Path) -> None:
    before = {path.name: path.read_bytes() for path in sorted(written.iterdir())}
    assert sorted(before) == sorted(f"{name}.{end}" for name in LAYOUTS for end in ("md", "csv", "tex", "cells.json"))
    shutil.rmtree(written)
    assert main(["tables", "--runs", str(runs), "--out", str(written)]) == 0
    assert {path.name: path.read_bytes() for path in sorted(written.iterdir())} == before


def test_a_cell_is_the_number_of_its_record_with_run_ids_n_and_interval(runs: Path, written: Path) -> None:
    (cell,) = cells(written, model="mini", accel="lcp_dfa_rm", dataset=_label(runs, "synth_mead"), metric="fid")
    own, baseline = cell["runs"].split()
    (block,) = record_of(runs, own)["quality"].values()
    score, difference = block["scores"]["videos"]["fid"], block["scores"]["difference"]["fid_minus_baseline"]
    assert float(cell["value"]) == score["value"] and cell["protocol"] == score["protocol"] and cell["label"] == "mini"
    assert [float(cell[end]) for end in ("low", "high")] == [score["low"], score["high"]]
    assert (cell["n"], cell["n_expected"], cell["people"]) == ("6", "6", "3")
    assert float(cell["difference"]) == difference["value"]
    assert (
        record_of(runs, baseline)["accel"]["name"] == "none" == record_of(runs, cell["baseline_run"])["accel"]["name"]
    )
    assert float(cell["p_holm"]) >= float(cell["p"]) and cell["rows_corrected_for"] == "2"
    trail = json.loads((written / "main.cells.json").read_text())
    traced = [each for section in trail["sections"] for row in section["rows"] for each in row["cells"]
              if each["runs"] == [own, baseline] and each["metric"] == "fid"]  # fmt: skip
    assert [each["value"] for each in traced] == [score["value"]] and traced[0]["protocol"] == score["protocol"]


def _label(runs: Path, name: str) -> str:
    labels = {run.record["labels"]["dataset"] for run in list_records(runs) if run.record is not None}
    return next(label for label in labels if label.startswith(f"{name}:"))


def test_published_numbers_stand_in_their_own_column(written: Path) -> None:
    published = load_published()
    (cell,) = [each for each in cells(written, model="hallo", accel="none", metric="fvd") if "hdtf" in each["dataset"]]
    assert float(cell["published"]) == 135.32 != float(cell["value"])
    assert published.number(("table 1",), "hallo", "none", "hdtf", "fvd").value == 135.32  # type: ignore[union-attr]
    assert not any(each["published"] for each in cells(written, model="mini"))
    head = next(line for line in (written / "main.md").read_text().splitlines() if line.startswith("| model"))
    assert "| FVD ↓ hdtf | published |" in head
    # A paper's tables are looked through in order: + RM is table 2's number, the unaccelerated run is in table 1 only.
    components = cells(written, "ablation_components", model="hallo", accel="lcp_dfa_rm", metric="tflop")
    assert {each["published"] for each in components} == {"671.44"}
    assert {each["published"] for each in cells(written, model="hallo", accel="lcp_dfa_rm", metric="tflop")} == {
        "671.4"
    }


def test_partial_cells_are_marked_and_never_judged(written: Path) -> None:
    found = cells(written, model="mini", accel="deepcache", partial="True")
    assert {each["metric"] for each in found} >= {"fid", "denoise_s"} and not any(each["verdict"] for each in found)
    assert (
        "n=5/6 PARTIAL" in (written / "main.md").read_text() and "n=5$/6 PARTIAL" in (written / "main.tex").read_text()
    )


def test_what_nobody_ran_has_a_row(written: Path) -> None:
    rows = [line for line in (written / "main.md").read_text().splitlines() if "| faster_diffusion |" in line]
    assert len(rows) == 2 and all("not run" in row for row in rows)
    assert all(each["reason"] == "not run" for each in cells(written, model="mini", accel="faster_diffusion"))


def test_other_labels_and_settings_are_rows_of_their_own(written: Path) -> None:
    found = cells(written, "ablation_components", model="mini", accel="lcp", metric="denoise_s")
    assert {(each["weights"], each["settings"]) for each in found} == {
        ("mini", "sampler.seed=42"), ("mini", "sampler.seed=7"), ("seeded", "")
    }  # fmt: skip
    seeded = cells(written, "ablation_components", weights="seeded")
    assert not any(each["metric"] in ("fvd_motion", "fid", "efid", "sync_c") for each in seeded)


def test_runs_of_another_protocol_get_columns_of_their_own(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    path = next(path for path in (tmp_path / "runs").glob("*/record.json")
                if _is(path, "mini", "none", "synth_mead"))  # fmt: skip
    record = json.loads(path.read_text())
    (block,) = record["quality"].values()
    score = block["scores"]["videos"]["fid"]
    block["protocols"]["f" * 16] = block["protocols"][score["protocol"]]
    score["protocol"] = "f" * 16
    path.write_text(json.dumps(record))
    records = [run.record for run in list_records(tmp_path / "runs") if run.record is not None]
    section = build(LAYOUTS["main"], records, None)[1]
    columns = [each for each in section.columns if each.metric == "fid" and each.dataset_name == "synth_mead"]
    assert len(columns) == 2
    for row in section.rows:
        assert sum(row.cells[column].value is not None for column in columns) <= 1


def _is(path: Path, model: str, accel: str, dataset: str) -> bool:
    record = json.loads(path.read_text())
    return (record["model"]["name"], record["accel"]["name"]) == (model, accel) and record["labels"][
        "dataset"
    ].startswith(f"{dataset}:")


def test_of_two_equal_runs_the_later_whole_one_is_shown(tmp_path: Path) -> None:
    """A partial run that is newer does not push out a whole one; a speed-up may come from the run that has one."""
    old = write_run(
        tmp_path, "mini", "lcp", "synth_hdtf", paired=True, scored=False, created_utc="2025-01-01T00:00:00Z"
    )
    record = json.loads(old.read_text())
    later = json.loads(old.read_text()) | {
        "created_utc": "2025-03-01T00:00:00Z",
        "pair": None,
        "pair_reason": "not asked",
    }
    later["identity"]["source_sha256"] = "1" * 64
    records = [record, later]
    (section,) = build(LAYOUTS["ablation_components"], records, None)
    (row,) = [row for row in section.rows if row.accel == "lcp"]
    by_metric = {column.metric: row.cells[column] for column in section.columns}
    assert [each["created_utc"][:7] for each in row.records[record["labels"]["dataset"]]] == ["2025-03", "2025-01"]
    assert by_metric["speedup"].value == record["pair"]["ratio"] and by_metric["denoise_s"].runs == (later["run_id"],)
    later["status"] = "partial"
    (section,) = build(LAYOUTS["ablation_components"], records, None)
    (row,) = [row for row in section.rows if row.accel == "lcp"]
    assert row.records[record["labels"]["dataset"]][0]["created_utc"].startswith("2025-01")


def judged(value: float, difference: float, p: float, n: int = 30, **changes: Any) -> str:
    """Verdict of an FVD whose unaccelerated run has 100 [90, 110]."""
    found = Difference(difference, difference - 1.0, difference + 1.0, n, 10, p, p)
    cell = Cell(value, value - 5, value + 5, n, 30, 10, ("run",), "", found, Baseline("none", 100.0, 90.0, 110.0))
    return Cell(**{name: getattr(cell, name) for name in cell.__slots__} | changes).verdict(FVD)


def test_bold_needs_the_paired_comparison_and_a_value_outside_the_interval_of_none() -> None:
    assert judged(80.0, -20.0, 0.001) == "better"
    assert judged(95.0, -5.0, 0.001) == ""  # inside the baseline's interval
    assert judged(80.0, -20.0, 0.2) == ""  # the pairs do not say so
    assert judged(105.0, 5.0, 0.001) == "worse"  # a warning does not wait for the interval
    assert judged(80.0, -20.0, 0.001, n=29) == ""  # a clip is missing
    assert judged(80.0, -20.0, 0.001, baseline=Baseline("none", 100.0, None, None)) == ""
    assert Cell(80.0, 75.0, 85.0, 30, 30).verdict(FVD) == ""  # never compared


@pytest.mark.parametrize(("low", "high", "expected"), [(1.9, 2.1, "better"), (0.4, 0.6, "worse"), (0.9, 1.2, "")])
def test_a_speed_up_is_judged_against_one(low: float, high: float, expected: str) -> None:
    middle = (low + high) / 2
    cell = Cell(middle, low, high, 5, difference=Difference(middle, low, high, 5, None, 0.001, 0.001))
    assert cell.verdict(SPEED[-1]) == expected


def test_cell_text() -> None:
    assert cell_text(Cell(8.5, 7.9, 9.1, 5, 6, runs=("a",))) == "8.500 [7.900, 9.100] n=5/6 PARTIAL"
    assert cell_text(Cell(0.22, runs=("a",))) == "0.22"
    assert cell_text(Cell(None, runs=("a",))) == "n/a" and cell_text(Cell(None)) == "not run"


def test_latex_groups_data_sets_and_escapes(written: Path) -> None:
    text = (written / "main.tex").read_text()
    assert r"\multicolumn{5}{c}{synth\_hdtf}" in text and r"\multicolumn{8}{c}{hdtf}" in text and r"\cmidrule" in text
    assert r"lcp\_dfa\_rm" in text and text.count(r"\begin{table*}") == 2 == text.count(r"\bottomrule")
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    body = text.split(r"\begin{tabular}{ll")[1]
    assert {line.count("&") for line in rows[:6]} == {1 + body.index("}")}


def test_all_layouts_and_strategies(tmp_path: Path) -> None:
    write_records(tmp_path / "runs", models=["mini"], strategies=ALL_STRATEGIES, extras=False)
    assert (
        main(["tables", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--layout", "ablation_estimation"])
        == 0
    )
    found = cells(tmp_path, "ablation_estimation", metric="fid")
    assert [each["accel"] for each in found if each["model"] == "mini"][::2] == ["none", "lcp_no_estimation", "lcp"]
    assert "TFLOP" not in (tmp_path / "ablation_estimation.md").read_text()
    assert not (tmp_path / "main.md").exists()


def test_wrong_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--runs", str(tmp_path / "none")]) == 1
    assert "No runs" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["tables", "--layout", "table9"])
    write_run(tmp_path / "runs", "mini", "fewer_steps", "synth_hdtf")
    assert main(["tables", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--layout", "main"]) == 1
    assert "nothing is written" in capsys.readouterr().out and not (tmp_path / "out").exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    write_run(tmp_path / "runs", "mini", "none", "synth_hdtf")
    assert main(["tables", "--runs", str(tmp_path / "runs"), "--out", str(blocked / "out")]) == 1
    assert "must be writable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("schema: 1", "schema: 2"), "schema: 1"),
        (lambda text: text + text.splitlines()[-1] + "\n", "there once"),
        (lambda text: text.replace("value: 135.32", "value: much"), "number as value"),
        (lambda text: "a: [", "as YAML"),
    ],
)
def test_published_numbers_are_checked(
    repository: Path, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    from lcp_bench.errors import ConfigError

    text = (repository / "results" / "published.yaml").read_text(encoding="utf-8")
    path = tmp_path / "published.yaml"
    path.write_text(change(text), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_published(path)


def test_published_numbers_equal_the_source(shared_dir: Path) -> None:
    """Every number, digit by digit, and none that is not there."""
    source = json.loads((shared_dir / "specs" / "paper-results.json").read_text())["rows"]
    accels = {"base": "none", "fasterdiffusion": "faster_diffusion", "ours": "lcp_dfa_rm",
              "lcp_without_estimation": "lcp_no_estimation", "lcp_with_estimation": "lcp"}  # fmt: skip
    metrics = {"e_fid": "efid", "sync": "lse_c", "flops": "tflop", "latency": "denoise_s"}
    expected = [
        (row["table"].lower(), row["model"], accels.get(row["variant"], row["variant"]), row["dataset"],
         metrics.get(row["metric"], row["metric"]), row["value"])
        for row in source
    ]  # fmt: skip
    keys = ("table", "model", "accel", "dataset", "metric", "value")
    assert [tuple(row[key] for key in keys) for row in load_published().rows] == expected
