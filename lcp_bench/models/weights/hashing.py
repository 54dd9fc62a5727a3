"""SHA-256 of large files, computed once per (path, size, modification time)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from lcp_bench.atomic import replacing

log = logging.getLogger(__name__)

SIDECAR = ".lcp_bench_hashes.json"


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What is known of a file's content: hex SHA-256 and size in bytes."""

    sha256: str
    size_bytes: int


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class HashCache:
    """Digests of the files below `root`, remembered in a sidecar so that 5 GB are hashed once.

    An entry holds as long as size and modification time (nanoseconds) are unchanged. The sidecar lies in `root`, or in
    the user's cache folder when `root` is read-only; if neither can be written, digests are computed each time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def digest(self, path: Path) -> FileDigest:
        """SHA-256 and size of `path`.

        Raises:
            OSError: the file cannot be read.
        """
        state = path.stat()
        key, stamp = str(path.resolve()), [state.st_size, state.st_mtime_ns]
        for sidecar in self._sidecars():
            entry = _read(sidecar).get(key)
            if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
                return FileDigest(sha256=str(entry[2]), size_bytes=state.st_size)
        if state.st_size > 10**9:
            log.info("hashing %s (%.1f GB), once", path, state.st_size / 1e9)
        digest = FileDigest(sha256=sha256_file(path), size_bytes=state.st_size)
        self._remember(key, [*stamp, digest.sha256])
        return digest

    def _sidecars(self) -> tuple[Path, Path]:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return self.root / SIDECAR, cache / "lcp_bench" / SIDECAR.lstrip(".")

    def _remember(self, key: str, entry: list[int | str]) -> None:
        for sidecar in self._sidecars():
            try:
                write_json(sidecar, {**_read(sidecar), key: entry})
                return
            except OSError as error:
                log.debug("cannot write %s: %s", sidecar, error)
        log.warning("no folder to remember file hashes in; they are computed at every start")


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON, atomically (a reader sees the old file or the new one, never half of it).

    Raises:
        OSError: the folder cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read(sidecar: Path) -> dict[str, object]:
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
