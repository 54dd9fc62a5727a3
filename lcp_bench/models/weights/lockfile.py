"""`weights.lock.json`: which commit and which bytes the first fetch brought, held against ever after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lcp_bench.errors import WeightsError
from lcp_bench.models.weights.hashing import write_json

LOCK_NAME = "weights.lock.json"
LOCK_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LockEntry:
    """One fetched file: hub repository, path in it, commit (`None` if the hub did not say), SHA-256, bytes."""

    repository: str
    path: str
    revision: str | None
    sha256: str
    size_bytes: int


def read_lock(root: Path) -> dict[str, LockEntry]:
    """Entries of the lock below `root`, keyed by place (path below `root`); empty when there is none.

    Raises:
        WeightsError: the file is not a lock of a known schema.
    """
    path = root / LOCK_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        content = json.loads(text)
        if content["schema"] != LOCK_SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        return {place: LockEntry(**entry) for place, entry in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: expected a lock file of schema {LOCK_SCHEMA}, got {error}; restore it, or delete it to trust the "
            "files that are there"
        ) from error


def write_lock(root: Path, entries: Mapping[str, LockEntry]) -> None:
    """Write the lock below `root`, atomically.

    Raises:
        OSError: the folder cannot be written.
    """
    files = {place: asdict(entry) for place, entry in entries.items()}
    write_json(root / LOCK_NAME, {"schema": LOCK_SCHEMA, "files": files})
