"""A command line in this process, with the part that computes replaced by a recorder."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recorder import Recorder, Result

from lcp_bench import cli


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The modules that compute, replaced."""
    recorder = Recorder()
    for name, function in (("runner", "run"), ("plan_report", "report")):
        module = types.ModuleType(f"lcp_bench.{name}")
        setattr(module, function, getattr(recorder, function))
        monkeypatch.setitem(sys.modules, f"lcp_bench.{name}", module)
    return recorder


@pytest.fixture
def root_logging() -> Iterator[None]:
    """Puts back the handlers that Hydra's logging configuration replaces."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def run_cli(
    recorder: Recorder,
    root_logging: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Result]:
    """Runs a command in an empty current folder (`tmp_path`)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run
