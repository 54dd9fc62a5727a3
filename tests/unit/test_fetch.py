"""Fetching public files: verified, resumable, skipped when complete, and one clear message without network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from lcp_bench import fetch as fetch_module
from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.fetch import FetchRequest, fetch, main, parse_arguments
from lcp_bench.models.weights import sources
from lcp_bench.models.weights.hub import Hub, HubRefused, HubUnreachable, RemoteFile
from lcp_bench.models.weights.lockfile import read_lock
from lcp_bench.models.weights.sources import (
    SOURCES,
    PublicFile,
    files_for,
    missing_files,
)

COMMIT = "c" * 40
PINNED_BYTES, FREE_BYTES = b"pinned content", b"content that nobody has vouched for"


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


PINNED = PublicFile(
    repository="org/encoder",
    path="model.safetensors",
    folder="encoder",
    revision="a" * 40,
    sha256=_sha(PINNED_BYTES),
    size_bytes=len(PINNED_BYTES),
    purpose="an encoder",
)
FREE = PublicFile(repository="org/net", path="net/net.pth", about_bytes=35, purpose="the network")
EXTRA = replace(FREE, path="extra/detector.onnx", group="detector")


class FakeHub(Hub):
    """A hub in memory that counts what it is asked."""

    def __init__(self) -> None:
        self.content = {
            PINNED.path: PINNED_BYTES,
            FREE.path: FREE_BYTES,
            EXTRA.path: b"extra",
        }
        self.described: list[str] = []
        self.downloaded: list[tuple[str, str | None]] = []
        self.unreachable_after: int | None = None
        self.says_sha256 = True

    def url(self, file: PublicFile) -> str:
        return f"https://hub.example/{file.repository}/{file.path}"

    def describe(self, file: PublicFile, revision: str | None) -> RemoteFile:
        self.described.append(file.path)
        if self.unreachable_after is not None and len(self.described) > self.unreachable_after:
            raise HubUnreachable("no route to host")
        if file.path not in self.content:
            raise HubRefused("404 Client Error")
        content = self.content[file.path]
        sha256 = _sha(content) if self.says_sha256 else None
        return RemoteFile(revision=revision or COMMIT, sha256=sha256, size_bytes=len(content))

    def download(self, file: PublicFile, revision: str | None, folder: Path) -> Path:
        self.downloaded.append((file.path, revision))
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.content[file.path])
        return target


@pytest.fixture(autouse=True)
def toy_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model `toy` with one pinned file, one that is not, and an optional one."""
    monkeypatch.setitem(SOURCES, "toy", (PINNED, FREE, EXTRA))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def request_toy(tmp_path: Path) -> FetchRequest:
    return FetchRequest(model="toy", root=tmp_path / "weights")


def test_fetches_verifies_and_notes_everything(request_toy: FetchRequest, hub: FakeHub) -> None:
    result = fetch(request_toy, hub)
    root = request_toy.root
    assert result.fetched == ("encoder/model.safetensors", "net/net.pth") and result.kept == ()
    assert (root / "encoder/model.safetensors").read_bytes() == PINNED_BYTES
    assert hub.downloaded == [(PINNED.path, PINNED.revision), (FREE.path, COMMIT)]
    lock = read_lock(root)
    assert lock["net/net.pth"].revision == COMMIT and lock["net/net.pth"].sha256 == _sha(FREE_BYTES)
    assert not (root / fetch_module.STAGING).exists()
    assert missing_files("toy", root) == ()


def test_complete_files_are_skipped_without_asking_the_hub(request_toy: FetchRequest, hub: FakeHub) -> None:
    fetch(request_toy, hub)
    hub.described.clear()
    result = fetch(request_toy, hub)
    assert result.kept == ("encoder/model.safetensors", "net/net.pth") and result.fetched == ()
    assert hub.described == []


def test_extras_only_when_asked_for(request_toy: FetchRequest, hub: FakeHub) -> None:
    assert fetch(replace(request_toy, extras=("detector",)), hub).fetched[-1] == "extra/detector.onnx"
    with pytest.raises(ConfigError, match=r"unknown extras \['nose'\] .*'detector'"):
        fetch(replace(request_toy, extras=("nose",)), hub)


@pytest.mark.parametrize("wrong", [b"another content", b""])
def test_download_that_is_not_the_pinned_file_never_reaches_its_place(
    request_toy: FetchRequest, hub: FakeHub, wrong: bytes
) -> None:
    hub.content[PINNED.path] = wrong
    with pytest.raises(WeightsError, match=f"expected SHA-256 {PINNED.sha256}, got {_sha(wrong)}"):
        fetch(request_toy, hub)
    assert not (request_toy.root / PINNED.place).exists()
    assert (request_toy.root / FREE.place).exists()  # the other file is not lost with it
    assert [path for path in request_toy.root.rglob("model.safetensors")] == []


