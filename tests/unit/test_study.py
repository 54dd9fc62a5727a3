"""The study of components and rivals: effects over matched pairs, and the control at equal cost."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from report_records import write_run

from lcp_bench.errors import ConfigError
from lcp_bench.report.quality import QualityCell, QualityColumn, RowQuality
from lcp_bench.report.study import (
    Studied,
    control_value,
    effects,
    follower_overhead,
    main,
    markdown,
    read_study,
    verdict,
)
from lcp_bench.report.table import Row

FID = QualityColumn("fid", "mini", "abcd", 6, "squared feature units", "lower")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "runs"
    for accel in ("none", "fewer_steps", "lcp", "lcp_dfa", "deepcache"):
        write_run(folder, "mini", accel, "synth_hdtf")
    return folder


@pytest.fixture(scope="module")
def row(runs: Path) -> Row:
    return read_study(runs)[0].row


def studied(
    row: Row, label: str, cost: float, fid: float, choices: tuple[object, ...] = (), half: float = 0.1
) -> Studied:
    quality = RowQuality({FID: QualityCell(fid, fid - half, fid + half, 6, 6)}, {})
    return Studied(label, replace(row, quality=quality), cost, cost, None, choices)


def test_an_effect_is_the_mean_over_pairs_that_differ_in_it_alone(row: Row) -> None:
    study = [
        studied(row, "x", 0.3, 10 + 2 * estimate - 0.5 * keys + (3 if removal and not estimate else 0),
                (bool(estimate), False, bool(removal), keys))
        for estimate, removal, keys in product((0, 1), (0, 1), (3, 6))
    ]  # fmt: skip

    def fid(each: Studied) -> float:
        return each.row.quality.cells[FID].value

    ((change, estimation),) = effects(study, 0, fid)
    assert change == "off → on" and estimation.pairs == 4
    assert estimation.mean == pytest.approx(2 - 1.5) and (estimation.low, estimation.high) == (-1, 2)
    assert effects(study, 1, fid) == [], "nobody changes it"
    ((change, keys),) = effects(study, 3, fid)
    assert change == "3 → 6" and keys.mean == keys.low == keys.high == pytest.approx(-1.5)
    assert effects(study[1:], 0, fid)[0][1].pairs == 3, "a run without its partner is in no pair"


def test_the_control_lies_between_its_neighbours_in_cost(row: Row) -> None:
    study = [
        studied(row, "fewer_steps, 4 steps", 0.2, 30),
        studied(row, "fewer_steps, 8 steps", 0.4, 20),
        studied(row, "lcp", 0.3, 99),
        studied(row, "none, 20 steps", 1.0, 8),
    ]
    assert control_value(study, FID, 0.3) == pytest.approx(25)
    assert control_value(study, FID, 0.4) == 20 and control_value(study, FID, 0.7) == pytest.approx(14)
    assert control_value(study, FID, 0.1) is None, "nothing is extrapolated"


def test_what_a_follower_costs_beyond_its_work() -> None:
    plan = {"steps": 10, "key_steps": [0, 4]}
    # two full steps and eight followers of a tenth each: 2.8 of 10; with a tenth more time per follower
    assert follower_overhead(plan, 0.28, 0.28) == pytest.approx(1)
    assert follower_overhead(plan, 0.28, (2 + 8 * 0.11) / 10) == pytest.approx(1.1)
    assert follower_overhead({"steps": 2, "key_steps": [0, 1]}, 1.0, 1.0) is None, "no step follows"
    assert follower_overhead({"steps": 10, "key_steps": None}, 0.3, 0.3) is None, "decided at run time"


def test_a_verdict_needs_an_interval_without_the_controls_value() -> None:
    cell = QualityCell(10.0, 9.0, 11.0, 6, 6)
    assert [verdict(cell, control, "lower") for control in (12.0, 10.5, 8.0)] == ["better", "=", "worse"]
    assert [verdict(cell, control, "higher") for control in (12.0, 8.0)] == ["worse", "better"]


def test_the_study_of_a_folder(runs: Path, tmp_path: Path) -> None:
    study = read_study(runs)
    assert [each.cost for each in study] == sorted(each.cost for each in study)
    assert study[-1].label.startswith("none") and study[-1].cost == 1
    text = markdown(study)
    assert "foreground attention: off → on | 1 |" in text
    assert main(["--runs", str(runs), "--out", str(tmp_path / "docs" / "study.md")]) == 0
    assert (tmp_path / "docs" / "study.md").read_text() == text
    for each in study:
        assert each.row.run_id in text


def test_what_is_no_study_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(tmp_path)]) == ConfigError.exit_code
    assert "needs one run of accel=none" in capsys.readouterr().err
    for dataset in ("synth_hdtf", "synth_mead"):
        write_run(tmp_path / "two", "mini", "none", dataset)
    with pytest.raises(ConfigError, match="got 2"):
        read_study(tmp_path / "two")


def test_the_published_study_is_that_of_its_records(repository: Path) -> None:
    text = (repository / "docs" / "strategies-on-mini.md").read_text(encoding="utf-8")
    for name in ("mini", "mini-speed"):
        assert markdown(read_study(repository / "results" / "studies" / name)) in text, name
