"""Provenance: true about the source, silent about secrets and people."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lcp_bench.provenance import command_line, git_state, host_info, redact, source_hash, tidy_paths, versions

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def _git(root: Path, *arguments: str) -> str:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(root), *IDENTITY, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit, and a folder that git does not watch."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = tmp_path / "checkout"
    (root / "lcp_bench").mkdir(parents=True)
    (root / "lcp_bench" / "a.py").write_text("x = 1\n")
    (root / ".gitignore").write_text("/runs/\n")
    for name in ("README.md", "docs/page.md", "results/cost.json"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("text")
    _git(tmp_path, "init", "-q", str(root))
    _git(root, "add", ".")
    return root


def test_git_state_follows_the_checkout(checkout: Path) -> None:
    assert git_state(checkout)["commit_reason"] == "the checkout has no commit yet"
    _git(checkout, "commit", "-qm", "one")
    assert git_state(checkout) == {"commit": _git(checkout, "rev-parse", "HEAD"), "dirty": False}
    (checkout / "notes.txt").write_text("mine")  # cannot change a number
    (checkout / "runs").mkdir()
    for name in ("README.md", "docs/page.md", "results/cost.json"):  # known to git, and no more able to
        (checkout / name).write_text("changed")
    assert git_state(checkout)["dirty"] is False
    (checkout / "lcp_bench" / "b.py").write_text("y = 1\n")
    assert git_state(checkout)["dirty"] is True
    (checkout / "lcp_bench" / "b.py").unlink()
    (checkout / "lcp_bench" / "a.py").write_text("x = 2\n")
    assert git_state(checkout)["dirty"] is True


def test_without_checkout_or_git_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    state = git_state(tmp_path)
    assert state["commit"] is None and state["dirty"] is None
    assert "not a git repository" in state["commit_reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path)["commit_reason"] == "git is not installed"


def test_versions_tell_what_is_missing() -> None:
    found = versions(["numpy", "no-such-package"])
    assert re.match(r"3\.\d+", found["python"]) and re.match(r"\d+\.", found["numpy"])
    assert found["no-such-package"] is None and found["no-such-package_reason"] == "not installed"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("WANDB_API_KEY=sesame", "sesame"),
        ("+tracker.api_key=sesame", "sesame"),
        ("++tracker.apiKey=sesame", "sesame"),
        ("tracker={name:wandb,api_key:sesame}", "sesame"),
        ("tracker={name: wandb, token: 'open sesame'}", "sesame"),
        ('{"HF_TOKEN": "sesame"}', "sesame"),
        ("--password=open sesame", "sesame"),
        ("db.secret=ses=ame", "ame"),
        ("url=https://ada:sesame@example.org/x", "sesame"),
        ("note=hf_" + "a1B2" * 6, "a1B2a1B2"),
        ("x=ghp_" + "a" * 36, "aaaa"),
    ],
)
def test_secrets_are_redacted(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert secret not in command_line(["python", text])
    assert "redacted" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "accel.schedule.key_steps=11",
        "model.presets={key_steps:11,equal_cost_steps:14}",
        "tokenizer=wav2vec",
        "max_tokens=4",
        "+model=hallo,echomimic",
        "dataset.root=data/monkey",
        "author=ada",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_secret_in_the_next_argument_is_redacted_too() -> None:
    assert "sesame" not in command_line(["python", "--api-key", "sesame", "rest"])
    assert command_line(["python", "--key-steps", "11"]) == "python --key-steps 11"


def test_the_own_command_line_starts_with_python() -> None:
    assert command_line().startswith("python ")


def test_paths_lose_the_private_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "work"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/data/homes/ada")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    assert tidy_paths(f"paths.runs={here}/runs") == "paths.runs=runs"
    assert tidy_paths(f"paths.runs={here}") == "paths.runs=."
    assert tidy_paths(f"paths.runs={here}space/x") == f"paths.runs={here}space/x"
    assert tidy_paths("w=/data/homes/ada/weights") == "w=~/weights"
    assert tidy_paths("w=/data/homes/adamant/weights") == "w=/data/homes/adamant/weights"
    assert tidy_paths("w=/home/bob/weights,/Users/eve/x") == "w=~/weights,~/x"
    assert tidy_paths("w=/scratch/ada/weights") == "w=/scratch/<user>/weights"


def _tree(root: Path) -> None:
    for name in ("lcp_bench/a.py", "lcp_bench/sub/b.py", "lcp_bench/report/r.py", "baselines/c.py", "metrics/d.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


def test_source_hash_sees_what_can_change_a_number(tmp_path: Path) -> None:
    _tree(tmp_path)
    first = source_hash(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    for name in ("conf/x.yaml", "metrics/d.py", "lcp_bench/readme.md", "lcp_bench/report/new.py", "notebooks/n.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no number")
    assert source_hash(tmp_path) == first
    assert source_hash(tmp_path, exclude=()) != first
    seen = {first}
    for name in ("lcp_bench/sub/b.py", "baselines/c.py", "metrics/d.py"):
        (tmp_path / name).write_text("changed\n")
        seen.add(source_hash(tmp_path))
    (tmp_path / "lcp_bench/a.py").rename(tmp_path / "lcp_bench/aa.py")
    seen.add(source_hash(tmp_path))
    assert len(seen) == 4


def test_source_hash_of_two_copies_is_equal(tmp_path: Path) -> None:
    _tree(tmp_path / "one")
    _tree(tmp_path / "two")
    assert source_hash(tmp_path / "one") == source_hash(tmp_path / "two")
    assert len(source_hash()) == 64  # and this checkout has one


def test_host_info_tells_machines_apart_without_naming_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ada-laptop")
    first = host_info()
    assert first == host_info() and "ada" not in str(first)
    monkeypatch.setattr("socket.gethostname", lambda: "node-17")
    assert host_info()["host_id"] != first["host_id"]
