"""The store under everything that can happen to a process: a second owner, kill -9, a full disk."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcp_bench.errors import StoreError
from lcp_bench.store import RunStore, list_records, read_rows

RecordMaker = Callable[..., dict[str, Any]]


def _ok(clip: str, **more: Any) -> dict[str, Any]:
    return {"clip": clip, "status": "ok", **more}


def _same(got: object, expected: object) -> bool:
    return got == expected


def _child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HOLDER = """
    import sys, time
    from lcp_bench.store import RunStore
    with RunStore(sys.argv[1], "abc") as store:
        print("locked", flush=True)
        time.sleep(60)
"""


def test_rows_come_back_and_the_last_of_a_clip_wins(tmp_path: Path) -> None:
    with RunStore(tmp_path, "abc") as store:
        store.append_row(_ok("a", seconds=1.5))
        store.append_row({"clip": "b", "status": "failed", "stage": "face", "reason": "no face"})
        store.append_row(_ok("b", text="é\n|"))
    rows = RunStore(tmp_path, "abc").rows()
    assert [row["clip"] for row in rows] == ["a", "b"]
    assert rows[1] == _ok("b", text="é\n|")
    assert len((tmp_path / "abc" / "rows.jsonl").read_bytes().splitlines()) == 3


def test_asking_makes_nothing(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs", "abc")
    assert not store.is_complete()
    assert store.rows() == []
    assert store.read_record() is None
    assert list_records(tmp_path / "runs") == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "row",
    [
        {"clip": "a", "status": "ok", "seconds": float("nan")},
        {"clip": "", "status": "ok"},
        {"status": "ok"},
        {"clip": "a", "status": "done"},
        {"clip": "a", "status": "failed", "stage": "face"},
        {"clip": "a", "status": "ok", "path": Path("x")},
    ],
)
def test_a_malformed_row_is_refused_and_leaves_no_trace(tmp_path: Path, row: dict[str, Any]) -> None:
    with RunStore(tmp_path, "abc") as store, pytest.raises(StoreError):
        store.append_row(row)
    assert not (tmp_path / "abc" / "rows.jsonl").exists()


def test_writing_needs_the_lock(tmp_path: Path, make_record: RecordMaker) -> None:
    store = RunStore(tmp_path, "abc")
    with pytest.raises(StoreError, match="must be locked"):
        store.append_row(_ok("a"))
    with pytest.raises(StoreError, match="must be locked"):
        store.write_record(make_record())


def test_a_half_written_row_is_ignored_reported_and_healed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunStore(tmp_path, "abc") as store:
        store.append_row(_ok("a"))
        path = store.path / "rows.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"clip": "b", "sta')
        with caplog.at_level(logging.WARNING):
            assert [row["clip"] for row in store.rows()] == ["a"]
        assert "cut off after 18 bytes" in caplog.text
        assert read_rows(path).truncated_bytes == 18
        store.append_row(_ok("c"))
        assert path.read_bytes() == whole + json.dumps(_ok("c")).encode() + b"\n"
        assert read_rows(path).truncated_bytes == 0


def test_a_broken_line_in_the_middle_is_an_error_not_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"clip": "a", "status": "ok"}\nrubbish\n{"clip": "b", "status": "ok"}\n')
    with pytest.raises(StoreError, match="line 2"):
        read_rows(path)


@pytest.mark.parametrize("cut", [1, 20])
def test_kill_9_in_the_middle_of_a_write(tmp_path: Path, cut: int) -> None:
    code = """
        import os, signal, sys
        from lcp_bench.store import RunStore
        real, cut = os.write, int(sys.argv[2])
        def dying(descriptor, data):
            real(descriptor, data[:cut])
            os.kill(os.getpid(), signal.SIGKILL)
        with RunStore(sys.argv[1], "abc") as store:
            store.append_row({"clip": "a", "status": "ok"})
            os.write = dying
            store.append_row({"clip": "b", "status": "ok"})
    """
    process = _child(code, str(tmp_path), str(cut))
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    path = tmp_path / "abc" / "rows.jsonl"
    assert read_rows(path).truncated_bytes == cut
    with RunStore(tmp_path, "abc") as store:  # the dead owner's lock does not hold us up
        assert [row["clip"] for row in store.rows()] == ["a"]
        store.append_row(_ok("b"))
    assert [row["clip"] for row in RunStore(tmp_path, "abc").rows()] == ["a", "b"]
    assert read_rows(path).truncated_bytes == 0


def test_a_second_process_is_told_who_holds_the_run_and_a_dead_owner_frees_it(tmp_path: Path) -> None:
    holder = _child(HOLDER, str(tmp_path))
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match=rf"process {holder.pid} on \S+ since 20"), RunStore(tmp_path, "abc"):
            pass
        with RunStore(tmp_path, "other"):
            pass  # another run is free
    finally:
        holder.kill()
        holder.communicate(timeout=30)
    with RunStore(tmp_path, "abc") as store:
        store.append_row(_ok("a"))
        held = json.loads((tmp_path / "abc" / "lock").read_text())
        assert held["pid"] == os.getpid()


def test_waiting_for_an_owner_that_ends(tmp_path: Path) -> None:
    holder = _child(HOLDER, str(tmp_path))
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreError), RunStore(tmp_path, "abc", wait_s=0.3):
            pass
        killer = threading.Timer(0.5, holder.kill)
        killer.start()
        with RunStore(tmp_path, "abc", wait_s=20):
            pass
        killer.join()
    finally:
        holder.kill()
        holder.communicate(timeout=30)


def test_the_lock_is_free_after_the_block_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), RunStore(tmp_path, "abc"):
        raise ValueError("boom")
    with RunStore(tmp_path, "abc"), pytest.raises(StoreError), RunStore(tmp_path, "abc"):
        pass


def _append_many(root: str, name: str, count: int) -> None:
    for index in range(count):
        with RunStore(root, "abc", wait_s=60) as store:
            store.append_row(_ok(f"{name}{index}"))


@pytest.mark.slow
def test_two_writers_taking_turns_lose_and_double_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(str(tmp_path), name, 5)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    lines = (tmp_path / "abc" / "rows.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["clip"] for line in lines) == sorted(f"{n}{i}" for n in "ab" for i in range(5))


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, make_record: RecordMaker) -> None:
    """RLIMIT_FSIZE makes real writes stop in the middle, as a full disk does."""
    record = make_record()
    code = """
        import json, resource, sys
        from lcp_bench.errors import StoreError
        from lcp_bench.store import RunStore
        record = json.loads(sys.argv[2])
        with RunStore(sys.argv[1], record["run_id"]) as store:
            store.append_row({"clip": "a", "status": "ok"})
            store.write_record(record)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
            for action in (
                lambda: store.append_row({"clip": "b", "status": "ok", "text": "x" * 1000}),
                lambda: store.write_record(record | {"wall_seconds": 61.0}),
            ):
                try:
                    action()
                except StoreError as error:
                    print(error)
    """
    process = _child(code, str(tmp_path), json.dumps(record))
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    told = out.splitlines()
    assert len(told) == 2
    assert "rows.jsonl must be writable" in told[0] and "unchanged" in told[0]
    assert "record.json must be writable" in told[1] and "paths.runs=" in told[1]
    store = RunStore(tmp_path, record["run_id"])
    assert read_rows(store.path / "rows.jsonl").truncated_bytes == 0
    assert store.rows() == [_ok("a")]
    assert store.read_record() == record
    assert sorted(path.name for path in store.path.iterdir()) == ["clips", "lock", "record.json", "rows.jsonl"]


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"must be writable.*paths\.runs="), RunStore(tmp_path / "file", "abc"):
        pass
    with pytest.raises(StoreError, match="readable folder"):
        list_records(tmp_path / "file")


def test_record_round_trip_replaces_and_completes(tmp_path: Path, make_record: RecordMaker) -> None:
    record = make_record()
    (tmp_path / record["run_id"]).mkdir()
    stale = tmp_path / record["run_id"] / ".record.json.1.partial"
    stale.write_text("{")
    with RunStore(tmp_path, record["run_id"]) as store:
        assert not stale.exists()
        partial = record | {"status": "partial", "status_reason": "stopped", "wall_seconds": 3.0}
        store.write_record(partial)
        assert not store.is_complete()
        path = store.write_record(record)
        assert store.is_complete()
        assert _same(store.read_record(), record)
        assert path == store.path / "record.json"
        with pytest.raises(StoreError, match="never carry a score"):
            store.write_record(record | {"quality": {"fid": {"value": 1.0, "n": 4}}})
        with pytest.raises(StoreError, match=r"record\.run_id must be"):
            store.write_record(make_record("lcp"))
        assert store.read_record() == record


@pytest.mark.parametrize("victim", ["replace", "fsync"])
def test_kill_9_while_the_record_is_replaced_keeps_the_old_one(
    tmp_path: Path, make_record: RecordMaker, victim: str
) -> None:
    record = make_record()
    code = """
        import json, os, signal, sys
        from lcp_bench.store import RunStore
        record = json.loads(sys.argv[2])
        with RunStore(sys.argv[1], record["run_id"]) as store:
            store.write_record(record)
            setattr(os, sys.argv[3], lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
            store.write_record(record | {"wall_seconds": 61.0})
    """
    process = _child(code, str(tmp_path), json.dumps(record), victim)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    store = RunStore(tmp_path, record["run_id"])
    assert _same(store.read_record(), record)
    with store:
        assert sorted(path.name for path in store.path.iterdir()) == ["clips", "lock", "record.json"]


def test_unusable_records_are_told_apart(tmp_path: Path, make_record: RecordMaker) -> None:
    good, bad = make_record(), make_record("lcp")
    for record in (good, bad):
        with RunStore(tmp_path, record["run_id"]) as store:
            store.write_record(record)
    bad_path = tmp_path / bad["run_id"] / "record.json"
    bad_path.write_text(json.dumps(bad | {"schema_version": 99}))
    with RunStore(tmp_path, "killed") as store:
        store.append_row(_ok("a"))
    (tmp_path / ".sweep").mkdir()
    (tmp_path / "notes.txt").write_text("not a run")
    listed = {run.run_id: run for run in list_records(tmp_path)}
    assert set(listed) == {good["run_id"], bad["run_id"], "killed"}
    assert _same(listed[good["run_id"]].record, good)
    assert "schema_version must be 1, got 99" in (listed[bad["run_id"]].problem or "")
    assert "1 clips ok, 0 failed" in (listed["killed"].problem or "")
    bad_path.write_text('{"schema_version": 1')
    with pytest.raises(StoreError, match="must be a record"):
        RunStore(tmp_path, bad["run_id"]).read_record()
    (tmp_path / good["run_id"]).rename(tmp_path / "renamed")
    with pytest.raises(StoreError, match="must belong to run renamed"):
        RunStore(tmp_path, "renamed").read_record()


def test_clip_paths_stay_inside_and_never_collide(tmp_path: Path) -> None:
    store = RunStore(tmp_path, "abc")
    clips = tmp_path / "abc" / "clips"
    assert store.clip_path("m001_001") == clips / "m001_001.mp4"
    odd = ["a/b", "a_b", "a b", "../../x", "..", "é" * 300, ".hidden"]
    paths = [store.clip_path(name) for name in odd]
    assert len(set(paths)) == len(odd)
    assert all(path.parent == clips and len(path.name) < 150 and not path.name.startswith(".") for path in paths)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_run_id_is_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="run id"):
        RunStore(tmp_path, name)
