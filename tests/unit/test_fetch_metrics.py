"""Fetching the published metrics' backbones: pinned, without tokens, converted apart, one message for the rest."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from torch import nn

from lcp_bench import fetch_convert, fetch_metrics
from lcp_bench.data.face_parsing import find_parser
from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.fetch import FetchRequest, main, parse_arguments
from lcp_bench.fetch_convert import convert, is_torchscript
from lcp_bench.fetch_metrics import ORIGINS, Origin
from lcp_bench.fetch_plain import download
from lcp_bench.metric_sets import NEEDED
from lcp_bench.models.weights.hub import Hub, HubRefused, HubUnreachable, RemoteFile
from lcp_bench.models.weights.sources import PublicFile as HubFile
from metrics.weights import BACKBONES, SOURCE, Backbone, PublicFile, load_backbone


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `files`; notes the headers of each request."""

    files: ClassVar[dict[str, bytes]] = {}
    seen: ClassVar[list[dict[str, str]]] = []
    short: ClassVar[bool] = False

    def do_GET(self) -> None:
        self.seen.append({key.lower(): value for key, value in self.headers.items()})
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        if self.path == "/escape":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/net.pth")
            self.end_headers()
            return
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write((content or b"")[: 3 if self.short else None])

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Handler.files, Handler.seen, Handler.short = {}, [], False
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def expects(content: bytes) -> Any:
    return lambda path: (
        None if path.read_bytes() == content else f"expected {sha(content)}, got {sha(path.read_bytes())}"
    )


# ------------------------------------------------------------------ the plain download


