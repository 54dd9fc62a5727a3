"""Fixtures of the contract tests: networks are built once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family import seeded_unet, two_levels
from lcp_bench import runner
from lcp_bench.data.demo import load_demo
from lcp_bench.models.hallo import Hallo, build_modules
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1
from runs import Bench, Shared


@pytest.fixture(scope="session")
def small_unet() -> UNet:
    """Two levels, every kind of module."""
    return seeded_unet(two_levels())


@pytest.fixture(scope="session")
def tiny_hallo() -> Hallo:
    """The tiny Hallo with seeded weights, two frames per segment of which the next one sees one."""
    modules = build_modules("tiny", "cpu")
    for number, (name, module) in enumerate(modules.items()):
        tables = [key for key, _ in module.named_buffers() if key.endswith(".pe")]
        if name != "wav2vec":
            apply_seeded_v1(module, 100 + number, computed_buffers=tables)
    return Hallo(modules, frames=2, motion_frames=1, reference_dtype=torch.float16)


@pytest.fixture(scope="session")
def shared_parts() -> Shared:
    """Models and cost reports of all runs."""
    return Shared()


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data set."""
    root = tmp_path_factory.mktemp("demo")
    load_demo(root)
    return root


@pytest.fixture
def bench(
    tmp_path: Path,
    demo_root: Path,
    shared_parts: Shared,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """Runs into a folder of the test's own; models are built once per session."""
    monkeypatch.setattr(runner, "load_model", shared_parts.load_model)
    monkeypatch.setattr(runner, "cost_report", shared_parts.cost_report)
    return Bench(tmp_path / "runs", demo_root, capsys)
