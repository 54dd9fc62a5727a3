"""Which bytes a model's weights came from: hashes of the files, held against the pins and the lock."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcp_bench.errors import WeightsError
from lcp_bench.models.weights.hashing import HashCache
from lcp_bench.models.weights.lockfile import LOCK_NAME, read_lock
from lcp_bench.models.weights.sources import SOURCES

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFile:
    """One weight file that was read: path below the weights folder, bytes, SHA-256, and what vouches for it.

    `checked` is `pinned` (equals the SHA-256 of `sources`), `locked` (equals what the first fetch brought), `unknown`
    (nothing to compare with) or `differs` (another file than the pinned one, for example a fine-tuned one).
    """

    place: str
    size_bytes: int
    sha256: str
    checked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsReport:
    """Which bytes a model's weights came from."""

    root: Path
    files: tuple[LoadedFile, ...] = field(default=())

    @property
    def identity(self) -> str:
        """Label for records, `checkpoint:<16 hex>`, a hash over the contents (not the places) of all files."""
        text = "\n".join(sorted(file.sha256 for file in self.files))
        return f"checkpoint:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def as_record(self) -> dict[str, Any]:
        """JSON-ready description for a run's record."""
        names = ("place", "size_bytes", "sha256", "checked")
        return {
            "identity": self.identity,
            "files": [{name: getattr(file, name) for name in names} for file in self.files],
        }


def hash_files(model: str, root: Path, places: Sequence[str]) -> WeightsReport:
    """Hash the files and hold them against the pins and the lock."""
    cache, lock = HashCache(root), read_lock(root)
    pins = {file.place: file.sha256 for file in SOURCES.get(model, ()) if file.sha256}
    loaded = []
    for place in places:
        digest = cache.digest(root / place)
        pinned, locked = pins.get(place), lock.get(place)
        if locked and locked.sha256 != digest.sha256:
            raise WeightsError(
                f"{root / place} has changed since it was fetched: expected SHA-256 {locked.sha256}, got "
                f"{digest.sha256}; delete it and fetch again, or remove its entry from {LOCK_NAME} to accept it"
            )
        checked = "locked" if locked else "unknown"
        if pinned:
            checked = "pinned" if pinned == digest.sha256 else "differs"
        if checked == "differs":
            log.warning(
                "%s is not the public file (SHA-256 %s); the record says so",
                root / place,
                digest.sha256,
            )
        loaded.append(
            LoadedFile(
                place=place,
                size_bytes=digest.size_bytes,
                sha256=digest.sha256,
                checked=checked,
            )
        )
    return WeightsReport(root=root, files=tuple(loaded))
