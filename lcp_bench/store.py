"""Where results are written: one folder per run, named by the hash of everything that can change a number.

    <root>/<run_id>/record.json   the record, replaced atomically
                    rows.jsonl    one line per clip, appended and synchronised to disk
                    request.json  what the run is and the command that asked for it, for runs that have no record yet
                    clips/*.mp4   the videos
                    lock          held by the process that writes (see `lcp_bench.lock`)

A process that dies at any instant, `kill -9` included, leaves a folder from which the same command goes on: the lock
dies with its owner, a half-written last row is cut off before the next append, and `record.json` is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lcp_bench.atomic import replacing
from lcp_bench.errors import StoreError
from lcp_bench.lock import RunLock
from lcp_bench.record import RECORD_SCHEMA, Record, check_json, run_id, validate

__all__ = ["RECORD_SCHEMA", "RowsRead", "RunStore", "StoredRun", "list_records", "read_rows", "run_id", "validate"]

log = logging.getLogger(__name__)

_RECORD, _ROWS, _CLIPS, _LOCK, _REQUEST = "record.json", "rows.jsonl", "clips", "lock", "request.json"


@dataclass(frozen=True)
class RowsRead:
    """The rows of a run: the last one of each clip, in the order of the clips' first rows.

    truncated_bytes: length of a half-written last line, which is no row; 0 when the file is whole.
    """

    rows: list[dict[str, Any]]
    truncated_bytes: int


@dataclass(frozen=True)
class StoredRun:
    """One folder below the store's root.

    record: the run's record, or None with `problem` (killed before its end, or a record that cannot be read).
    """

    run_id: str
    path: Path
    record: Record | None
    problem: str | None


class RunStore:
    """The folder of one run. Reading works at any time; writing needs the lock, taken by `with RunStore(...)`.

    Creating the object touches nothing on disk, so `is_complete` can be asked before anything is made. The lock is
    kept by forked children too: start worker processes with `spawn`, or let them end before the block does.
    """

    def __init__(self, root: Path | str, run_id: str, *, wait_s: float = 0.0) -> None:
        """Args: root: folder of all runs; run_id: see `run_id`; wait_s: how long to wait for another owner to end."""
        if re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_.-]*", run_id) is None:
            raise StoreError(f"a run id must be letters, digits, '_', '.', '-', got {run_id!r}; use store.run_id()")
        self.run_id = run_id
        self.path = Path(root) / run_id
        self._lock = RunLock(self.path / _LOCK, run_id, wait_s)

    def __enter__(self) -> Self:
        """Take the run's lock; raises RunHeldError when another process keeps it, StoreError when the disk refuses."""
        try:
            (self.path / _CLIPS).mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._clean()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.give()

    def _clean(self) -> None:
        """Remove what a killed writer left half-written; the lock is ours, so nobody writes it now."""
        for pattern in (".*.partial", ".*.tmp", f"{_CLIPS}/.*.partial"):  # files, the lock's probe, videos
            for stale in self.path.glob(pattern):
                with suppress(OSError):
                    stale.unlink()

    def clip_path(self, clip_id: str) -> Path:
        """Where the clip's video belongs: `clips/<id>.mp4`; ids that are no file names are rewritten, never merged."""
        safe = re.sub(r"[^0-9A-Za-z_.-]", "_", clip_id).lstrip(".")[:100]
        if safe != clip_id:
            safe = f"{safe}-{hashlib.sha256(clip_id.encode()).hexdigest()[:8]}"
        return self.path / _CLIPS / f"{safe}.mp4"

    def rows(self) -> list[dict[str, Any]]:
        """The last row of every clip; a half-written last line is left out and reported as a warning.

        Raises:
            StoreError: the file cannot be read, or a line that is not the last is no row.
        """
        read = read_rows(self.path / _ROWS)
        if read.truncated_bytes:
            log.warning(
                "run %s: the last row was cut off after %d bytes (its writer died); its clip counts as not done",
                self.run_id,
                read.truncated_bytes,
            )
        return read.rows

    def append_row(self, row: Mapping[str, Any]) -> None:
        """Append one clip's row: a single write, on disk when this returns.

        Args:
            row: plain JSON with `clip` (id) and `status` (`ok`, or `failed` with `stage` and `reason`).

        Raises:
            StoreError: the row is malformed, the lock is not held, or the disk refuses; then the earlier rows are
                untouched and no part of this one stays.
        """
        self._require_lock()
        _check_row(row)
        line = (json.dumps(dict(row), allow_nan=False) + "\n").encode()
        path = self.path / _ROWS
        try:
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            end = _heal(descriptor, path)
            _append(descriptor, line, end)
            if is_new:
                _sync_folder(self.path)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            os.close(descriptor)

    def write_record(self, record: Mapping[str, Any]) -> Path:
        """Validate the record and put it in place of the old one, atomically; returns its path.

        Raises:
            StoreError: the record breaks the schema or belongs to another run, the lock is not held, or the disk
                refuses; then the old record, if any, is untouched.
        """
        self._require_lock()
        validate(record)
        if record["run_id"] != self.run_id:
            raise StoreError(f"record.run_id must be {self.run_id}, got {record['run_id']}; open the store of that run")
        return self._replace(_RECORD, record)

    def write_request(self, request: Mapping[str, Any]) -> Path:
        """Say what this run is, before anything of it is finished; raises StoreError as `write_record` does."""
        self._require_lock()
        check_json(request, "request")
        return self._replace(_REQUEST, request)

    def _replace(self, name: str, content: Mapping[str, Any]) -> Path:
        """Put a file in place of the old one, atomically; on an error the old one is untouched."""
        path = self.path / name
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
        try:
            with replacing(path, durable=True) as partial:
                partial.write_text(text, encoding="utf-8")
            _sync_folder(self.path)
        except OSError as error:
            raise _unwritable(path, error) from error
        return path

    def read_record(self) -> Record | None:
        """The run's record, or None when there is none yet; raises StoreError when it cannot be used."""
        record = _read_record(self.path / _RECORD)
        if record is not None and record["run_id"] != self.run_id:
            raise StoreError(
                f"{self.path / _RECORD} must belong to run {self.run_id}, got {record['run_id']}; "
                "the folder was renamed or copied: give it its own name back"
            )
        return record

    def is_complete(self) -> bool:
        """Whether a valid record says that every clip has its row."""
        record = self.read_record()
        return record is not None and record["status"] == "complete"

    def _require_lock(self) -> None:
        if not self._lock.held:
            raise StoreError(
                f"run {self.run_id} must be locked before it is written; its lock is not held here, or another host "
                "took it over while this process stood still; use 'with RunStore(...)', or run the command again"
            )


