"""The single checks of `python -m lcp_bench.doctor`. Each returns its lines; none raises for what it looks at."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from packaging.requirements import Requirement

from lcp_bench.assemble import describe_weights
from lcp_bench.config import RunConfig
from lcp_bench.data.face_parsing import find_parser
from lcp_bench.data.prepared import PREPARED
from lcp_bench.data.registry import load_dataset
from lcp_bench.doctor import Asked, Check, State
from lcp_bench.errors import ConfigError, DatasetError, LcpBenchError
from lcp_bench.measure.device import device_state
from lcp_bench.metric_config import METRICS
from lcp_bench.metric_sets import missing_backbones, needed, set_identity
from lcp_bench.model_config import MODEL_SIZES
from lcp_bench.models.weights.sources import REQUIRED, SOURCES
from lcp_bench.preflight import load_run_config
from lcp_bench.provenance import git_state
from lcp_bench.status_table import size
from lcp_bench.tracker import has_key
from metrics.errors import MetricError
from metrics.weights import FOLDER

INSTALL = "pip install -c constraints.txt -e ."
LOW_DISK, NO_DISK = 20 * 10**9, 10**9
LOW_SHARED = 2**30
SLOWED = frozenset(
    ("sw_power_cap", "hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
)
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def check_python(asked: Asked) -> list[Check]:
    """The interpreter, against what the package declares."""
    wanted = importlib.metadata.metadata("lcp-bench")["Requires-Python"] or ""
    found = f"Python {platform.python_version()}, {'needs ' + wanted if wanted else 'any'}"
    good = not wanted or Requirement(f"python{wanted}").specifier.contains(platform.python_version())
    return [Check("python", "pass" if good else "fail", found, "" if good else "make setup PYTHON=/path/to/python3.12")]


def check_packages(asked: Asked) -> list[Check]:
    """Required packages in the declared ranges, and which optional ones are there."""
    wanted = [Requirement(text) for text in importlib.metadata.requires("lcp-bench") or ()]
    base = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = []
    for each in base:
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{each.name} is {version}, needs {each.specifier}")
    found = f"{len(base) - len(wrong)} of {len(base)} as required; torch {torch.__version__}"
    line = Check("packages", "fail" if wrong else "pass", "; ".join([found, *wrong]), INSTALL if wrong else "")
    return [line, *_extras()]


def _extras() -> list[Check]:
    extras = {"wandb": "tracker", "submitit": "launchers", "insightface": "insightface"}
    there = [name for name in extras if importlib.util.find_spec(name)]
    missing = [name for name in extras if name not in there]
    said = f"{', '.join(there) or 'none'} installed" + (f"; without {', '.join(missing)}" if missing else "")
    return [Check("extras", "pass", said)]


def check_device(asked: Asked) -> list[Check]:
    """What computes, and whether it can run at its full clock now."""
    wanted = asked.config.run.device
    if not torch.cuda.is_available():
        if wanted == "cuda":
            return [Check("device", "fail", "run.device=cuda, but torch sees no GPU", "install a CUDA build of torch")]
        state = device_state("cpu")
        found = f"{state['cpu_model']}, {state['cpu_count']} usable CPUs, {size(state['memory_bytes'] or 0)}"
        if shutil.which("nvidia-smi"):
            mend = "install a CUDA build of torch; see the README's section GPU"
            return [Check("device", "warn", f"{found}; there is a GPU that this torch cannot use", mend)]
        return [Check("device", "pass", f"{found}; no GPU"), *_cpu_speed(state["loadavg"], state["cpu_count"])]
    state = device_state("cuda")
    found = f"{torch.cuda.device_count()} x {state['name']}, {size(state['device_memory_bytes'])}, CUDA {state['cuda']}"
    return [Check("device", "pass", found), *_gpu_speed(state)]


def _gpu_speed(state: dict[str, object]) -> list[Check]:
    gpu = state.get("gpu")
    if not isinstance(gpu, dict):
        return [Check("clocks", "warn", str(state.get("gpu_reason")), "install nvidia-smi to record clocks")]
    now, most = gpu.get("sm_clock_mhz"), gpu.get("sm_clock_max_mhz")
    reasons = sorted(set(gpu.get("throttle_reasons") or ()) & SLOWED)
    busy = (gpu.get("utilization_pct") or 0.0) > 10
    found = f"{now} of {most} MHz, {gpu.get('temperature_c')} C, {gpu.get('utilization_pct')} % busy"
    if reasons:
        return [
            Check("clocks", "warn", f"{found}; slowed by {', '.join(reasons)}", "cool it, or raise its power limit")
        ]
    if busy:
        return [Check("clocks", "warn", f"{found}; something else computes", "end it before timing; see nvidia-smi")]
    return [Check("clocks", "pass", found)]


def _cpu_speed(loadavg: list[float] | None, cpus: int) -> list[Check]:
    governor = GOVERNOR.read_text().strip() if GOVERNOR.is_file() else "not told"
    load = loadavg[0] if loadavg else 0.0
    found = f"load {load:.1f} on {cpus} CPUs, governor {governor}"
    if load > 0.5 * cpus:
        return [Check("clocks", "warn", f"{found}; other work shifts times", "wait, or trust paired times only")]
    if governor not in ("performance", "not told", "schedutil"):
        return [Check("clocks", "warn", found, "cpupower frequency-set -g performance")]
    return [Check("clocks", "pass", found)]


def check_weights(asked: Asked) -> list[Check]:
    """Each model's trained weights, with the hash that a record carries."""
    return [_weights_of(name, asked) for name in MODEL_SIZES]


