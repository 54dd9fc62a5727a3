"""The doctor's lines: what passes here, what must not, and that one broken check hides no other."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from lcp_bench import doctor, doctor_checks
from lcp_bench.doctor import Asked, Check
from lcp_bench.preflight import load_run_config


def asked(tmp_path: Path, *words: str) -> Asked:
    """What a command names; folders are the test's own."""
    paths = [f"paths.{name}={tmp_path / name}" for name in ("runs", "weights", "data", "cache")]
    config = load_run_config([*words, *paths], fallback=doctor.FALLBACK)
    return Asked(config, frozenset(word.lstrip("+").partition("=")[0] for word in words))


def states(checks: list[Check]) -> dict[str, str]:
    """Name to state; everything that does not pass says how it is mended."""
    assert all(check.mend for check in checks if check.state != "pass")
    return {check.name: check.state for check in checks}


def test_what_must_hold_wherever_the_tests_run(tmp_path: Path) -> None:
    nothing = asked(tmp_path)
    for function in ("python", "packages", "codecs"):
        lines = getattr(doctor_checks, f"check_{function}")(nothing)
        assert states(lines)[function] == "pass", lines
    device = doctor_checks.check_device(nothing)
    assert device[0].found
    assert doctor_checks.check_checkout(nothing)[0].state in ("pass", "warn")


def test_missing_files_fail_only_for_what_is_asked(tmp_path: Path) -> None:
    nothing, hallo = asked(tmp_path), asked(tmp_path, "+model=hallo", "+metric=paper", "+dataset=hdtf")
    (line,) = [doctor_checks._weights_of("hallo", nothing)]
    assert (line.state, line.found) == ("warn", f"0 of 6 files in {tmp_path / 'weights'}")
    assert "lcp_bench.fetch +model=hallo" in line.mend
    assert doctor_checks._weights_of("hallo", hallo).state == "fail"
    seeded = asked(tmp_path, "+model=hallo", "model.weights=seeded")
    assert doctor_checks._weights_of("hallo", seeded).state == "pass"
    assert states(doctor_checks.check_metric_networks(nothing)) == {"metric mini": "pass", "metric paper": "warn"}
    assert states(doctor_checks.check_metric_networks(hallo))["metric paper"] == "fail"
    assert doctor_checks._data_set("hdtf", hallo.config, hallo).state == "fail"


def test_the_face_parser(tmp_path: Path) -> None:
    assert states(doctor_checks.check_face_parser(asked(tmp_path))) == {"face parser": "pass"}
    (missing,) = doctor_checks.check_face_parser(asked(tmp_path, "+dataset=demo", "dataset.face_parser=bisenet"))
    assert missing.state == "fail" and "79999_iter.pth" in missing.found and "+parser=bisenet" in missing.mend
    (tmp_path / "weights" / "metrics").mkdir(parents=True)
    (tmp_path / "weights" / "metrics" / "resnet18.pt").write_bytes(b"parser")
    (found,) = doctor_checks.check_face_parser(asked(tmp_path))
    assert found.state == "pass" and found.found.startswith("bisenet_yakhyo_resnet18, face_hair_neck, sha256 ")


def test_folders_without_space_or_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = asked(tmp_path)
    monkeypatch.setattr(doctor_checks, "NO_DISK", 0)
    monkeypatch.setattr(doctor_checks, "LOW_DISK", 0)
    assert states(doctor_checks.check_folders(here)) == {"disk": "pass", "write, lock": "pass"}
    assert not (tmp_path / "runs").exists(), "looking makes nothing"
    monkeypatch.setattr(doctor_checks, "NO_DISK", 2**62)

    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert states(doctor_checks.check_folders(here)) == {"disk": "fail", "write, lock": "fail"}


def test_a_slowed_or_busy_gpu_is_a_warning() -> None:
    gpu = {"sm_clock_mhz": 900.0, "sm_clock_max_mhz": 1980.0, "temperature_c": 88.0, "utilization_pct": 0.0}

    def found(**changes: Any) -> Check:
        (check,) = doctor_checks._gpu_speed({"gpu": gpu | changes})
        return check

    assert found(throttle_reasons=["gpu_idle"]).state == "pass"
    slowed = found(throttle_reasons=["hw_thermal_slowdown", "gpu_idle"])
    assert (slowed.state, "hw_thermal_slowdown" in slowed.found) == ("warn", True)
    assert found(utilization_pct=80.0).state == "warn"
    (unknown,) = doctor_checks._gpu_speed({"gpu": None, "gpu_reason": "nvidia-smi is not installed"})
    assert (unknown.state, unknown.found) == ("warn", "nvidia-smi is not installed")


def test_a_busy_cpu_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    governor = tmp_path / "governor"
    governor.write_text("powersave\n")
    monkeypatch.setattr(doctor_checks, "GOVERNOR", governor)
    assert [check.state for check in doctor_checks._cpu_speed([0.0, 0.0, 0.0], 8)] == ["warn"]
    governor.write_text("performance\n")
    assert [check.state for check in doctor_checks._cpu_speed([0.0, 0.0, 0.0], 8)] == ["pass"]
    assert [check.state for check in doctor_checks._cpu_speed([7.0, 0.0, 0.0], 8)] == ["warn"]


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def check_first(asked: Asked) -> list[Check]:
        return [Check("first", "pass", "good")]

    def check_broken_thing(asked: Asked) -> list[Check]:
        raise ZeroDivisionError("oh")

    def check_last(asked: Asked) -> list[Check]:
        return [Check("last", "warn", "so so", "mend it")]

    monkeypatch.setattr(doctor_checks, "CHECKS", (check_first, check_broken_thing, check_last))
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines() if line[:4].strip() in ("pass", "warn", "fail")] == [
        ["pass", "first"], ["fail", "broken"], ["warn", "last"],
    ]  # fmt: skip
    assert "-> mend it" in out and out.splitlines()[-1] == "1 pass, 1 warn, 1 fail"
    monkeypatch.setattr(doctor_checks, "CHECKS", (check_first, check_last))
    assert doctor.main(["--json", "+model=mini"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["counts"] == {"pass": 1, "warn": 1, "fail": 0}
    assert content["checks"][1] == {"name": "last", "state": "warn", "found": "so so", "mend": "mend it"}
    assert doctor.main(["+modle=hallo"]) == 2
    assert "model" in capsys.readouterr().err
