"""Quality in tables: one column per measurement, partial n marked, floors and reasons named."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quality_records import block, score, scored

from lcp_bench.report.render import FORMATS
from lcp_bench.report.table import make_tables
from lcp_bench.store import RunStore, list_records

RecordMaker = Callable[..., dict[str, Any]]
OLD, NEW = "a" * 16, "b" * 16


@pytest.fixture
def save(tmp_path: Path, make_record: RecordMaker) -> Callable[..., str]:
    """Writes the record of a scored run; returns its id."""

    def write(accel: str, *blocks: dict[str, Any]) -> str:
        quality = {f"{each['set']}:{number:08x}": each for number, each in enumerate(blocks)}
        record = make_record(accel, **scored(quality))
        with RunStore(tmp_path, record["run_id"]) as store:
            store.write_record(record)
        return str(record["run_id"])

    return write


def text_of(root: Path, form: str = "markdown") -> str:
    return FORMATS[form](make_tables(list_records(root)), ())


def section(text: str) -> list[list[str]]:
    """Cells of the quality table, titles first."""
    lines = text.split("### Quality\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def test_columns_rows_and_real_videos(save: Callable[..., str], tmp_path: Path) -> None:
    reference = [score("light", 9.0), score("fvd_floor", 0.5, n=5, n_expected=5)]
    save("lcp", block(score("fvd", 2.0), score("light", 7.0), difference=[score("fvd_minus_baseline", 0.75)],
                      reference=reference))  # fmt: skip
    save("none", block(score("fvd", 1.25), score("light", 7.5), reference=reference))
    text = text_of(tmp_path)
    titles, lcp, none, real = section(text)
    assert len(titles) == 6 and titles[2].startswith("fvd \\[95% interval\\]".replace("\\", ""))
    assert "mini, lower is better, n=10, protocol aaaaaaaa" in titles[2]
    assert "below 0 is better than none" in titles[3]
    assert lcp[1:5] == ["lcp", "2.000 [1.500, 2.500] n=10", "0.75 [0.25, 1.250] n=10", "7.000 [6.500, 7.500] n=10"]
    assert none[3] == "n/a" and none[4].startswith("7.500")
    assert real[0] == "(real videos)" and real[2] == "n/a" and real[4].startswith("9.000")
    assert "- floor, 5 real clips against 5 others: fvd_floor 0.5 [0, 1] n=5 (mini, protocol aaaaaaaa)" in text
    for form in ("csv", "latex"):
        assert "(real videos)" in text_of(tmp_path, form)


@pytest.mark.parametrize(
    "change",
    [{"protocol": NEW}, {"n": 9, "n_expected": 9}, {"label": "public"}],
    ids=["protocol", "n", "label"],
)
def test_what_was_measured_differently_never_shares_a_column(
    save: Callable[..., str], tmp_path: Path, change: dict[str, Any]
) -> None:
    save("lcp", block(score("fvd", 2.0)))
    save("none", block(score("fvd", 3.0, **change), name="paper" if "label" in change else "mini"))
    titles, lcp, none = section(text_of(tmp_path))
    assert len(titles) == 5
    assert sorted([lcp[2:4].count("n/a"), none[2:4].count("n/a")]) == [1, 1]
    assert lcp[2:4].index("n/a") != none[2:4].index("n/a")


def test_a_partial_n_is_marked(save: Callable[..., str], tmp_path: Path) -> None:
    save("lcp", block(score("fvd", 2.0, n=9)))
    assert section(text_of(tmp_path))[1][2] == "2.000 [1.500, 2.500] n=9 of 10 PARTIAL"
    rows = list(csv.DictReader(text_of(tmp_path, "csv").splitlines()[1:]))
    assert rows[0][f"fvd|mini|{OLD}|n=9"] == "2.0" and rows[0][f"fvd|mini|{OLD}|n=9|n_expected"] == "10"


def test_reasons_of_what_is_missing(save: Callable[..., str], tmp_path: Path, make_record: RecordMaker) -> None:
    made = block(score("fvd", None), score("light"))
    made["scores"]["videos"] |= {"psnr": None, "psnr_reason": "no unaccelerated run"}
    run = save("lcp", made)
    changes = scored({}) | {"quality": None, "quality_reason": "no metric has been run"}
    plain = make_record("none", **changes)
    with RunStore(tmp_path, plain["run_id"]) as store:
        store.write_record(plain)
    text = text_of(tmp_path)
    assert f"- no fvd (mini): too few clips ({run})" in text
    assert f"- no psnr (mini): no unaccelerated run ({run})" in text
    assert f"- no quality: no metric has been run ({plain['run_id']})" in text


def test_of_two_blocks_with_one_column_the_later_counts(save: Callable[..., str], tmp_path: Path) -> None:
    old, new = block(score("fvd", 1.0), score("light", None)), block(score("fvd", 2.0), score("light"))
    new["created_utc"] = "2025-02-28T12:00:00Z"
    save("lcp", new, old)
    text = text_of(tmp_path)
    titles, row = section(text)
    assert len(titles) == 5 and row[2].startswith("2.000") and "no light" not in text


def test_without_scores_nothing_is_added(tmp_path: Path, make_record: RecordMaker) -> None:
    record = make_record()
    with RunStore(tmp_path, record["run_id"]) as store:
        store.write_record(record)
    assert "Quality" not in text_of(tmp_path) and "no quality" not in text_of(tmp_path)
