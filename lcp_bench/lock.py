"""One writer per run, on one host or on several, and a lock that outlives nobody.

`flock` decides: the kernel frees it when its owner dies, `kill -9` included, and network file systems that carry it to
other hosts (NFS from version 4 on, Lustre with `-o flock`) free it with the owner's lease. Some carry it to no other
host. So the owner also leaves a note in the file, and touches the file every `BEAT_S` seconds. Who is given the flock
and finds the note of another host looks whether the note is still touched: if it is, its owner lives; if not for
`STALE_S`, the owner is dead and its run is taken over. An owner that ends in good order empties the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcp_bench.errors import RunHeldError, StoreError
from lcp_bench.measure.clock import monotonic_s, pause, utc_now

log = logging.getLogger(__name__)

BEAT_S = 10.0
"""An owner touches its lock this often."""
STALE_S = 60.0
"""Six missed beats: longer than a network file system keeps a file's age in its cache."""
_POLL_S = 0.2
_GRACE_S = 0.3
"""Also who leaves at once tries for so long: `is_flocked` holds a free lock for an instant."""
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a lock's note names.

    Attributes:
        pid: Its process.
        host: Its host.
        since_utc: When it took the lock.
    """

    pid: int
    host: str
    since_utc: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since_utc}"


class RunLock:
    """The lock file of one run.

    Args:
        path: The file; its folder exists.
        run_id: For messages.
        wait_s: How long to wait for a living owner to end; 0 leaves at once.
    """

    def __init__(self, path: Path, run_id: str, wait_s: float = 0.0) -> None:
        self.path, self.run_id, self._wait_s = path, run_id, wait_s
        self._descriptor: int | None = None
        self._note = b""
        self._heart: _Heart | None = None

    def take(self) -> None:
        """Take the lock, or wait for it.

        Raises:
            RunHeldError: A living process keeps it.
            StoreError: The file cannot be written, or its file system has no locks.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._wait(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._sign(descriptor)
        self._heart = _Heart(descriptor, self._note)
        self._heart.start()

    def give(self) -> None:
        """Free the lock; the file stays, for removing it would race with who opens it now."""
        if self._descriptor is None:
            return
        if self._heart is not None:
            self._heart.end()
        with suppress(OSError):
            if os.pread(self._descriptor, 4096, 0) == self._note:
                os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = self._heart = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock, and nobody took it over."""
        return self._descriptor is not None and not (self._heart is not None and self._heart.lost)

    def _wait(self, descriptor: int) -> None:
        deadline = monotonic_s() + max(self._wait_s, _GRACE_S)
        told = False
        while True:
            owner = self._living_owner(descriptor)
            if owner is None:
                return
            if monotonic_s() >= deadline:
                raise RunHeldError(
                    f"run {self.run_id} must have one writer, but {owner} holds {self.path}; wait for it "
                    "(run.wait_s=SECONDS does), or end it"
                )
            if not told and self._wait_s > _GRACE_S:
                log.info("run %s: waiting up to %.0f s for %s", self.run_id, self._wait_s, owner)
                told = True
            pause(_POLL_S)

    def _living_owner(self, descriptor: int) -> str | None:
        """Who keeps the lock from us, or None when it is ours; then the flock is taken."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return str(read_holder(self.path) or "another process")
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            raise StoreError(
                f"{self.path} must lie on a file system with locks (flock), got: {error.strerror}; choose another "
                "folder with paths.runs=..."
            ) from error
        holder = read_holder(self.path)
        if holder is None or holder.host == socket.gethostname():
            return None  # this host's kernel would not have given the lock beside a living owner
        if self._is_alive(descriptor, holder):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return str(holder)
        log.warning("run %s: %s died without a word; its run goes on here", self.run_id, holder)
        return None

    def _is_alive(self, descriptor: int, holder: Holder) -> bool:
        """Whether another host's owner still touches the file; its age is told by the file system's own clock."""
        beat = os.fstat(descriptor).st_mtime_ns
        left_s = STALE_S - self._age_s(beat)
        if left_s <= 0:
            return False
        log.info("run %s: looking up to %.0f s whether %s lives", self.run_id, min(left_s, STALE_S), holder)
        deadline = monotonic_s() + min(left_s, STALE_S)
        while monotonic_s() < deadline:
            if os.stat(self.path).st_mtime_ns != beat:
                return read_holder(self.path) is not None
            pause(min(_POLL_S, STALE_S / 10))
        return False

    def _age_s(self, beat_ns: int) -> float:
        probe = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        probe.touch()
        try:
            return (probe.stat().st_mtime_ns - beat_ns) / 1e9
        finally:
            probe.unlink(missing_ok=True)

    def _sign(self, descriptor: int) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since_utc": utc_now()}
        self._note = json.dumps(holder).encode()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, self._note, 0)
        except OSError as error:  # on a full disk; the flock holds without it
            self._note = b""
            log.warning("run %s: cannot write the lock's holder: %s", self.run_id, error)


class _Heart(threading.Thread):
    """Touches the lock's file; notices when somebody else has signed it."""

    def __init__(self, descriptor: int, note: bytes) -> None:
        super().__init__(name="lcp_bench lock", daemon=True)
        self._descriptor, self._note = descriptor, note
        self._ended = threading.Event()
        self.lost = False

    def run(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):  # a file system that is away for a moment; the next beat tries again
                if self._note and os.pread(self._descriptor, 4096, 0) != self._note:
                    self.lost = True
                    return
                os.utime(self._descriptor)

    def end(self) -> None:
        """Stop, and wait until the descriptor is not used any more."""
        self._ended.set()
        self.join()


def read_holder(path: Path) -> Holder | None:
    """Who the note in a lock's file names; None for a free lock, or one without a readable note."""
    try:
        content: Any = json.loads(path.read_bytes()[:4096])
        return Holder(int(content["pid"]), str(content["host"]), str(content["since_utc"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_flocked(path: Path) -> bool:
    """Whether a process that this host can see holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
