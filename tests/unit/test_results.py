"""The committed records are whole and belong to the numbers that the README quotes."""

from __future__ import annotations

from pathlib import Path

from lcp_bench.store import list_records


def test_committed_records_are_valid(repository: Path) -> None:
    """Each was made from a clean commit, is complete, and is named by its own identity."""
    runs = list_records(repository / "results/records")
    assert runs
    for run in runs:
        assert run.problem is None
        assert run.record is not None
        assert run.record["status"] == "complete"
        assert run.record["git"]["dirty"] is False


def test_the_readme_quotes_them(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    for run in list_records(repository / "results/records"):
        assert run.record is not None and run.record["pair"] is not None
        pair = run.record["pair"]
        assert f"{pair['ratio']:.4g} [{pair['low']:.4g}, {pair['high']:.4g}], n = {pair['n']}" in text
        assert run.run_id in text
