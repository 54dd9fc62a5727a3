"""The unaccelerated twin of a run: the run with `accel=none` that is equal in all else that decides its videos."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcp_bench.provenance import redact, tidy_paths
from lcp_bench.quality_block import videos_digest
from lcp_bench.record import Record, canonical_json, run_id
from lcp_bench.store import RunStore, list_records

NOT_VIDEOS = ("accel", "measure", "processes")
"""Parts of an identity that twins may differ in: the strategy, what is timed, and how many devices share its work."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A run to compare with.

    Attributes:
        store: Where its videos are.
        digest: Of its finished clips' frames, see `quality_block.videos_digest`.
    """

    store: RunStore
    digest: str

    def as_dict(self) -> dict[str, str]:
        """For a block's `inputs`."""
        return {"run_id": self.store.run_id, "videos": self.digest}


def find_twin(
    identity: Mapping[str, Any], baseline: Mapping[str, Any], runs: Path, clips: Sequence[str]
) -> Twin | None:
    """The twin below a folder of runs, or None; of several the latest, those timed alike first.

    Args:
        identity: Of the accelerated run.
        baseline: The unaccelerated strategy, as an identity's `accel`.
        runs: Folder of all runs.
        clips: Ids of the clips to compare.
    """
    wanted = {**identity, "accel": dict(baseline)}
    exact = RunStore(runs, run_id(wanted))
    record = exact.read_record()
    if record is not None and record["clips"]["n_ok"]:
        return Twin(exact, videos_digest(exact.rows(), clips))
    found = [
        (record["created_utc"], run.run_id)
        for run in list_records(runs)
        if (record := run.record) is not None and record["clips"]["n_ok"] and _same_videos(record, wanted)
    ]
    if not found:
        return None
    store = RunStore(runs, max(found)[1])
    return Twin(store, videos_digest(store.rows(), clips))


def _same_videos(record: Record, wanted: Mapping[str, Any]) -> bool:
    own = record["identity"]
    if canonical_json(own.get("accel")) != canonical_json(wanted["accel"]):
        return False
    return _without(own) == _without(wanted)


def _without(identity: Mapping[str, Any]) -> str:
    return canonical_json({key: value for key, value in identity.items() if key not in NOT_VIDEOS})


def twin_command(overrides: Sequence[str]) -> str:
    """The command that makes the twin of a run, from the words that made the run."""
    words = [word.lstrip("+") for word in overrides if not word.lstrip("+").startswith(("accel=", "accel."))]
    spelt = [f"+{word}" if word.startswith("model=") else word for word in words]
    chosen = [word for word in spelt if word.startswith("+")]
    rest = [tidy_paths(redact(word)) for word in spelt if not word.startswith("+")]
    return shlex.join(["python", "-m", "lcp_bench", *chosen, "+accel=none", *rest])
