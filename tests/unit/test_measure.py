"""Clock, memory and device state on the CPU, and the CUDA paths against stand-ins."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lcp_bench.measure import clock, device, memory
from lcp_bench.measure.clock import Stopwatch, time_call


class _FakeTime:
    """A clock that moves only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


def test_stages_are_timed_apart_and_every_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, watch = _FakeTime(monkeypatch), Stopwatch("cpu")
    for seconds in (1.0, 2.0):
        with watch.stage("denoise"):
            fake.now += seconds
        with watch.stage("write"):
            fake.now += 0.5
        fake.now += 10.0  # between the stages: nobody's time
    assert watch.seconds() == {"denoise": [1.0, 2.0], "write": [0.5, 0.5]}
    assert watch.totals() == {"denoise": 3.0, "write": 1.0}
    watch.reset()
    assert watch.seconds() == {}


def test_a_failed_stage_leaves_no_sample_and_stages_do_not_nest() -> None:
    watch = Stopwatch("cpu")
    with pytest.raises(ValueError, match="boom"), watch.stage("encode"):
        raise ValueError("boom")
    with pytest.raises(RuntimeError, match="inside stage 'denoise'"), watch.stage("denoise"), watch.stage("encode"):
        pass
    assert watch.seconds() == {}
    with watch.stage("encode"):  # usable again after both errors
        pass
    assert list(watch.seconds()) == ["encode"]


class _FakeCuda:
    """Counts synchronisations; events take 250 ms from start to end."""

    def __init__(self) -> None:
        self.synchronised: list[str] = []
        self.recorded = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        owner = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: object) -> None:
                assert stream == "stream of cuda:0"
                owner.recorded += 1

            def elapsed_time(self, end: object) -> float:
                assert owner.synchronised, "events were read before the device had finished"
                return 250.0

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: owner.synchronised.append(str(device)))


def test_cuda_stages_use_events_and_one_synchronisation(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _FakeCuda()
    fake.install(monkeypatch)
    watch = Stopwatch("cuda:0")
    for _ in range(3):
        with watch.stage("denoise"):
            pass
    with watch.stage("write"):  # host work: host clock
        pass
    assert fake.synchronised == []
    assert fake.recorded == 6
    seconds = watch.seconds()
    assert seconds["denoise"] == [0.25, 0.25, 0.25]
    assert fake.synchronised == ["cuda:0"]
    assert len(seconds["write"]) == 1


def test_time_call_waits_for_the_device_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, cuda = _FakeTime(monkeypatch), _FakeCuda()
    cuda.install(monkeypatch)
    seen: list[int] = []

    def work() -> None:
        seen.append(len(cuda.synchronised))
        fake.now += 2.0

    assert time_call(work, "cuda:0") == 2.0
    assert seen == [1] and len(cuda.synchronised) == 2
    assert time_call(work) == 2.0 and len(cuda.synchronised) == 2


def test_utc_now_has_the_form_of_the_record() -> None:
    import re

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", clock.utc_now())


def test_host_peak_is_of_the_block() -> None:
    if memory.reset_host_peak() is not None:
        pytest.skip("the kernel does not let the peak be reset")
    ballast = np.ones(40_000_000)  # 320 MB, gone before the block
    del ballast
    with memory.MemoryScope("cpu") as small:
        pass
    with memory.MemoryScope("cpu") as big:
        ballast = np.ones(30_000_000)
        del ballast
    grown = big.peaks["host_peak_rss_bytes"] - small.peaks["host_peak_rss_bytes"]
    assert 150e6 < grown < 400e6
    assert small.peaks["host_scope"] == "block"
    assert small.peaks["device_peak_allocated_bytes"] is None
    assert "cpu" in small.peaks["device_peak_allocated_bytes_reason"]


def test_a_peak_that_cannot_be_reset_is_labelled_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "absent" / "clear_refs")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent" / "status")
    with memory.MemoryScope("cpu") as scope:
        pass
    assert scope.peaks["host_scope"] == "process"
    assert "cannot be reset" in scope.peaks["host_scope_reason"]
    assert scope.peaks["host_peak_rss_bytes"] > 10e6  # from getrusage


