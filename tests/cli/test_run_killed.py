"""The real command, killed in the middle and given again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lcp_bench.measure.clock import monotonic_s, pause

WORDS = (
    "+model=hallo", "+accel=lcp", "model.size=tiny", "model.weights=seeded", "model.frames_per_segment=4",
    "sampler.steps=12", "accel.schedule.key_steps=10", "dataset.max_seconds=0.6", "measure.warmup_clips=0",
    "measure.bootstrap=100", "run.threads=1", "run.device=cpu",
)  # fmt: skip


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """A copy of the code: a run's name holds the code's hash, so an edit between two commands would part them."""
    for name in ("lcp_bench", "baselines", "metrics", "conf"):
        shutil.copytree(repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def start(folder: Path, runs: str) -> subprocess.Popen[str]:
    """The command as a user gives it."""
    command = [sys.executable, "-m", "lcp_bench", *WORDS, f"paths.runs={runs}", "dataset.root=demo"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    """The last line of stdout, which is JSON."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    content: dict[str, object] = json.loads(out.splitlines()[-1])
    return content


def rows(folder: Path) -> list[dict[str, object]]:
    """The rows of a run."""
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_and_given_again(checkout: Path) -> None:
    """Nothing lost, nothing doubled, the same frames: once in one go, once with SIGKILL after the first row."""
    whole = finish(start(checkout, "whole"))
    victim = start(checkout, "killed")
    folder = checkout / "killed" / str(whole["run_id"])
    deadline = monotonic_s() + 120
    while not ((folder / "rows.jsonl").is_file() and b"\n" in (folder / "rows.jsonl").read_bytes()):
        assert victim.poll() is None, "ended before it could be killed"
        assert monotonic_s() < deadline
        pause(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not (folder / "record.json").exists(), "killed too late for this test to show anything"
    assert (folder / "rows.jsonl").read_bytes().count(b"\n") == 1
    resumed = finish(start(checkout, "killed"))
    assert resumed["run_id"] == whole["run_id"]
    assert (resumed["status"], resumed["already_complete"]) == ("complete", False)
    wanted, got = rows(checkout / "whole" / folder.name), rows(folder)
    same = ("clip", "status", "frames", "segments", "frames_sha256", "engagement", "cache_bytes", "video")
    assert [{key: row[key] for key in same} for row in got] == [{key: row[key] for key in same} for row in wanted]
    assert not list(folder.rglob("*.partial"))
    assert not list(folder.rglob("*.tmp"))