def test_unpinned_file_is_held_against_the_first_fetch(request_toy: FetchRequest, hub: FakeHub) -> None:
    fetch(request_toy, hub)
    (request_toy.root / FREE.place).unlink()
    hub.content[FREE.path] = b"a later upload"
    with pytest.raises(WeightsError, match=f"expected SHA-256 {_sha(FREE_BYTES)}"):
        fetch(request_toy, hub)
    assert hub.downloaded[-1] == (FREE.path, COMMIT)
    hub.content[FREE.path] = FREE_BYTES
    assert fetch(request_toy, hub).fetched == (FREE.place,)


def test_unpinned_file_must_be_what_the_hub_describes(request_toy: FetchRequest, hub: FakeHub) -> None:
    honest = hub.download

    def corrupting(file: PublicFile, revision: str | None, folder: Path) -> Path:
        path = honest(file, revision, folder)
        path.write_bytes(path.read_bytes()[:-1])
        return path

    hub.download = corrupting  # type: ignore[method-assign]
    with pytest.raises(WeightsError, match=r"net\.pth is not the expected file"):
        fetch(request_toy, hub)
    assert not (request_toy.root / FREE.place).exists()


def test_small_files_without_a_published_hash_are_trusted_on_first_use(request_toy: FetchRequest, hub: FakeHub) -> None:
    hub.says_sha256 = False
    fetch(request_toy, hub)
    assert read_lock(request_toy.root)[FREE.place].sha256 == _sha(FREE_BYTES)


def test_file_placed_by_hand_is_kept_and_noted(request_toy: FetchRequest, hub: FakeHub) -> None:
    target = request_toy.root / FREE.place
    target.parent.mkdir(parents=True)
    target.write_bytes(b"by hand")
    result = fetch(request_toy, hub)
    assert result.kept == (FREE.place,) and target.read_bytes() == b"by hand"
    entry = read_lock(request_toy.root)[FREE.place]
    assert (entry.sha256, entry.revision) == (_sha(b"by hand"), None)


def test_wrong_file_is_reported_kept_and_replaced_only_by_force(request_toy: FetchRequest, hub: FakeHub) -> None:
    target = request_toy.root / PINNED.place
    target.parent.mkdir(parents=True)
    target.write_bytes(PINNED_BYTES[:5])
    with pytest.raises(
        WeightsError,
        match=rf"expected SHA-256 {PINNED.sha256} of 14 bytes, got \w+ of 5 bytes",
    ):
        fetch(request_toy, hub)
    assert target.read_bytes() == PINNED_BYTES[:5]
    assert fetch(replace(request_toy, force=True), hub).fetched == (PINNED.place,)
    assert target.read_bytes() == PINNED_BYTES


def test_without_network_one_message_and_one_attempt(request_toy: FetchRequest, hub: FakeHub) -> None:
    hub.unreachable_after = 0
    with pytest.raises(WeightsError) as caught:
        fetch(request_toy, hub)
    message = str(caught.value)
    assert hub.described == [PINNED.path]
    assert message.startswith(f"toy: 2 of 2 files below {request_toy.root} are missing or wrong")
    assert "cannot be reached (no route to host)" in message
    for file in (PINNED, FREE):
        assert str(request_toy.root / file.place) in message
        assert hub.url(file) in message and file.size_text in message and file.purpose in message
    assert f"SHA-256 {PINNED.sha256}" in message and "SHA-256 not known" in message


def test_connection_lost_half_way_keeps_what_came(request_toy: FetchRequest, hub: FakeHub) -> None:
    hub.unreachable_after = 1
    with pytest.raises(WeightsError, match="toy: 1 of 2 files"):
        fetch(request_toy, hub)
    hub.unreachable_after = None
    assert fetch(request_toy, hub).kept == (PINNED.place,)


def test_one_refused_file_does_not_stop_the_others(request_toy: FetchRequest, hub: FakeHub) -> None:
    del hub.content[PINNED.path]
    with pytest.raises(WeightsError, match=r"1 of 2 files[^$]*404 Client Error"):
        fetch(request_toy, hub)
    assert (request_toy.root / FREE.place).exists()


def test_full_disk_is_noticed_before_the_download(
    request_toy: FetchRequest, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=20))
    with pytest.raises(WeightsError, match="49 B are to be fetched, 20 B are free"):
        fetch(request_toy, hub)
    assert hub.described == []


@pytest.mark.parametrize("plus", ["", "+"])
def test_arguments(plus: str) -> None:
    parsed = parse_arguments([f"{plus}model=hallo", f"{plus}paths.weights=/w", "extras=[a,b]", "force=true"])
    assert parsed == FetchRequest(model="hallo", root=Path("/w"), extras=("a", "b"), force=True)
    assert parse_arguments(["model=hallo"]).root == Path("weights")