def _weights_of(name: str, asked: Asked) -> Check:
    is_asked = asked.needs("model") and asked.config.model.name == name
    paths = f"paths.weights={asked.config.paths.weights}"
    try:
        config = asked.config if is_asked else load_run_config([f"model={name}", "accel=none", paths])
    except ConfigError as error:
        return Check(f"weights {name}", "warn", str(error), "")
    if config.model.weights == "seeded":
        return Check(f"weights {name}", "pass", "seeded (random): speed only, no scores")
    state: State = "fail" if is_asked else "warn"
    mend = f"python -m lcp_bench.fetch +model={name}, or model.weights=seeded for speed only"
    if name == "mini":
        mend = "python -m lcp_bench.train +model=mini, or model.weights=seeded for speed only"
    try:
        label = describe_weights(config, torch.device("cpu"))
    except LcpBenchError as error:
        return Check(f"weights {name}", state, _how_many(name, config) or _first_part(error), mend)
    total = sum(int(file["bytes"]) for file in label.files)
    short = label.identity.partition(":")[2][:16]
    return Check(f"weights {name}", "pass", f"{len(label.files)} files, {size(total)}, {label.label}, sha256 {short}")


def _first_part(error: Exception) -> str:
    """What is wrong; what to do about it stands in its own column."""
    return str(error).splitlines()[0].partition(";")[0].partition(": expected")[0]


def _how_many(name: str, config: RunConfig) -> str:
    places = [file.place for file in SOURCES.get(name, ()) if file.group == REQUIRED]
    there = sum((Path(config.paths.weights) / place).is_file() for place in places)
    return f"{there} of {len(places)} files in {config.paths.weights}" if places and there < len(places) else ""


def check_metric_networks(asked: Asked) -> list[Check]:
    """The networks of both sets of metrics."""
    lines = []
    for name in ("mini", "paper"):
        is_asked = asked.needs("metric") and asked.config.metric.name == name
        folder = (
            None if name == "mini" else Path(asked.config.metric.backbones or f"{asked.config.paths.weights}/metrics")
        )
        wanted = needed(METRICS)
        missing = [] if folder is None else missing_backbones(wanted, folder)
        if missing:
            found = f"{len(wanted) - len(missing)} of {len(wanted)} in {folder}; without {', '.join(missing)}"
            state: State = "fail" if is_asked else "warn"
            lines.append(Check(f"metric {name}", state, found, f"python -m lcp_bench.fetch +metric={name}"))
            continue
        try:
            known = set_identity(name, METRICS, folder)
        except (MetricError, LcpBenchError, OSError) as error:
            lines.append(Check(f"metric {name}", "fail", str(error), f"python -m lcp_bench.fetch +metric={name}"))
            continue
        hashes = ", ".join(f"{file} {digest[:8]}" for file, digest in known.items())
        lines.append(
            Check(f"metric {name}", "pass" if known else "fail", hashes or "no files", "" if known else INSTALL)
        )
    return lines


def check_face_parser(asked: Asked) -> list[Check]:
    """What finds the foreground of portraits that bring none."""
    name, config = "face parser", asked.config
    try:
        parser = find_parser(
            config.dataset.face_parser, config.dataset.foreground_classes, Path(config.paths.weights) / FOLDER
        )
    except LcpBenchError as error:
        mend = f"python -m lcp_bench.fetch +parser={config.dataset.face_parser}, or dataset.face_parser=none"
        return [Check(name, "fail", _first_part(error), mend)]
    if parser is None:
        return [Check(name, "pass", "none: foreground attention takes given masks, else the widened face box")]
    return [Check(name, "pass", f"{parser.name}, {parser.classes}, sha256 {parser.sha256[:16]}")]


def check_data_sets(asked: Asked) -> list[Check]:
    """The data sets that need files of the user's own, and the one that the words name."""
    configs = {}
    for name in PREPARED:
        configs[name] = load_run_config(
            ["model=hallo", "accel=none", f"dataset={name}", f"paths.data={asked.config.paths.data}"]
        )
    if asked.needs("dataset") or any(group.startswith("dataset.") for group in asked.groups):
        configs[asked.config.dataset.name] = asked.config
    return [_data_set(name, config, asked) for name, config in configs.items()]


