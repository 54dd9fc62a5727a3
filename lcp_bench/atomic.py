"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file beside its place and move it there in one step; whoever reads sees the old one or the new one.

    Args:
        path: The place; its folder is made when missing.
        durable: Have it on the disk before it takes the place, for what must survive a power cut.

    Yields:
        Where to write. After an error in the block nothing is left of it, and an older file stays.

    Raises:
        OSError: The folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if durable:
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
