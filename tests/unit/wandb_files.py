"""Reading W&B's offline files back, for tests."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DECODE = (
    "import sys, json; from wandb.proto import wandb_internal_pb2 as pb\n"
    "from google.protobuf.json_format import MessageToDict\n"
    "for line in sys.stdin.buffer.read().split(b'\\n\\n--\\n\\n'):\n"
    "    r = pb.Record(); r.ParseFromString(line); print(json.dumps(MessageToDict(r)))\n"
)
"""A process of its own: importing the client warns, and must not change this process."""


def read_back(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and summary of a run's `.wandb` file."""
    decoded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DECODE],
        input=b"\n\n--\n\n".join(log_entries(path)), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for line in decoded.stdout.splitlines():
        entry = json.loads(line)
        for item in entry.get("run", {}).get("config", {}).get("update", []):
            config[item["key"]] = json.loads(item["valueJson"])
        for item in entry.get("summary", {}).get("update", []):
            summary[item.get("key") or "/".join(item["nestedKey"])] = json.loads(item["valueJson"])
    return config, summary


def log_entries(path: Path) -> Iterator[bytes]:
    """The entries of a W&B file: a LevelDB log (32 KiB blocks, 7-byte chunk headers) behind a 7-byte file header."""
    block, header = 32768, struct.Struct("<IHB")
    data, position, entry = path.read_bytes(), 7, b""
    while position + header.size <= len(data):
        room = block - position % block
        if room < header.size:
            position += room
            continue
        _, length, kind = header.unpack_from(data, position)
        if kind not in (1, 2, 3, 4):
            return
        position += header.size
        entry = (entry if kind in (3, 4) else b"") + data[position : position + length]
        position += length
        if kind in (1, 4):
            yield entry
