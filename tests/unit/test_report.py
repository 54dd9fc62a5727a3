"""The report: golden texts, and rows that must not meet."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.record import pair_block
from lcp_bench.report.__main__ import main
from lcp_bench.report.render import FORMATS, escape_latex, number
from lcp_bench.report.table import SORT_KEYS, make_tables
from lcp_bench.store import RunStore, list_records

RecordMaker = Callable[..., dict[str, Any]]


def _save(root: Path, record: dict[str, Any]) -> str:
    with RunStore(root, record["run_id"]) as store:
        store.write_record(record)
    return str(record["run_id"])


def _lcp(make_record: RecordMaker) -> dict[str, Any]:
    interval = {"value": 2.0, "low": 1.875, "high": 2.125, "n": 2, "level": 0.95}
    return make_record(
        "lcp_100%|x",
        speed={
            "seconds_per_clip": {"value": 6.25, "low": 6.0, "high": 6.5, "n": 4, "level": 0.95},
            "frames_per_second": {"value": 4.0, "low": 3.9, "high": 4.1, "n": 4, "level": 0.95},
            "denoise_tflops_per_second": {"value": 0.125, "low": 0.1, "high": 0.15, "n": 4, "level": 0.95},
        },
        pair=pair_block("none", interval, [12.0, 12.0], [6.0, 6.0]),
        flops={"tflops_per_clip": {"as_published": 1.2, "executed": 0.875}, "speedup_bound": 2.857142857},
        cache_bytes=5_242_880,
        plan={"steps": 40, "key_steps": [0, 20]},
    )


@pytest.fixture
def runs(tmp_path: Path, make_record: RecordMaker) -> Path:
    """Two comparable complete runs."""
    root = tmp_path / "runs"
    _save(root, make_record())
    _save(root, _lcp(make_record))
    return root


def _text(root: Path, form: str, **options: Any) -> str:
    return FORMATS[form](make_tables(list_records(root), **options), ())


MARKDOWN = """\
## seeded weights, size tiny, float32, data folder:0a1b2c3d, on Some CPU, 2 threads

| model | size | weights | accel | steps | clips ok/expected | time per clip (s) [95% interval] | speed (frames/s) \
| speed-up (x) [95% interval] | FLOP bound (x) | executed (TFLOP/clip) | reached (TFLOP/s) | cache (MB) \
| peak host memory (MB) | status | run |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |
| hallo | tiny | seeded | lcp_100%\\|x | 40 | 4/4 | 6.250 [6.000, 6.500] n=4 | 4.000 | 2.000 [1.875, 2.125] n=2 \
vs none | 2.857 | 0.875 | 0.125 | 5.243 | 1500 | complete | {lcp} |
| hallo | tiny | seeded | none | 40 | 4/4 | 12.50 [12.00, 13.00] n=4 | 2.000 | n/a | 1.000 | 2.500 | 0.25 | 0 | 1500 \
| complete | {none} |

