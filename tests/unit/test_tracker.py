"""The mirror: it never costs a record, a sweep or a wait."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb_files import read_back

from lcp_bench import tracker
from lcp_bench.errors import ConfigError
from lcp_bench.tracker import NullTracker, WandbTracker, make_tracker, summary

RecordMaker = Callable[..., dict[str, Any]]
needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")


def _settings(name: str, mode: str = "offline") -> Any:
    return SimpleNamespace(name=name, mode=mode, project=None)


def test_none_mirrors_nothing(make_record: RecordMaker, tmp_path: Path) -> None:
    made = make_tracker(_settings("none"))
    assert isinstance(made, NullTracker)
    assert made.mirror(make_record(), tmp_path) is False
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"tracker\.name"):
        make_tracker(_settings("mlflow"))
    with pytest.raises(ConfigError, match=r"tracker\.mode"):
        make_tracker(_settings("wandb", "sometimes"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        make_tracker(_settings("wandb"))
    make_tracker(_settings("none"))  # does not need it


def test_importing_the_tracker_does_not_import_wandb() -> None:
    code = "import sys, lcp_bench.tracker as t; assert 'wandb' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@needs_wandb
def test_online_without_a_key_goes_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with caplog.at_level(logging.WARNING):
        assert WandbTracker("online").mode == "offline"
    assert "no W&B key" in caplog.text
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    (tmp_path / "netrc").chmod(0o600)
    assert WandbTracker("online").mode == "online"
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert WandbTracker("online").mode == "online"


def test_summary_is_flat_numbers_without_samples(make_record: RecordMaker) -> None:
    flat = summary(make_record())
    assert flat["speed/seconds_per_clip/value"] == 12.5
    assert flat["timings/denoise_total_s"] == 23.0
    assert flat["labels/weights"] == "seeded" and flat["clips/n_ok"] == 4
    assert not any(isinstance(value, (list, dict)) or value is None for value in flat.values())


class _FakeWandb:
    """Stands in for the client: fails as told, and keeps what it was given."""

    Error = RuntimeError
    __spec__ = "asked by importlib whether the package is there"

    def __init__(self, fail_init: tuple[str, ...] = (), fail_log: bool = False) -> None:
        self.fail_init, self.fail_log = fail_init, fail_log
        self.started: list[dict[str, Any]] = []
        self.finished = 0
        self.summary: dict[str, Any] = {}

    class Settings(SimpleNamespace):
        """Accepts the options that exist."""

        model_fields = ("init_timeout", "silent")

    def Table(self, columns: list[str], data: list[Any]) -> Any:
        return data

    def init(self, **options: Any) -> Any:
        self.started.append(options)
        if options["mode"] in self.fail_init:
            raise RuntimeError("no network")
        return self

    def log(self, data: dict[str, Any], step: int) -> None:
        if self.fail_log:
            raise RuntimeError("broken pipe")

    def finish(self) -> None:
        self.finished += 1

    def teardown(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fake", "modes", "taken", "said"),
    [
        (_FakeWandb(), ["online"], True, ""),
        (_FakeWandb(fail_init=("online",)), ["online", "offline"], True, "going offline"),
        (_FakeWandb(fail_init=("online", "offline")), ["online", "offline"], False, "its record is complete"),
        (_FakeWandb(fail_log=True), ["online"], False, "in part"),
    ],
    ids=["well", "no network", "no service", "cut off"],
)
@needs_wandb
def test_troubles_become_warnings(
    monkeypatch: pytest.MonkeyPatch, make_record: RecordMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    fake: _FakeWandb, modes: list[str], taken: bool, said: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    record, mirror = make_record(), WandbTracker("online")
    with caplog.at_level(logging.WARNING):
        assert mirror.mirror(record, tmp_path) is taken
    assert [options["mode"] for options in fake.started] == modes
    assert said in caplog.text and (said or not caplog.text)
    first = fake.started[0]
    assert first["id"] == record["run_id"] and first["resume"] == "allow"
    assert first["settings"].init_timeout == tracker.INIT_TIMEOUT_S
    assert fake.finished == (0 if "offline" in fake.fail_init else 1)
    if "no network" in said or modes == ["online", "offline"]:
        fake.started.clear()
        mirror.mirror(record, tmp_path)
        assert [options["mode"] for options in fake.started] == ["offline"]  # it does not wait for the network again


def test_disabled_does_nothing(make_record: RecordMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    assert WandbTracker("disabled").mirror(make_record(), tmp_path) is False
    assert list(tmp_path.iterdir()) == []


OFFLINE = """
import json, sys
from pathlib import Path
from lcp_bench.tracker import WandbTracker
folder = Path(sys.argv[1])
record = json.loads((folder / "record.json").read_text())
taken = WandbTracker("offline", "project").mirror(record, folder, [folder / "a.mp4", folder / "absent.mp4"])
sys.exit(0 if taken else 1)
"""


@needs_wandb
@pytest.mark.slow
def test_an_offline_run_is_read_back(tmp_path: Path, make_record: RecordMaker) -> None:
    record = make_record()
    (tmp_path / "record.json").write_text(json.dumps(record))
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 100)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path)], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob(f"wandb/offline-run-*/run-{record['run_id']}.wandb")
    config, seen = read_back(path)
    assert config["sampler"] == record["config"]["sampler"]
    assert seen["speed/seconds_per_clip/value"] == 12.5
    assert seen["timings/denoise_total_s"] == 23.0
    media = tmp_path.glob("wandb/offline-run-*/files/media/*/**/*.*")
    assert {file.suffix for file in media} >= {".mp4", ".json"}
