"""Notebooks: without outputs, cells of ten lines, no paths of one machine; executed on made-up records."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from report_records import write_records

NAMES = ("01_main_table", "02_component_ablation", "03_pareto", "04_where_the_time_goes")
LONGEST_CELL = 10


def _cells(repository: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((repository / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]  # type: ignore[no-any-return]


def test_all_notebooks_are_tested(repository: Path) -> None:
    assert {path.stem for path in (repository / "notebooks").glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_stripped_and_portable(repository: Path, name: str) -> None:
    for cell in _cells(repository, name):
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        ast.parse(text)
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert len(text.splitlines()) <= LONGEST_CELL, text
        assert '"/' not in text and "/home" not in text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two strategies each way, a partial one, a seeded one, a failed clip."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_records(folder, models=["mini"], strategies=("none", "fewer_steps", "lcp", "lcp_dfa", "lcp_dfa_rm"), people=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default")  # of the kernel's own packages
def test_notebooks_run_on_records(repository: Path, runs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("LCP_BENCH_RUNS", str(runs))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(repository / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.get("name") == "stderr"]
