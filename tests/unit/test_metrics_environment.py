"""torchvision beside a CPU torch breaks torchmetrics, diffusers and transformers; nothing of ours may need it."""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from pathlib import Path

import pytest
import torch

from metrics.environment import torchvision_conflict

NEVER = {"torchvision", "lpips", "torch_fidelity", "pytorch_fid"}


def test_this_environment_has_no_torchvision_beside_a_cpu_torch() -> None:
    conflict = torchvision_conflict()
    if conflict is not None:
        pytest.fail(conflict, pytrace=False)


def _install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(str(folder))
    importlib.machinery.PathFinder.invalidate_caches()


def test_the_guard_sees_a_broken_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    conflict = torchvision_conflict()
    assert conflict is not None and "pip uninstall torchvision" in conflict
    assert "torchvision" not in sys.modules, "the guard must not import what it warns of"


def test_the_guard_allows_torchvision_beside_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert torchvision_conflict() is None


def test_no_metric_imports_torchvision_or_what_brings_it(repository: Path) -> None:
    found = []
    for path in sorted((repository / "metrics").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] in NEVER]
    assert found == []