BAD_COMMANDS = {
    "+modle=hallo": "did you mean model=",
    "hallo": "got 'hallo'",
    "+model=halo": r"model='halo'; choose one of \[.*'hallo'",
    "model=toy model=hallo": "model is given twice",
    "": r"expected \+model=NAME",
    "model=toy force=yes": "got force=yes",
    "model=toy paths.weights=": "paths.weights=FOLDER, got an empty value",
}


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_bad_command_is_exit_code_2_and_makes_no_folder(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    assert re.search(BAD_COMMANDS[command], capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_models_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "+model=NAME" in text and "hallo" in text and "face_analysis" in text


def test_public_sources_are_consistent() -> None:
    """A pin is whole or absent, and every weight file the loader reads is listed."""
    from lcp_bench.models.weights.layouts import HALLO_LAYOUT, HALLO_UNET_CONFIG_FILE

    for file in sources.HALLO_FILES:
        pins = (file.revision, file.sha256, file.size_bytes)
        assert all(pins) or not any(pins), file
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256), file
        assert file.revision is None or re.fullmatch(r"[0-9a-f]{40}", file.revision), file
    required = {file.place for file in files_for("hallo")}
    read = {place for source in HALLO_LAYOUT.values() for place in (source.file, source.config) if place}
    assert read | {HALLO_UNET_CONFIG_FILE} == required


class HubHandler(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs, for any repository."""

    protocol_version = "HTTP/1.1"
    content = FREE_BYTES * 5000
    commit = COMMIT
    log: ClassVar[list[tuple[str, str, str | None]]] = []
    cut_after: int | None = None
    refuse_after: int | None = None

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.log.append((self.command, self.path, self.headers.get("Range")))
        gets = sum(command == "GET" for command, _, _ in self.log)
        if "/resolve/" not in self.path or (self.refuse_after is not None and gets > self.refuse_after):
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[0])
        part = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{_sha(self.content)}"')
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header(
                "Content-Range",
                f"bytes {start}-{len(self.content) - 1}/{len(self.content)}",
            )
        self.end_headers()
        if body:
            self.wfile.write(part[: self.cut_after])
            if self.cut_after is not None:
                self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[str]:
    HubHandler.log, HubHandler.cut_after, HubHandler.refuse_after = [], None, None
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


TOY_MAIN = """
import sys
from lcp_bench import fetch
from lcp_bench.models.weights.sources import SOURCES, PublicFile
SOURCES["toy"] = (PublicFile(repository="org/net", path="net/net.pth", about_bytes=35, purpose="the network"),)
code = fetch.main(sys.argv[1:])
assert "torch" not in sys.modules, "fetching needs no torch"
sys.exit(code)
"""


def _run(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.upper().startswith("HF_")}
    clean |= {
        "HF_HOME": str(root.parent / "hf"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-c", TOY_MAIN, "+model=toy", f"paths.weights={root}"]
    return subprocess.run(
        command,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_real_client_downloads_at_the_resolved_commit(tmp_path: Path, server: str) -> None:
    root = tmp_path / "weights"
    done = _run(root, HF_ENDPOINT=server)
    assert done.returncode == 0, done.stderr
    assert (root / FREE.place).read_bytes() == HubHandler.content
    assert json.loads((root / "weights.lock.json").read_text())["files"][FREE.place]["revision"] == COMMIT
    gets = [path for command, path, _ in HubHandler.log if command == "GET" and "/resolve/" in path]
    assert gets == [f"/org/net/resolve/{COMMIT}/net/net.pth"]
    assert "1 fetched, 0 already there" in done.stdout.splitlines()[-1]


def test_real_client_goes_on_where_it_was_cut(tmp_path: Path, server: str) -> None:
    root = tmp_path / "weights"
    HubHandler.cut_after = 100_000
    HubHandler.refuse_after = 1
    cut = _run(root, HF_ENDPOINT=server)
    assert cut.returncode == 1 and "an interrupted download is continued" in cut.stderr
    assert not (root / FREE.place).exists()
    HubHandler.cut_after = HubHandler.refuse_after = None
    HubHandler.log.clear()
    done = _run(root, HF_ENDPOINT=server)
    assert done.returncode == 0, done.stderr
    assert (root / FREE.place).read_bytes() == HubHandler.content
    assert [asked for command, _, asked in HubHandler.log if command == "GET"] == ["bytes=100000-"]


def test_real_client_survives_a_lost_connection(tmp_path: Path, server: str) -> None:
    HubHandler.cut_after = 60_000
    done = _run(tmp_path / "weights", HF_ENDPOINT=server)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "weights" / FREE.place).read_bytes() == HubHandler.content
    asked = [byte_range for command, _, byte_range in HubHandler.log if command == "GET"]
    assert asked == [None, "bytes=60000-", "bytes=120000-"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "refused"),
    ],
    ids=["offline", "closed port"],
)
def test_real_client_without_network_is_quick_and_clear(
    tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    start = time.monotonic()
    done = _run(tmp_path / "weights", **environment)
    assert time.monotonic() - start < 30
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the hub cannot be reached (" in done.stderr and reason in done.stderr
    assert str(tmp_path / "weights" / FREE.place) in done.stderr and "/org/net/resolve/main/net/net.pth" in done.stderr
