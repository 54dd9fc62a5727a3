"""What the numbers were measured on: device, threads, and the state (load, clocks, heat) at that moment."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SMI_TIMEOUT_S = 5.0
_SMI_FIELDS = {
    "driver_version": "driver",
    "clocks.sm": "sm_clock_mhz",
    "clocks.max.sm": "sm_clock_max_mhz",
    "clocks.mem": "memory_clock_mhz",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
    "utilization.gpu": "utilization_pct",
    "pstate": "pstate",
}
# Renamed in driver 535; older drivers know the second name only.
_THROTTLE_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# NVML's nvmlClocksEventReasons bits.
_THROTTLE_BITS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


def device_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The device and its state now; call it outside timed work (it asks `nvidia-smi`, up to 10 s).

    Returns:
        `type`, `name`, `label` (what must be equal for two runs to share a table: the GPU's name, or the CPU's name
        with the number of threads), `torch`, `threads`, `interop_threads`, `cpu_model`, `cpu_count` (usable by this
        process), `memory_bytes` (host), `loadavg` (1, 5, 15 min), `float32_matmul_precision`, and on CUDA `cuda`,
        `compute_capability`, `device_memory_bytes` and `gpu` (clocks, temperature, `throttle_reasons`). What cannot
        be had is null with `<name>_reason`.
    """
    import torch

    kind = str(device).split(":")[0]
    cpu, threads = cpu_model(), torch.get_num_threads()
    state: dict[str, Any] = {
        "type": kind,
        "name": cpu,
        "label": f"{cpu}, {threads} thread{'s' if threads != 1 else ''}",
        "torch": torch.__version__,
        "threads": threads,
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_model": cpu,
        "cpu_count": _usable_cpus(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        **_optional("memory_bytes", _host_memory_bytes(), "the system does not tell its memory"),
        **_optional("loadavg", _loadavg(), "the system keeps no load average"),
    }
    if kind == "cuda":
        return state | _cuda_state(torch.device(device))
    return state | {"gpu": None, "gpu_reason": f"the run used {kind}"}


def across(state: dict[str, Any], processes: int) -> dict[str, Any]:
    """The state of several equal devices that work together, given the first one's: `label` says how many they are."""
    if processes == 1:
        return state
    return state | {"label": f"{processes} x {state['label']}", "processes": processes}


def _cuda_state(device: torch.device) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    gpu = nvidia_smi(f"GPU-{uuid}") if uuid is not None else "this torch does not tell the GPU's uuid"
    return {
        "name": properties.name,
        "label": properties.name,
        **_optional("cuda", torch.version.cuda, "torch was built without CUDA"),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "device_memory_bytes": properties.total_memory,
        **(_optional("gpu", None, gpu) if isinstance(gpu, str) else {"gpu": gpu}),
    }


def nvidia_smi(gpu: str) -> dict[str, Any] | str:
    """Clocks, temperature and throttle reasons of one GPU, or the reason why they cannot be had.

    Args:
        gpu: what `nvidia-smi -i` takes, preferably the uuid: indices ignore CUDA_VISIBLE_DEVICES.
    """
    reason = ""
    for throttle in _THROTTLE_FIELDS:
        answer = _query(gpu, [*_SMI_FIELDS, throttle])
        if isinstance(answer, list):
            return _parse(answer)
        reason = answer
    return reason


def _query(gpu: str, fields: list[str]) -> list[str] | str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "nvidia-smi is not installed"
    command = [program, "-i", gpu, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi did not answer: {type(error).__name__}"
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode != 0 or len(values) != len(fields):
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0]
        return f"nvidia-smi ended with code {done.returncode}: {said}"
    return values


def _parse(values: list[str]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, text in zip(_SMI_FIELDS.values(), values[:-1], strict=True):
        if name in ("driver", "pstate"):
            state[name] = text
            continue
        try:
            state[name] = float(text)
        except ValueError:
            state |= _optional(name, None, f"nvidia-smi said {text}")
    try:
        mask = int(values[-1], 16)
    except ValueError:
        return state | _optional("throttle_reasons", None, f"nvidia-smi said {values[-1]}")
    state["throttle_reasons"] = [name for bit, name in _THROTTLE_BITS.items() if mask & bit]
    return state


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass  # not Linux: the portable source below
    return platform.processor() or platform.machine() or "unknown CPU"


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _host_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _loadavg() -> list[float] | None:
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except OSError:
        return None


def _optional(name: str, value: Any, reason: str) -> dict[str, Any]:
    return {name: value} if value is not None else {name: None, f"{name}_reason": reason}
