"""Loading a data set that `python -m lcp_bench.prepare` made."""

from __future__ import annotations

from pathlib import Path

from lcp_bench.data.manifest import Manifest, load
from lcp_bench.errors import DatasetError

MANIFEST = "manifest.lcp.jsonl"
PREPARED = ("hdtf", "mead")
"""Data sets that have to be prepared."""
COMMANDS = {
    "hdtf": "python -m lcp_bench.prepare +dataset=hdtf annotations=FOLDER sources=FOLDER",
    "mead": "python -m lcp_bench.prepare +dataset=mead sources=FOLDER",
}


def load_prepared(name: str, root: str | Path) -> Manifest:
    """The frozen manifest of a prepared data set.

    Args:
        name: `hdtf` or `mead`.
        root: The folder that was prepared.

    Returns:
        The manifest; every clip has `video` set, and `audio` to the same sound as a wav.

    Raises:
        DatasetError: Not prepared, not finished, another data set, or changed since.
    """
    place = Path(root).resolve()
    path = place / MANIFEST
    command = f"{COMMANDS[name]} dataset.root={place}"
    if not path.is_file():
        begun = len(list(place.glob("cuts/*.json")))
        state = f"its preparation was begun ({begun} clips are cut)" if begun else "it was not prepared"
        raise DatasetError(f"{place} is no {name} data set, {state}: expected {path}; run\n  {command}")
    manifest = load(path, place)
    if manifest.dataset != name:
        raise DatasetError(
            f"{path} lists the data set {manifest.dataset!r}, expected {name!r}; use +dataset={manifest.dataset}, or "
            f"prepare another folder: {command}"
        )
    return manifest