- no speed-up: measure.pair is null ({none})
"""

CSV = """\
# seeded weights, size tiny, float32, data folder:0a1b2c3d, on Some CPU, 2 threads
model,size,weights,dtype,dataset,device,accel,steps,clips_ok,clips_expected,seconds_per_clip,seconds_per_clip_low,\
seconds_per_clip_high,seconds_per_clip_n,frames_per_second,speedup,speedup_low,speedup_high,speedup_n,\
speedup_baseline,speedup_bound,executed_tflop_per_clip,reached_tflop_per_s,cache_mb,peak_memory_mb,peak_memory_of,status,status_reason,\
run_id,created_utc
hallo,tiny,seeded,float32,folder:0a1b2c3d,"Some CPU, 2 threads",lcp_100%|x,40,4,4,6.25,6.0,6.5,4,4.0,2.0,1.875,\
2.125,2,none,2.857142857,0.875,0.125,5.24288,1500.0,host,complete,,{lcp},2025-01-31T12:00:00Z
hallo,tiny,seeded,float32,folder:0a1b2c3d,"Some CPU, 2 threads",none,40,4,4,12.5,12.0,13.0,4,2.0,,,,0,none,1.0,\
2.5,0.25,0.0,1500.0,host,complete,,{none},2025-01-31T12:00:00Z
"""

LATEX = r"""% needs \usepackage{booktabs,graphicx}
\begin{table*}
\centering
\caption{seeded weights, size tiny, float32, data folder:0a1b2c3d, on Some CPU, 2 threads}
\resizebox{\linewidth}{!}{%
\begin{tabular}{llllrrrrrrrrrrll}
\toprule
model & size & weights & accel & steps & clips ok/expected & time per clip (s) {[}95\% interval] & speed (frames/s)@
 & speed-up (x) {[}95\% interval] & FLOP bound (x) & executed (TFLOP/clip) & reached (TFLOP/s)@
 & cache (MB) & peak host memory (MB)@
 & status & run \\
\midrule
hallo & tiny & seeded & lcp\_100\%\textbar{}x & 40 & 4/4 & 6.250 {[}6.000, 6.500] n=4 & 4.000@
 & 2.000 {[}1.875, 2.125] n=2 vs none & 2.857 & 0.875 & 0.125 & 5.243 & 1500 & complete & <lcp> \\
hallo & tiny & seeded & none & 40 & 4/4 & 12.50 {[}12.00, 13.00] n=4 & 2.000@
 & n/a & 1.000 & 2.500 & 0.25 & 0 & 1500 & complete & <none> \\
\bottomrule
\end{tabular}}
\end{table*}
% no speed-up: measure.pair is null (<none>)
""".replace("@\n", "")


def test_golden_texts(runs: Path, make_record: RecordMaker) -> None:
    none, lcp = make_record()["run_id"], _lcp(make_record)["run_id"]
    assert _text(runs, "markdown") == MARKDOWN.format(none=none, lcp=lcp)
    assert _text(runs, "csv") == CSV.format(none=none, lcp=lcp)
    assert _text(runs, "latex") == LATEX.replace("<none>", none).replace("<lcp>", lcp)


def test_csv_is_read_by_pandas_with_full_precision(runs: Path) -> None:
    import pandas  # type: ignore[import-untyped,unused-ignore]

    frame = pandas.read_csv(io.StringIO(_text(runs, "csv")), comment="#")
    assert frame["speedup_bound"].tolist() == [2.857142857, 1.0]
    assert frame["speedup"].isna().tolist() == [False, True]


LATEX_DOCUMENT = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}%s\end{document}"


def test_latex_compiles(runs: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    (tmp_path / "t.tex").write_text(LATEX_DOCUMENT % _text(runs, "latex"))
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=60)


def test_latex_escapes_everything_it_would_interpret() -> None:
    escaped = escape_latex("a_b & 5% $x^2$ #1 {y} ~ \\z <w>\nnext")
    expected = (
        r"a\_b \& 5\% \$x\textasciicircum{}2\$ \#1 \{y\} \textasciitilde{} \textbackslash{}z \textless{}w\textgreater{}"
    )
    assert escaped == expected + " next"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"weights": "public", "metric_backbones": "public", "dataset": "folder:0a1b2c3d"}},
        {"labels": {"weights": "seeded", "metric_backbones": "mini", "dataset": "other:ffffffff"}},
        {"model": {"name": "hallo", "size": "full", "dtype": "float32"}},
        {"model": {"name": "hallo", "size": "tiny", "dtype": "bfloat16"}},
        {"device": {"type": "cpu", "label": "Some CPU, 1 thread"}},
        {"device_reason": "stopped before", "device": None},
    ],
    ids=["weights", "dataset", "size", "dtype", "threads", "unknown device"],
)
def test_different_labels_never_share_a_table(runs: Path, make_record: RecordMaker, change: dict[str, Any]) -> None:
    other = _save(runs, make_record(seed=1, **change))
    tables = make_tables(list_records(runs))
    assert sorted(len(table.rows) for table in tables) == [1, 2]
    alone = min(tables, key=lambda table: len(table.rows))
    assert alone.rows[0].run_id == other
    assert len({table.labels.heading() for table in tables}) == 2
    text = _text(runs, "markdown")
    assert text.count("| model |") == 2


def test_another_model_or_strategy_shares_the_table(runs: Path, make_record: RecordMaker) -> None:
    _save(runs, make_record(seed=1, model={"name": "memo", "size": "tiny", "dtype": "float32"}))
    (table,) = make_tables(list_records(runs))
    assert [row.model for row in table.rows] == ["hallo", "hallo", "memo"]


def test_partial_failed_and_killed_runs_are_shown_with_their_reasons(
    runs: Path, make_record: RecordMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = [{"clip": "x", "stage": "face", "reason": "two faces"}]
    clips = {"n_expected": 4, "n_ok": 2, "n_failed": 1, "failed": failed}
    partial = _save(runs, make_record(seed=1, status="partial", status_reason="stopped by SIGTERM", clips=clips))
    nothing = {name: None for name in ("speed", "memory", "flops", "plan", "cache_bytes")}
    why = {f"{name}_reason": "out of memory" for name in nothing}
    clips = {"n_expected": 4, "n_ok": 0, "n_failed": 0, "failed": []}
    broken = make_record(seed=2, status="failed", status_reason="out of memory", clips=clips, **nothing, **why)
    _save(runs, broken)
    with RunStore(runs, "killed") as store:
        store.append_row({"clip": "a", "status": "ok"})
    assert main([f"paths.runs={runs}"]) == 0
    text = capsys.readouterr().out
    rows = {line.split("|")[-2].strip(): line for line in text.splitlines() if line.startswith("| hallo")}
    assert "| 2/4 |" in rows[partial] and "| PARTIAL |" in rows[partial]
    assert "| 0/4 |" in rows[broken["run_id"]] and "| FAILED |" in rows[broken["run_id"]]
    assert rows[broken["run_id"]].count("n/a") == 9
    assert f"- partial: stopped by SIGTERM ({partial})" in text
    assert f"- no time: out of memory ({broken['run_id']})" in text
    assert "## Runs without a record" in text and "- killed: no record yet (1 clips ok, 0 failed)" in text
    for form in ("csv", "latex"):
        assert main(["--runs", str(runs), "--format", form]) == 0
        assert "killed" in capsys.readouterr().out


def test_peak_memory_is_the_devices_on_cuda(tmp_path: Path, make_record: RecordMaker) -> None:
    memory = {"host_peak_rss_bytes": 1, "host_scope": "block", "device_peak_allocated_bytes": 21_500_000_000}
    _save(tmp_path, make_record(memory=memory, device={"type": "cuda", "label": "NVIDIA H100"}))
    text = _text(tmp_path, "markdown")
    assert "peak device memory (MB)" in text and "| 21500 |" in text


def test_one_sample_shows_its_n_and_why_there_is_no_interval(tmp_path: Path, make_record: RecordMaker) -> None:
    alone: dict[str, Any] = {"value": 3.0, "low": None, "high": None, "n": 1, "level": 0.95}
    alone |= {"low_reason": "n = 1", "high_reason": "n = 1"}
    _save(tmp_path, make_record(speed={"seconds_per_clip": alone, "frames_per_second": alone}))
    text = _text(tmp_path, "markdown")
    assert "| 3.000 n=1 |" in text and "- no interval of the time: n = 1 (" in text


def test_sorting(runs: Path, make_record: RecordMaker) -> None:
    def accels(**options: Any) -> list[str]:
        (table,) = make_tables(list_records(runs), **options)
        return [row.accel for row in table.rows]

    assert accels(sort="seconds") == ["lcp_100%|x", "none"]
    assert accels(sort="seconds", descending=True) == ["none", "lcp_100%|x"]
    assert accels(sort="speedup") == accels(sort="speedup", descending=True) == ["lcp_100%|x", "none"]
    for sort in SORT_KEYS:
        assert sorted(accels(sort=sort)) == ["lcp_100%|x", "none"]
    with pytest.raises(ConfigError, match="--sort must be one of"):
        accels(sort="colour")


def test_one_table_can_be_picked(runs: Path, make_record: RecordMaker, capsys: pytest.CaptureFixture[str]) -> None:
    _save(runs, make_record(seed=1, model={"name": "memo", "size": "full", "dtype": "float32"}))
    assert main(["--runs", str(runs), "--table", "1", "--format", "csv"]) == 0
    out = capsys.readouterr().out
    assert out.count("model,size") == 1
    assert [row["model"] for row in csv.DictReader(out.splitlines()[1:])] == ["memo"]
    assert main(["--runs", str(runs), "--table", "3"]) == 2
    assert "1..2" in capsys.readouterr().err


def test_nothing_to_show_is_said_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(tmp_path / "absent")]) == 1
    assert "No runs in" in capsys.readouterr().out
    with RunStore(tmp_path, "killed"):
        pass
    assert main(["--runs", str(tmp_path)]) == 1
    assert "killed: no record yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["path.runs=x"], "did you mean paths.runs=DIR"),
        (["model=hallo"], "only paths.runs=DIR"),
        (["paths.runs=a", "--runs", "b"], "give one of them"),
        (["paths.runs="], "expected paths.runs=DIR"),
    ],
)
def test_a_wrong_command_is_answered(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert hint in capsys.readouterr().err


def test_the_command_runs_as_a_module_without_torch(runs: Path) -> None:
    code = "import sys, runpy; sys.argv[1:] = [sys.argv[1]]; runpy.run_module('lcp_bench.report', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, f"paths.runs={runs}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("## seeded weights")
    assert "torch" not in done.stderr


def test_numbers_keep_four_digits() -> None:
    shown = [number(value) for value in (0.0, 0.00012345, 0.5, 9.99999, 99.999, 12345.6, 3e12)]
    assert shown == ["0", "0.0001234", "0.5", "10.000", "100.00", "12346", "3e+12"]
