"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the full golden cases and real data, named by `LCP_BENCH_SHARED` (default `../shared`).

    Without it a test is skipped; where `CI=true` it fails, so that a green run means that everything ran.
    """
    folder = Path(os.environ.get("LCP_BENCH_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        reason = f"{folder} is absent; set LCP_BENCH_SHARED to the folder with goldens and real data"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{reason} (CI=true allows no skips)")
        pytest.skip(reason)
    return folder
