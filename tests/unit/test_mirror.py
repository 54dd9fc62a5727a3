"""The mirror built from records: everything is in it, and no network can hold it up."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from quality_records import block, score, scored
from wandb_files import read_back

from lcp_bench import mirror
from lcp_bench.errors import ConfigError
from lcp_bench.measure.clock import monotonic_s
from lcp_bench.mirror import rebuild
from lcp_bench.tracker import BoundedTracker, clip_table, score_table

RecordMaker = Callable[..., dict[str, Any]]
ROWS: list[dict[str, Any]] = [
    {"clip": "a", "status": "ok", "frames": 16, "segments": 1, "frames_sha256": "0a", "video": "clips/a.mp4",
     "stages_s": {"encode": [0.5], "denoise": [11.0, 13.0]}},
    {"clip": "b", "status": "failed", "stage": "face", "reason": "no face found"},
]  # fmt: skip
KEY = "a" * 40


def _store(root: Path, record: dict[str, Any]) -> Path:
    folder = root / record["run_id"]
    (folder / "clips").mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "clips" / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 100)
    return folder


class _Recorder:
    """A tracker that refuses chosen runs."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.seen: list[tuple[str, list[str]]] = []

    def mirror(self, record: Any, folder: Path, videos: Any = ()) -> bool:
        self.seen.append((record["run_id"], [path.name for path in videos]))
        return record["run_id"] != self.refused


def test_every_record_is_mirrored_and_what_has_none_is_named(tmp_path: Path, make_record: RecordMaker) -> None:
    good, bad = make_record(), make_record(seed=1)
    for record in (good, bad):
        _store(tmp_path, record)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "rows.jsonl").write_text("")
    (tmp_path / ".sweep").mkdir()
    tracker = _Recorder(refused=bad["run_id"])
    outcome = rebuild(tmp_path, tracker)
    assert outcome == {"mirrored": [good["run_id"]], "failed": [bad["run_id"]], "without_record": ["killed"]}
    assert sorted(tracker.seen) == sorted((record["run_id"], ["a.mp4"]) for record in (good, bad))
    assert rebuild(tmp_path, _Recorder(), [good["run_id"]])["mirrored"] == [good["run_id"]]
    with pytest.raises(ConfigError, match=r"must hold a run nothing.*status"):
        rebuild(tmp_path, _Recorder(), ["nothing"])


def test_a_wrong_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mirror.main(["--runs", str(tmp_path / "absent")]) == 2
    assert "--runs must be the folder of all runs" in capsys.readouterr().err


def test_tables_hold_every_clip_and_every_score(make_record: RecordMaker) -> None:
    columns, lines = clip_table(ROWS)
    assert columns[-2:] == ["encode_s", "denoise_s"]
    first, second = (dict(zip(columns, line, strict=True)) for line in lines)
    assert first["denoise_s"] == 12.0 and second["reason"] == "no face found" and second["denoise_s"] is None
    record = make_record(**scored({"mini:1a2b3c4d": block(score("fvd", 3.0), score("fid", None))}))
    columns, lines = score_table(record)
    found = {line[1]: dict(zip(columns, line, strict=True)) for line in lines}
    assert found["fvd"]["value"] == 3.0 and found["fvd"]["n"] == 10 and found["fvd"]["label"] == "mini"
    assert found["fid"]["value"] is None
    assert score_table(make_record())[1] == []


class _Inner:
    """Stands in for `WandbTracker`."""

    mode, project = "online", "p"

    def __init__(self) -> None:
        self.modes: list[str] = []

    def mirror(self, record: Any, folder: Path, videos: Any = ()) -> bool:
        self.modes.append(self.mode)
        return True


@pytest.mark.parametrize(
    ("code", "then", "mode"),
    [("", [], "online"), ("raise SystemExit(3)", [], "offline"), ("raise SystemExit(1)", ["offline"], "offline"),
     ("import time; time.sleep(60)", ["offline"], "offline")],
    ids=["well", "went offline", "failed", "hangs"],
)  # fmt: skip
def test_online_is_another_process_with_a_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, then: list[str], mode: str
) -> None:
    popen = subprocess.Popen
    commands: list[list[str]] = []

    def start(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return popen([sys.executable, "-S", "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    inner = _Inner()
    started = monotonic_s()
    assert BoundedTracker(inner, timeout_s=2.0 if "sleep" in code else 60.0).mirror(  # type: ignore[arg-type]
        {"run_id": "x"}, tmp_path / "x"
    )
    assert monotonic_s() - started < 30
    assert inner.modes == then and inner.mode == mode
    assert commands[0][2:5] == ["lcp_bench.mirror", "x", "--runs"] and KEY not in commands[0]


def _main(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lcp_bench.mirror", *words],
        capture_output=True, text=True, timeout=100, check=False, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.slow
def test_the_mirror_is_rebuilt_and_read_back(tmp_path: Path, make_record: RecordMaker) -> None:
    """All of it, once: a second time replaces the files of the first."""
    pytest.importorskip("wandb")
    record = make_record(**scored({"mini:1a2b3c4d": block(score("fvd", 3.0))}))
    del record["quality_reason"]
    folder = _store(tmp_path, record)
    content = (folder / "record.json").read_bytes()
    for _ in range(2):
        done = _main("--runs", str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["mirrored"] == [record["run_id"]]
    (path,) = folder.glob(f"wandb/offline-run-*/run-{record['run_id']}.wandb")
    config, summary = read_back(path)
    assert config["sampler"] == record["config"]["sampler"]
    assert summary["speed/seconds_per_clip/value"] == 12.5
    assert summary["timings/denoise_total_s"] == 23.0
    assert summary["quality/mini:1a2b3c4d/fvd/value"] == 3.0
    media = [file.name for file in folder.glob("wandb/offline-run-*/files/media/*/**/*.*")]
    for name in ("stage_times", "clips", "scores", "a"):
        assert any(file.startswith(name) for file in media), (name, media)
    assert (folder / "record.json").read_bytes() == content


class _Cut(http.server.BaseHTTPRequestHandler):
    """Answers the first questions and then, with the connection open, nothing more."""

    protocol_version = "HTTP/1.1"
    questions = 0

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).questions += 1
        if self.questions > 2:
            threading.Event().wait(120)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "11")
        self.end_headers()
        self.wfile.write(b'{"data":{}}')


@pytest.fixture
def cut_server() -> Iterator[str]:
    """A server that takes a run and is then cut off."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Cut)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut in the middle", "closed port"])
def test_a_cut_network_costs_bounded_time_and_no_number(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, make_record: RecordMaker
) -> None:
    pytest.importorskip("wandb")
    if kind == "closed port":
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    else:
        address = request.getfixturevalue("cut_server")
    record = make_record()
    folder = _store(tmp_path, record)
    content = (folder / "record.json").read_bytes()
    started = monotonic_s()
    words = ("--runs", str(tmp_path), "--mode", "online", "--timeout-s", "15")
    done = _main(*words, WANDB_BASE_URL=address, WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert monotonic_s() - started < 60
    assert json.loads(done.stdout.splitlines()[-1])["mode"] == "offline" and KEY not in done.stdout + done.stderr
    assert kind == "closed port" or _Cut.questions >= 2, "the network was cut before it was used"
    (path,) = folder.glob(f"wandb/offline-run-*/run-{record['run_id']}.wandb")
    assert read_back(path)[1]["speed/seconds_per_clip/value"] == 12.5
    assert (folder / "record.json").read_bytes() == content
