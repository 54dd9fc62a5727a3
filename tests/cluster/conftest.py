"""A one-node Slurm for the tests of this folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm import SlurmError, down, up, why_not


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """Slurm, started for the session and stopped after it; gives the folder of its files.

    Where it cannot be had, tests are skipped with the reason, unless `LCP_BENCH_SLURM=required` says that it must be
    there: then they fail. Installed but broken is a failure everywhere.
    """
    if reason := why_not():
        if os.environ.get("LCP_BENCH_SLURM") == "required":
            pytest.fail(f"LCP_BENCH_SLURM=required, but {reason}")
        pytest.skip(reason)
    # Not below pytest's folder: the database's user must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="lcp_slurm_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            environment = up(folder)
        except SlurmError as error:
            pytest.fail(f"Slurm is installed and does not start: {error}")
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)
        try:
            yield folder
        finally:
            down(folder)
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