def list_records(root: Path | str) -> list[StoredRun]:
    """Every run below `root`, sorted by id; folders without a usable record are listed with their problem.

    Raises:
        StoreError: `root` exists and is not a readable folder. A root that does not exist holds no runs.
    """
    try:
        folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{root} must be a readable folder, got: {error.strerror}; check paths.runs") from error
    runs = []
    for path in folders:
        if not any((path / name).exists() for name in (_RECORD, _ROWS, _LOCK)):
            continue  # not ours: a sweep's log folder, for example
        try:
            record = RunStore(root, path.name).read_record()
            problem = None if record is not None else _unfinished(path / _ROWS)
        except StoreError as error:
            record, problem = None, str(error)
        runs.append(StoredRun(path.name, path, record, problem))
    return runs


def read_rows(path: Path | str) -> RowsRead:
    """Read a `rows.jsonl`; a file that does not exist has no rows. See `RunStore.rows` for the errors."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return RowsRead([], 0)
    except OSError as error:
        raise StoreError(f"{path} must be readable, got: {error.strerror}; mend its permissions or the disk") from error
    *lines, tail = content.split(b"\n")  # a row counts when its line end is there
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[row["clip"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}, line {number}, must be one row as JSON, got {line[:80]!r}; "
                "delete that line and run the command again: its clip is made anew"
            ) from error
    return RowsRead(list(rows.values()), len(tail))


def _read_record(path: Path) -> Record | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} must be a record, got: {error}; delete the file and run the command again") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} must hold one object, got {type(content).__name__}; delete it and run again")
    try:
        return validate(content)
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error


def _unfinished(rows: Path) -> str:
    done = [row.get("status") for row in read_rows(rows).rows]
    return f"no record yet ({done.count('ok')} clips ok, {done.count('failed')} failed); run its command again"


def _check_row(row: Mapping[str, Any]) -> None:
    check_json(row, "row")
    if not isinstance(row.get("clip"), str) or not row["clip"]:
        raise StoreError(f"row.clip must be the clip's id, got {row.get('clip')!r}; take it from the manifest")
    if row.get("status") not in ("ok", "failed"):
        raise StoreError(f"row.status must be 'ok' or 'failed', got {row.get('status')!r} for clip {row['clip']}")
    if row["status"] == "failed" and not (row.get("stage") and row.get("reason")):
        raise StoreError(f"the failed row of clip {row['clip']} must have a stage and a reason, got {dict(row)}")


def _heal(descriptor: int, path: Path) -> int:
    """Cut a half-written last line off; returns the file's length after that."""
    size = os.fstat(descriptor).st_size
    content = os.pread(descriptor, size, 0)
    whole = content.rfind(b"\n") + 1
    if whole != size:
        os.ftruncate(descriptor, whole)
        log.warning("%s: cut off a half-written row of %d bytes", path, size - whole)
    return whole


def _append(descriptor: int, line: bytes, end: int) -> None:
    """Write `line` at `end`, the end of the file, and synchronise; on any error the file is as before."""
    try:
        written = os.write(descriptor, line)
        if written != len(line):  # the disk filled up in the middle: the next write says why
            written += os.write(descriptor, line[written:])
        if written != len(line):
            raise OSError(None, f"only {written} of {len(line)} bytes were written")
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        raise


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} must be writable, got: {error.strerror or error}; what was there is unchanged. "
        "Free some space, mend the permissions, or choose another folder with paths.runs=..., then run again"
    )
