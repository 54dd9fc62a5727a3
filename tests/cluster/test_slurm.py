"""Sweeps on a real Slurm of one node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import friday
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]


def test_disturbed_and_given_again(slurm: Path, tmp_path: Path) -> None:
    """One job cancelled, one killed, one preempted: in the end nothing is lost, doubled or different."""
    story = friday.Story(tmp_path, runs=4)
    friday.tell(story, kills=3, longest_s=4.0)
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    assert len(story.done) == 3 and story.issued > 1, story
    assert len(list(disturbed.glob("*/record.json"))) == 4
    assert friday.differences(whole, disturbed) == []
    assert friday.table(whole) == friday.table(disturbed)
    tables = [friday.paper_tables(runs, tmp_path / f"tables_{runs.name}") for runs in (whole, disturbed)]
    assert tables[0] == tables[1] and all(tables[0].values())
    # The comparison can fail: another frame, and a row that is there twice.
    rows = next(disturbed.glob("*/rows.jsonl"))
    rows.write_text(rows.read_text().replace('"frames": 16', '"frames": 15') * 2)
    assert {name.partition("/")[2] for name in friday.differences(whole, disturbed)} >= {"number of rows"}
    assert friday.table(whole) != friday.table(disturbed)


def test_several_processes_make_one_run(slurm: Path, tmp_path: Path, repository: Path) -> None:
    """A task of two processes starts torchrun; the record says that two made it."""
    for name in ("lcp_bench", "baselines", "metrics", "conf"):
        shutil.copytree(repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    words = [*friday.WORDS, *friday.SLURM, "hydra.launcher.tasks_per_node=2", "+accel=lcp", "paths.runs=runs"]
    words.append("accel.schedule.key_steps=1")  # so that one group has several followers
    done = _sweep(tmp_path, *words)
    assert done.returncode == 0, done.stderr + _logs(tmp_path)
    assert done.stderr.splitlines()[-1] == "0 of 1 jobs failed"
    (path,) = tmp_path.glob("runs/*/record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "complete"
    assert record["identity"]["processes"] == 2


def test_what_slurm_refuses_is_said(slurm: Path, tmp_path: Path) -> None:
    done = _sweep(tmp_path, *friday.WORDS, *friday.SLURM, "+accel=lcp", "hydra.launcher.partition=nowhere")
    assert done.returncode == 1
    assert "Slurm refused the jobs" in done.stderr and "invalid partition" in done.stderr
    assert "Traceback" not in done.stderr


def _sweep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lcp_bench", "-m", *words],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in folder.glob("runs/.sweep/.submitit/*/*.err"))
