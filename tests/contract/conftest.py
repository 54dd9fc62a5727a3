"""Fixtures of the contract tests: networks are built once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family import Draw, seeded_unet, two_levels
from lcp_bench import runner
from lcp_bench.data.demo import load_demo
from lcp_bench.models import echomimic, memo_networks
from lcp_bench.models.echomimic import EchoMimic
from lcp_bench.models.foreground import foreground_levels
from lcp_bench.models.hallo import Hallo, build_modules
from lcp_bench.models.memo import Memo
from lcp_bench.models.talking_head import ClipConstants
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
def tiny_echomimic() -> EchoMimic:
    """The tiny EchoMimic with seeded weights, in windows of two frames that move by one."""
    modules = echomimic.build_modules("tiny", "cpu")
    for number, (name, module) in enumerate(modules.items()):
        tables = [key for key, _ in module.named_buffers() if key.endswith(".pe")]
        if name != "whisper":
            apply_seeded_v1(module, 200 + number, computed_buffers=tables)
    return EchoMimic(modules, frames=2, overlap=0, shift=1)


@pytest.fixture(scope="session")
def tiny_memo() -> Memo:
    """The tiny MEMO with seeded weights, two frames per segment, of which the next one's memory learns."""
    modules = memo_networks.build_modules("tiny", "cpu")
    for number, (name, module) in enumerate(modules.items()):
        tables = [key for key, _ in module.named_buffers() if key.endswith(".pe")]
        if name != "wav2vec":
            apply_seeded_v1(module, 300 + number, computed_buffers=tables)
    return Memo(modules, frames=2, motion_frames=2, emotion=3)


@pytest.fixture(scope="session")
def memo_clip(tiny_memo: Memo) -> dict[int, ClipConstants]:
    """A clip of two segments under two emotions, without and with guidance."""
    draw, empty = Draw(21), torch.empty(0)
    portrait, labels = draw(3, 64, 64).clamp(-1, 1), torch.tensor([3, 3, 5, 5])
    with torch.inference_mode():
        tokens, audio = tiny_memo.identity_tokens(draw(512)), tiny_memo.audio_tokens(draw(4, 5, 3, 32))
    cells = foreground_levels(torch.eye(64).cumsum(0), (8, 8), 4)
    return {n: ClipConstants(portrait, tokens[-n:], audio, (), empty, n, cells, emotions=labels) for n in (1, 2)}


@pytest.fixture(scope="session")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Models and cost reports of all runs, and runs that several tests begin with."""
    return Shared(tmp_path_factory.mktemp("usual"))


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
    return Bench(tmp_path / "runs", demo_root, capsys, shared_parts)
