"""Scores as text for people and as JSON for programs; what was measured differently never stands in one block."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lcp_bench.atomic import replacing
from lcp_bench.errors import StoreError
from lcp_bench.measure.clock import utc_now
from lcp_bench.provenance import PACKAGES, command_line, git_state, tidy_paths, versions
from lcp_bench.score_run import ScoreReport, ScoreRow
from metrics.score import Score

SCHEMA_VERSION = 1
BETTER = {"lower": "lower is better", "higher": "higher is better", "none": "no direction"}


def as_dict(report: ScoreReport) -> dict[str, Any]:
    """The report as JSON values.

    Returns:
        `schema_version`, `created_utc`, `command_line`, `versions`, `git`, `clips`, `warnings`, `left_out`,
        `protocols` (hash to all fields), and `scores`: each `Score.as_dict()` with `of`, what it is a score of.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "created_utc": utc_now(),
        "command_line": command_line(),
        "versions": versions((*PACKAGES, "torchmetrics")),
        "git": git_state(),
        "clips": report.clips,
        "warnings": list(report.warnings),
        "left_out": [{"metric": name, "reason": tidy_paths(why)} for name, why in report.left_out.items()],
        "protocols": {key: protocol.as_dict() for key, protocol in report.protocols.items()},
        "scores": [{"of": row.of, **_tidied(row.score.as_dict())} for row in report.rows],
    }


def _tidied(block: dict[str, Any]) -> dict[str, Any]:
    gaps = [gap | {"message": tidy_paths(gap["message"])} for gap in block["gaps"]]
    return block | {"gaps": gaps}


def as_json(report: ScoreReport) -> str:
    """One JSON document with a line break at its end; NaN and infinity cannot occur in it."""
    return json.dumps(as_dict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def as_text(report: ScoreReport) -> str:
    """One block per name, protocol and n, so that no two numbers stand under each other that cannot be compared."""
    parts = [f"WARNING: {warning}" for warning in report.warnings]
    parts += [_block(rows, report.warnings) for rows in _blocks(report.rows)]
    parts += _gaps(report.rows)
    if report.left_out:
        lines = [f"  {name}: {why}" for name, why in report.left_out.items()]
        parts.append("\n".join(["not computed", *lines]))
    return "\n\n".join(parts) + "\n"


def _blocks(rows: Sequence[ScoreRow]) -> Iterable[list[ScoreRow]]:
    found: dict[tuple[str, str, int], list[ScoreRow]] = {}
    for row in rows:
        found.setdefault((row.score.name, row.score.protocol, row.score.n), []).append(row)
    return found.values()


def _block(rows: Sequence[ScoreRow], warnings: Sequence[str]) -> str:
    first = rows[0].score
    heading = f"{first.name} ({first.unit}; {BETTER[first.direction]})  n = {first.n}  protocol {first.protocol}"
    width = max(len(row.of) for row in rows)
    lines = [f"{heading}  backbones: {first.label}"]
    lines += [f"  {row.of:<{width}}  {_number(row.score)}" for row in rows]
    notes: dict[str, None] = {}
    for row in rows:
        if row.score.interval.low is None and row.score.value is not None:
            notes[f"no interval of {row.of}: {row.score.interval.reason}"] = None
        notes |= dict.fromkeys(f"note: {note}" for note in row.score.notes if note not in warnings)
    return "\n".join([*lines, *(f"    {note}" for note in notes)])


def _gaps(rows: Sequence[ScoreRow]) -> list[str]:
    """Each clip that does not count, why, and in which scores."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for clip, gap in row.score.gaps.items():
            found.setdefault((clip, gap.reason, gap.message), []).append(f"{row.score.name} of {row.of}")
    if not found:
        return []
    lines = [
        f"  {clip} ({reason}): {message}\n      in {', '.join(scores)}"
        for (clip, reason, message), scores in sorted(found.items())
    ]
    return ["\n".join(["clips that do not count", *lines])]


def _number(score: Score) -> str:
    counts = f"{score.n} of {score.n_expected} clips, {score.samples} samples"
    if score.n < score.n_expected:
        counts += "  PARTIAL"
    if score.value is None:
        return f"n/a: {score.reason}  ({counts})"
    ends = ""
    if score.interval.low is not None and score.interval.high is not None:
        percent = f"{100 * score.interval.level:.0f} %"
        ends = f" [{score.interval.low:.5g}, {score.interval.high:.5g}] {percent}"
    return f"{score.value:.5g}{ends}  {counts}"


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees all of it or what was there before.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror or error}); name another file") from error