def test_device_peaks_are_reset_on_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: log.append("reset"))

    def allocated(device: object) -> int:
        log.append("read")
        return 7

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 9)
    with memory.MemoryScope("cuda") as scope:
        assert log == ["reset"]
    assert (scope.peaks["device_peak_allocated_bytes"], scope.peaks["device_peak_reserved_bytes"]) == (7, 9)
    assert log == ["reset", "read"]


def test_worst_takes_the_largest_and_the_weakest_label() -> None:
    first = {"host_peak_rss_bytes": 5, "host_scope": "block", "device_peak_allocated_bytes": 3}
    second = {
        "host_peak_rss_bytes": 4,
        "host_scope": "process",
        "host_scope_reason": "no",
        "device_peak_allocated_bytes": 8,
    }
    expected = {"host_peak_rss_bytes": 5, "host_scope": "process", "host_scope_reason": "no"}
    assert memory.worst([first, second]) == expected | {"device_peak_allocated_bytes": 8}
    assert memory.worst([second, first]) == expected | {"device_peak_allocated_bytes": 8}
    none = {"device_peak_allocated_bytes": None, "device_peak_allocated_bytes_reason": "cpu"}
    assert memory.worst([none, none]) == none
    with pytest.raises(ValueError, match="no scopes"):
        memory.worst([])


def test_device_state_of_this_machine() -> None:
    import torch

    state = device.device_state("cpu")
    assert state["type"] == "cpu"
    assert state["label"].startswith(state["cpu_model"]) and f"{torch.get_num_threads()} thread" in state["label"]
    assert state["torch"] == torch.__version__
    assert 1 <= state["cpu_count"] <= (os.cpu_count() or 1)
    assert state["memory_bytes"] > 1e8
    assert len(state["loadavg"]) == 3
    assert state["gpu"] is None and state["gpu_reason"] == "the run used cpu"


def _fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "580.95.05, 1755, 1980, 2619, 41, 118.02, 0, P0, 0x0000000000000044"
    _fake_smi(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; echo "{line}"')
    state: Any = device.nvidia_smi("GPU-1234")
    assert state["sm_clock_mhz"] == 1755 and state["temperature_c"] == 41 and state["driver"] == "580.95.05"
    assert state["throttle_reasons"] == ["sw_power_cap", "hw_thermal_slowdown"]
    assert (tmp_path / "asked").read_text().startswith("-i GPU-1234 --query-gpu=driver_version,clocks.sm,")


def test_an_older_driver_is_asked_by_its_own_field_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        'case "$*" in *clocks_event_reasons*) echo "Field is not a valid field to query." ; exit 2;; esac\n'
        'echo "470.1, 1410, 1410, 1215, 30, [N/A], [Not Supported], P0, 0x0000000000000001"'
    )
    _fake_smi(tmp_path, monkeypatch, script)
    state: Any = device.nvidia_smi("0")
    assert state["throttle_reasons"] == ["gpu_idle"]
    assert state["power_w"] is None and state["power_w_reason"] == "nvidia-smi said [N/A]"


def test_without_an_answer_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.nvidia_smi("0") == "nvidia-smi is not installed"
    _fake_smi(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    assert device.nvidia_smi("0") == "nvidia-smi ended with code 6: No devices were found"
    monkeypatch.setattr(device, "_SMI_TIMEOUT_S", 0.2)
    _fake_smi(tmp_path, monkeypatch, "exec sleep 20")
    assert device.nvidia_smi("0") == "nvidia-smi did not answer: TimeoutExpired"


def test_cuda_state_asks_for_the_gpu_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[str] = []
    properties = SimpleNamespace(name="NVIDIA H100", uuid="ab-cd", major=9, minor=0, total_memory=80_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def smi(gpu: str) -> str:
        asked.append(gpu)
        return "nvidia-smi is not installed"

    monkeypatch.setattr(device, "nvidia_smi", smi)
    state = device.device_state("cuda:0")
    assert asked == ["GPU-ab-cd"]
    assert state["type"] == "cuda" and state["label"] == "NVIDIA H100" and state["compute_capability"] == "9.0"
    assert state["gpu"] is None and state["gpu_reason"] == "nvidia-smi is not installed"
