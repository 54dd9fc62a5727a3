"""The form of a record's `quality`, and the checks it passes before the record is written or shown.

    quality = {"mini:1a2b3c4d": block, ...}    one block per set of metrics, settings and weights that scored the videos

    block = {set, asked, inputs, scores, protocols, created_utc, command_line, versions, git}
    block["scores"] = {"videos": {name: score}, "baseline": ..., "difference": ..., "reference": ...}

A score is `metrics.score.Score.as_dict()`: value, interval, n, direction, label, protocol hash, gaps by clip. What was
not computed is null with `<name>_reason` beside it. `inputs` says which videos were scored: a block is stale when these
or those of the unaccelerated twin have changed since. No torch here: the report reads it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lcp_bench.record_check import expect, is_int, is_number

SETS = ("mini", "paper")
SIDES = ("videos", "baseline", "difference", "reference")
"""The run's videos, its unaccelerated twin's, the paired difference of both, and the real videos (or their floor)."""
MINI = "mini"
_KEY = re.compile(r"(?:mini|paper):[0-9a-f]{8}")
_KEYS = ("set", "asked", "inputs", "scores", "protocols", "created_utc", "command_line", "versions", "git")
_SCORE = (
    *("name", "value", "unit", "direction", "n", "n_expected", "samples", "low", "high", "protocol", "label", "gaps"),
)


def block_scores(block: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Side, name and score of everything in a block that was computed, null values included."""
    for side in SIDES:
        for name, score in block["scores"].get(side, {}).items():
            if isinstance(score, Mapping):
                yield side, name, score


def check_quality(quality: Mapping[str, Any], where: str = "record.quality") -> None:
    """Check all blocks.

    Raises:
        StoreError: names the first field that is not as it must be.
    """
    for key, block in quality.items():
        place = f"{where}.{key}"
        expect(_KEY.fullmatch(key) is not None, place, "named SET:8 hex digits, as mini:1a2b3c4d", key)
        expect(isinstance(block, Mapping), place, "an object", block)
        for name in _KEYS:
            expect(name in block, place, f"an object with the key {name!r}", sorted(block))
        expect(
            block["set"] in SETS and key.startswith(block["set"]), f"{place}.set", "the set of its name", block["set"]
        )
        expect("videos" in block["inputs"], f"{place}.inputs", "an object with the key 'videos'", block["inputs"])
        expect(set(block["scores"]) <= set(SIDES), f"{place}.scores", f"of {SIDES}", sorted(block["scores"]))
        for side, name, score in block_scores(block):
            _check_score(score, block, f"{place}.scores.{side}.{name}")


def _check_score(score: Mapping[str, Any], block: Mapping[str, Any], where: str) -> None:
    for name in _SCORE:
        expect(name in score, where, f"a score with the key {name!r}", sorted(score))
    value, low, high = score["value"], score["low"], score["high"]
    expect(value is None or is_number(value), f"{where}.value", "a number or null", value)
    expect((low is None) == (high is None), where, "both ends of the interval or none", [low, high])
    if low is not None:
        expect(value is not None and low <= value <= high, where, "low <= value <= high", [low, value, high])
    counts = (score["n"], score["n_expected"])
    good = all(is_int(each) and each >= 0 for each in counts)
    expect(good and counts[0] <= counts[1], f"{where}.n", "a count of at most n_expected", counts)
    expect(value is None or counts[0] >= 1, f"{where}.n", "1 or more, because there is a value", counts[0])
    expect(score["direction"] in ("lower", "higher", "none"), f"{where}.direction", "lower, higher or none",
            score["direction"])  # fmt: skip
    expect(score["protocol"] in block["protocols"], f"{where}.protocol", "one of the block's protocols",
            score["protocol"])  # fmt: skip
    label = score["label"]
    expect(isinstance(label, str) and bool(label), f"{where}.label", "text", label)
    if block["set"] != MINI:
        expect(MINI not in label, f"{where}.label", "without 'mini', which only the set mini may carry", label)
