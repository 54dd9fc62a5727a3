"""Convert a published weight file into safetensors, once, in a process of its own that has no network and no secrets.

Published files are pickles or TorchScript archives. A pickle is read as plain tensors only (`weights_only=True`); a
TorchScript archive is a program, and is opened here and nowhere else. What comes out is a file of plain tensors, with
the checksums of its source in its metadata.

    python -m lcp_bench.fetch_convert '{"source": ..., "target": ..., "entry": ..., "metadata": {...}}'
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcp_bench.atomic import replacing
from lcp_bench.errors import WeightsError

NEW_USER, NEW_NET = 0x10000000, 0x40000000
"""Flags of unshare(2): namespaces without any right outside, and without any network device."""
BLOCKED = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethost")
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "SYSTEMROOT")
TIMEOUT_S = 600.0


def convert(source: Path, target: Path, metadata: Mapping[str, str], entry: str | None = None) -> None:
    """Write the tensors of a published file to `target`, in a separate process.

    Args:
        source: the published file, already verified.
        target: a `.safetensors` file; appears as a whole or not at all.
        metadata: what the new file says about its source.
        entry: name of the state dict where the file holds several.

    Raises:
        WeightsError: the file cannot be read as tensors.
    """
    task = {"source": str(source), "target": str(target), "metadata": dict(metadata), "entry": entry}
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HOME": str(target.parent)}
    command = [sys.executable, "-m", "lcp_bench.fetch_convert", json.dumps(task)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{source} was not converted within {TIMEOUT_S:.0f} s; try it again") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise WeightsError(f"{source} cannot be converted: {said[-1] if said else f'code {done.returncode}'}")


def cut_network() -> bool:
    """Take this process's network away, for good.

    Where the system allows it the process leaves the network's namespace; in any case Python refuses to connect.

    Returns:
        Whether the system took part.
    """

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(BLOCKED):
            raise PermissionError(f"a weight file is being converted: no network ({event})")

    sys.addaudithook(refuse)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return any(libc.unshare(flags) == 0 for flags in (NEW_NET, NEW_USER | NEW_NET))
    except (OSError, AttributeError):
        return False


def read_tensors(path: Path, entry: str | None) -> dict[str, Any]:
    """Name to tensor of a pickle or TorchScript file.

    Raises:
        WeightsError: neither, or not a state dict.
    """
    import torch

    from metrics.errors import MetricError
    from metrics.weights import read_state

    if not is_torchscript(path):
        try:
            return dict(read_state(path, entry)[0])
        except MetricError as error:
            raise WeightsError(str(error)) from error
    try:
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise WeightsError(
            f"{path} is no TorchScript archive that torch reads: {str(error).splitlines()[0]}"
        ) from error
    return dict(module.state_dict())


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with constants and code beside its data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def _work(task: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    target = Path(task["target"])
    tensors = read_tensors(Path(task["source"]), task["entry"])
    # Cloned, because safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(target) as partial:
        save_file(plain, partial, dict(task["metadata"]))


def main() -> int:
    """The separate process; returns its exit code."""
    cut_network()
    try:
        _work(json.loads(sys.argv[1]))
    except (WeightsError, OSError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
