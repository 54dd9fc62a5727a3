"""The lock beyond one kernel: owners on other hosts, alive, dead or silent, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lcp_bench import lock
from lcp_bench.errors import RunHeldError, StoreError
from lcp_bench.lock import RunLock, is_flocked, read_holder
from lcp_bench.store import RunStore

ELSEWHERE = {"pid": 7, "host": "a-node-that-is-not-this-one", "since_utc": "2025-01-31T12:00:00Z"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock that another host's owner has signed just now; its flock does not reach this host."""
    path = tmp_path / "lock"
    path.write_text(json.dumps(ELSEWHERE))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and patience of a test."""
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    monkeypatch.setattr(lock, "STALE_S", 0.2)
    monkeypatch.setattr(lock, "_GRACE_S", 0.05)


def take_and_give(path: Path, wait_s: float = 0.0) -> None:
    """Hold the lock for an instant."""
    own = RunLock(path, "abc", wait_s)
    own.take()
    assert own.held
    own.give()


def test_an_owner_that_has_been_silent_for_long_is_dead(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.utime(path, (1_000_000, 1_000_000))
    with caplog.at_level(logging.WARNING):
        take_and_give(path)
    assert "process 7 on a-node-that-is-not-this-one" in caplog.text
    assert "goes on here" in caplog.text
    assert list(path.parent.iterdir()) == [path]


def test_an_owner_that_falls_silent_is_dead_after_a_while(path: Path, quick: None) -> None:
    """It was killed a moment ago: its file is young, but nobody touches it."""
    take_and_give(path)


def test_an_owner_on_another_host_that_lives_is_left_alone(path: Path, quick: None) -> None:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(path)

    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(RunHeldError, match=r"process 7 on a-node.*run\.wait_s=SECONDS"):
            RunLock(path, "abc").take()
        assert json.loads(path.read_text()) == ELSEWHERE
        assert not is_flocked(path), "it may not keep the lock that it did not get"
    finally:
        ended.set()
        other.join()
    take_and_give(path, wait_s=5)


def test_an_orderly_end_leaves_no_name(tmp_path: Path) -> None:
    own = RunLock(tmp_path / "lock", "abc")
    own.take()
    holder = read_holder(own.path)
    assert holder is not None and holder.pid == os.getpid()
    assert is_flocked(own.path)
    own.give()
    assert (own.path.read_bytes(), is_flocked(own.path), own.held) == (b"", False, False)
    own.give()


def test_the_owner_shows_that_it_lives(tmp_path: Path, quick: None) -> None:
    own = RunLock(tmp_path / "lock", "abc")
    own.take()
    os.utime(own.path, (1_000_000, 1_000_000))
    deadline = threading.Event()
    while own.path.stat().st_mtime == 1_000_000:
        assert not deadline.wait(0.02)
    own.give()


def test_who_was_taken_over_writes_nothing_more(tmp_path: Path, quick: None) -> None:
    """It slept for longer than the others' patience, on a file system whose flock stays on its host."""
    with RunStore(tmp_path, "abc") as store:
        store.append_row({"clip": "a", "status": "ok"})
        (tmp_path / "abc" / "lock").write_text(json.dumps(ELSEWHERE))
        never = threading.Event()
        while store._lock.held:
            never.wait(0.02)
        with pytest.raises(StoreError, match="another host"):
            store.append_row({"clip": "b", "status": "ok"})
    assert [row["clip"] for row in store.rows()] == ["a"]
    assert json.loads((tmp_path / "abc" / "lock").read_text()) == ELSEWHERE, "the new owner's name stays"


def test_a_file_system_without_locks_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match=r"flock.*paths\.runs="), RunStore(tmp_path, "abc"):
        pass


def test_a_note_that_says_nothing_is_no_owner(tmp_path: Path) -> None:
    for content in ("", "[]", "{}", "not json", '{"pid": "x", "host": "y", "since_utc": "z"}'):
        (tmp_path / "lock").write_text(content)
        assert read_holder(tmp_path / "lock") is None
        take_and_give(tmp_path / "lock")