def test_no_token_leaves_the_machine(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the hub's token nor the passwords in .netrc, also after a redirect."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "sesame")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password sesame\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    Handler.files["/net.pth"] = b"weights"
    download(f"{server}/moved/net.pth", tmp_path / "net.pth", expects(b"weights"))
    assert (tmp_path / "net.pth").read_bytes() == b"weights"
    assert len(Handler.seen) == 2
    for headers in Handler.seen:
        assert set(headers) <= {"host", "accept-encoding", "connection"}
        assert "sesame" not in str(headers)


def test_a_wrong_checksum_never_reaches_its_place(server: str, tmp_path: Path) -> None:
    Handler.files["/net.pth"] = b"something else"
    with pytest.raises(WeightsError, match=f"not the expected file: expected {sha(b'weights')}.*it was deleted"):
        download(f"{server}/net.pth", tmp_path / "net.pth", expects(b"weights"))
    (tmp_path / "net.pth").write_bytes(b"mine")
    with pytest.raises(WeightsError):
        download(f"{server}/net.pth", tmp_path / "net.pth", expects(b"weights"))
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"] and (tmp_path / "net.pth").read_bytes() == b"mine"


def test_what_can_go_wrong_with_a_host(server: str, tmp_path: Path) -> None:
    target = tmp_path / "net.pth"
    with pytest.raises(HubRefused, match="404"):
        download(f"{server}/absent", target, expects(b""))
    with pytest.raises(HubRefused, match="redirected away from HTTP"):
        download(f"{server}/escape", target, expects(b""))
    Handler.files["/net.pth"] = b"weights"
    with pytest.raises(WeightsError, match="more than the 3 bytes"):
        download(f"{server}/net.pth", target, expects(b"weights"), limit_bytes=3)
    Handler.short = True
    with pytest.raises(HubUnreachable):
        download(f"{server}/net.pth", target, expects(b"weights"))
    with pytest.raises(HubUnreachable, match="127.0.0.1:9"):
        download("http://127.0.0.1:9/x", target, expects(b""))
    for url in ("file:///etc/hostname", "https://ada:sesame@example.org/x"):
        with pytest.raises(WeightsError, match="without a login"):
            download(url, target, expects(b""))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ the conversion


class Net(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return self.layer(x)  # type: ignore[no-any-return]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118


def test_a_pickle_becomes_plain_tensors(tmp_path: Path) -> None:
    state = Net().state_dict()
    torch.save({"net": state, "optimiser": {"step": 3}}, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    convert(tmp_path / "net.pth", tmp_path / "net.safetensors", {SOURCE: "abc"}, "net")
    found = tensors(tmp_path / "net.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    with safe_open(tmp_path / "net.safetensors", "pt") as stored:
        assert stored.metadata() == {SOURCE: "abc"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_becomes_plain_tensors(tmp_path: Path) -> None:
    net = Net()
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    assert is_torchscript(tmp_path / "net.pt")
    convert(tmp_path / "net.pt", tmp_path / "net.safetensors", {})
    assert torch.equal(tensors(tmp_path / "net.safetensors")["layer.weight"], net.layer.weight)


class Evil:
    """Runs a command when it is unpickled carelessly."""

    def __reduce__(self) -> Any:
        return os.system, ("touch was_here",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="cannot be converted"):
        convert(tmp_path / "net.pth", tmp_path / "net.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_the_converting_process_has_no_network(server: str) -> None:
    code = (
        "import sys, urllib.request\nfrom lcp_bench.fetch_convert import cut_network\ncut_network()\n"
        "try:\n    urllib.request.urlopen(sys.argv[1], timeout=5)\n"
        "except OSError as error:\n    sys.exit(0 if 'no network' in str(error) else 2)\nsys.exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code, server], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert Handler.seen == []


def test_the_converting_process_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "sesame")
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch_convert.subprocess, "run", run)
    convert(tmp_path / "net.pth", tmp_path / "net.safetensors", {})
    assert "sesame" not in str(seen["env"]) and "PYTHONPATH" in seen["env"]


# ------------------------------------------------------------------ the command


class NoHub(Hub):
    """A hub that cannot be reached, or gives `content`."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content
        self.asked: list[str] = []

    def url(self, file: HubFile) -> str:
        return f"https://hub.example/{file.repository}/{file.path}"

    def describe(self, file: HubFile, revision: str | None) -> RemoteFile:
        self.asked.append(file.path)
        if self.content is None:
            raise HubUnreachable("no route to host")
        return RemoteFile(revision="c" * 40, sha256=None, size_bytes=len(self.content))

    def download(self, file: HubFile, revision: str | None, folder: Path) -> Path:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.content or b"")
        return target


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> bytes:
    """Two backbones of one layer: `left` from a host, `right` from the hub; the content of their file."""
    torch.save(Net().state_dict(), tmp_path / "made.pth")
    content = (tmp_path / "made.pth").read_bytes()
    (tmp_path / "made.pth").unlink()
    for name in ("left", "right"):
        file = PublicFile((f"{name}.pth",), f"https://example.org/{name}", sha256=sha(content))
        monkeypatch.setitem(BACKBONES, name, Backbone(Net, file))
    monkeypatch.setattr(fetch_metrics, "NEEDED", {"fvd": ("left",), "sync": ("right", "left")})
    origins = {"left": (Origin(url=f"{server}/left.pth"),), "right": (Origin(hub=("org/net", "right.pth")),)}
    monkeypatch.setattr(fetch_metrics, "ORIGINS", origins)
    Handler.files["/left.pth"] = content
    return content


def test_fetched_converted_loadable_and_then_kept(toys: bytes, tmp_path: Path) -> None:
    done = fetch_metrics.fetch_metrics("paper", tmp_path, hub=NoHub(toys))
    assert (done.fetched, done.kept) == (("left", "right"), ())
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == ["left.safetensors", "right.safetensors"]
    for name in ("left", "right"):
        loaded = load_backbone(name, tmp_path / "metrics")
        assert (loaded.identity.label, loaded.identity.identity) == ("public", f"sha256:{sha(toys)}")
    hub = NoHub()
    again = fetch_metrics.fetch_metrics("paper", tmp_path, hub=hub)
    assert (again.fetched, again.kept, hub.asked, len(Handler.seen)) == ((), ("left", "right"), [], 1)


def test_a_file_put_there_by_hand_is_taken_and_stays(toys: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    for name in ("left", "right"):
        (tmp_path / "metrics" / f"{name}.pth").write_bytes(toys)
    done = fetch_metrics.fetch_metrics("paper", tmp_path, hub=NoHub())
    assert done.kept == ("left", "right") and Handler.seen == []
    assert (tmp_path / "metrics" / "left.pth").is_file() and (tmp_path / "metrics" / "left.safetensors").is_file()


def test_one_message_says_what_to_put_where(toys: bytes, tmp_path: Path) -> None:
    Handler.files["/left.pth"] = b"someone else's file"
    with pytest.raises(WeightsError) as caught:
        fetch_metrics.fetch_metrics("paper", tmp_path, hub=NoHub())
    text = str(caught.value)
    assert "2 of 2 weight files are missing or wrong" in text
    for name in ("left", "right"):
        assert str(tmp_path / "metrics" / f"{name}.pth") in text and f"https://example.org/{name}" in text
    assert f"SHA-256 {sha(toys)}" in text and "left, for fvd, sync" in text
    assert f"expected SHA-256 {sha(toys)}, got {sha(b'someone else' + bytes([39]) + b's file')}" in text
    assert "no route to host" in text and "hub: org/net, right.pth" in text
    assert not list((tmp_path / "metrics").rglob("*.*")), "nothing wrong is left behind"


def test_a_wrong_file_stays_until_force(toys: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    wrong = tmp_path / "metrics" / "left.pth"
    wrong.write_bytes(b"wrong")
    with pytest.raises(WeightsError, match="expected SHA-256"):
        fetch_metrics.fetch_metrics("paper", tmp_path, hub=NoHub(toys))
    assert wrong.read_bytes() == b"wrong"
    assert fetch_metrics.fetch_metrics("paper", tmp_path, hub=NoHub(toys), force=True).fetched == ("left",)


def test_a_face_parser_goes_the_same_way(toys: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "bisenet", BACKBONES["right"])
    monkeypatch.setitem(fetch_metrics.ORIGINS, "bisenet", fetch_metrics.ORIGINS["right"])
    assert fetch_metrics.fetch_parser("bisenet", tmp_path, hub=NoHub(toys)).fetched == ("bisenet",)
    with pytest.raises(ConfigError, match=r"\+parser=NAME, one of .*bisenet, got \+parser=segformer"):
        fetch_metrics.fetch_parser("segformer", tmp_path)


def test_a_file_without_published_checksum_is_the_users_to_bring(
    toys: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "bisenet_yakhyo_resnet18"
    monkeypatch.setitem(BACKBONES, name, Backbone(Net, PublicFile(("resnet18.pt",), "https://example.org/parser")))
    with pytest.raises(WeightsError, match=r"for foreground masks(\n.*)+no checksum is published\n.*not fetched"):
        fetch_metrics.fetch_parser(name, tmp_path, hub=NoHub(toys))
    (tmp_path / "metrics").mkdir(exist_ok=True)
    (tmp_path / "metrics" / "resnet18.pt").write_bytes(toys)
    before = find_parser("auto", "face_only", tmp_path / "metrics")
    assert fetch_metrics.fetch_parser(name, tmp_path, hub=NoHub()).kept == (name,)
    assert (tmp_path / "metrics" / "resnet18.safetensors").is_file()
    after = find_parser("auto", "face_only", tmp_path / "metrics")
    assert before == after and after is not None and after.sha256 == sha(toys)


def test_every_public_backbone_has_an_origin_and_a_pin() -> None:
    for name in {each for needed in NEEDED.values() for each in needed}:
        file = BACKBONES[name].file
        assert ORIGINS[name] and (file.sha256 or file.git_blob), name
        assert all(origin.url is None or origin.url.startswith("https://") for origin in ORIGINS[name])


def test_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert parse_arguments(["+metric=paper"]) == FetchRequest(metric="paper")
    assert parse_arguments(["model=hallo", "metric=paper"]).model == "hallo"
    assert main(["+metric=mini", f"paths.weights={tmp_path}"]) == 0
    assert "mini: 0 fetched" in capsys.readouterr().out
    assert main(["+metric=papper"]) == 2
    assert "+metric=paper" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="metric=paper"):
        parse_arguments([])