def _data_set(name: str, config: RunConfig, asked: Asked) -> Check:
    is_asked = config is asked.config
    try:
        manifest = load_dataset(config.dataset, config.paths)
    except (DatasetError, ConfigError) as error:
        command = f"python -m lcp_bench.prepare +dataset={name} ..." if name in PREPARED else "see the message"
        return Check(f"data {name}", "fail" if is_asked else "warn", _first_part(error), command)
    usable = [clip for clip in manifest.clips if clip.box is not None and clip.duration_s]
    total = len(manifest.clips) + len(manifest.skipped)
    found = f"{len(usable)} of {total} clips usable, manifest {manifest.sha256[:8]}"
    if len(usable) < total:
        return Check(f"data {name}", "warn", found, "each other clip's row says why; see the README's section Data")
    return Check(f"data {name}", "pass", found)


def check_folders(asked: Asked) -> list[Check]:
    """Where records go: space, permission, and locks that work."""
    runs = Path(asked.config.paths.runs)
    place = _existing(runs)
    usage = shutil.disk_usage(place)
    found = f"{size(usage.free)} free of {size(usage.total)} at {runs}"
    mend = "free some space, or choose paths.runs=..."
    state: State = "fail" if usage.free < NO_DISK else "warn" if usage.free < LOW_DISK else "pass"
    lines = [Check("disk", state, found, "" if state == "pass" else mend)]
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        why = f"{place}: {error.strerror or error}"
        return [
            *lines,
            Check("write, lock", "fail", why, "choose paths.runs=... on a disk with write access and flock"),
        ]
    return [*lines, Check("write, lock", "pass", f"{place} takes files and locks")]


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def check_shared_memory(asked: Asked) -> list[Check]:
    """What processes of one run share tensors through."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return [Check("shared memory", "warn", "no /dev/shm", "mount one for torchrun with several processes")]
    usage = shutil.disk_usage(place)
    found = f"{size(usage.free)} free of {size(usage.total)}"
    if usage.total < LOW_SHARED:
        return [Check("shared memory", "warn", found, "a container needs --shm-size=2g for several GPUs")]
    return [Check("shared memory", "pass", found)]


def check_codecs(asked: Asked) -> list[Check]:
    """The encoders that videos are written with, in the ffmpeg that PyAV brings."""
    from lcp_bench.video import encoder_library, missing_encoders

    missing = missing_encoders()
    found = f"{encoder_library()}, " + (f"without {', '.join(missing)}" if missing else "h264, aac")
    return [
        Check("codecs", "fail" if missing else "pass", found, "pip install 'av>=17' (its wheel)" if missing else "")
    ]


def check_tracker(asked: Asked) -> list[Check]:
    """W&B: whether it is there, and whether it will upload; nothing is sent."""
    is_asked = asked.config.tracker.name == "wandb"
    if importlib.util.find_spec("wandb") is None:
        state: State = "fail" if is_asked else "pass"
        return [
            Check("W&B", state, "not installed; only +tracker=wandb needs it", "pip install wandb" if is_asked else "")
        ]
    version = importlib.metadata.version("wandb")
    waiting = len(list(Path(asked.config.paths.runs).glob("*/wandb/offline-run-*")))
    found = f"wandb {version}, {'a key is set' if has_key() else 'no key, so offline'}; {waiting} offline runs"
    if is_asked and asked.config.tracker.mode == "online" and not has_key():
        return [Check("W&B", "warn", found, "wandb login, or tracker.mode=offline")]
    return [Check("W&B", "pass", found)]


def check_checkout(asked: Asked) -> list[Check]:
    """What records will say about the code."""
    state = git_state()
    if state["commit"] is None:
        return [Check("checkout", "warn", f"no commit: {state['commit_reason']}", "run from a git checkout")]
    if state["dirty"]:
        return [
            Check(
                "checkout", "warn", f"{state['commit'][:12]}, changed", "git commit, before numbers that are published"
            )
        ]
    return [Check("checkout", "pass", str(state["commit"][:12]))]


def check_cluster(asked: Asked) -> list[Check]:
    """Whether jobs can be submitted from here."""
    if shutil.which("sbatch") is None:
        return [Check("cluster", "pass", "no Slurm here; sweeps run on this machine")]
    if importlib.util.find_spec("submitit") is None or importlib.util.find_spec("hydra_plugins") is None:
        return [Check("cluster", "warn", "sbatch is there, submitit is not", f"{INSTALL[:-1]}'.[launchers]'")]
    partition = os.environ.get("SLURM_JOB_ID", "")
    return [Check("cluster", "pass", "Slurm and submitit" + (f", inside job {partition}" if partition else ""))]


CHECKS: tuple[Callable[[Asked], list[Check]], ...] = (
    check_python, check_packages, check_checkout, check_device, check_weights, check_metric_networks, check_face_parser,
    check_data_sets, check_folders, check_shared_memory, check_codecs, check_tracker, check_cluster,
)  # fmt: skip
