"""`python -m lcp_bench.score_compare LABEL=FOLDER ... --reference REAL`: several folders of videos in one table.

Every folder is scored against the same real videos with the same networks, so that a row can be judged by its
neighbours: the unaccelerated model beside re-rolls of the real clips, damaged copies and accelerated runs. A column
holds one score under one protocol; a cell names its interval, and its n where that is not the column's.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.metric_config import METRICS
from lcp_bench.metric_sets import MINI, PAPER, metric_set
from lcp_bench.provenance import command_line, git_state, tidy_paths
from lcp_bench.score import Videos, find_videos
from metrics.cache import FeatureCache
from metrics.errors import MetricError
from metrics.metric import FrechetMetric, Metric
from metrics.score import Score

SETS = (MINI, PAPER)
NAMES = tuple(name for name in METRICS if name != "fidelity")
"""Fidelity needs a partner per video and is part of a run's record."""
ARROWS = {"lower": "↓", "higher": "↑", "none": ""}
REAL = "real"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One folder's scores, in the order of the columns."""

    label: str
    scores: tuple[Score, ...]


def compare(
    sources: Mapping[str, Videos], reference: Videos, metrics: Mapping[str, Metric], cache: FeatureCache
) -> list[ComparedRow]:
    """Score every source against the real videos of the same names.

    Args:
        sources: Label to the videos by clip.
        reference: The real videos by clip.
        metrics: The metrics, with their networks.
        cache: Where features are kept.

    Returns:
        A row per source, then one for the real videos: their own scores, and as a Fréchet distance the floor.
    """
    found: dict[str, list[Score]] = {label: [] for label in (*sources, REAL)}
    for metric in metrics.values():
        real = metric.features(dict(sorted(reference.items())), cache)
        for label, videos in sources.items():
            folder = next(iter(videos.values())).parent
            files = {clip: videos.get(clip, folder / f"{clip}.mp4") for clip in sorted({*videos, *reference})}
            found[label] += metric.scores(metric.features(files, cache), real)
        found[REAL] += [metric.floor(real)] if isinstance(metric, FrechetMetric) else metric.scores(real)
    return [ComparedRow(label, tuple(scores)) for label, scores in found.items()]


def as_markdown(rows: Sequence[ComparedRow], clips: int) -> str:
    """The table, with what stands above and below it."""
    columns = rows[0].scores
    titles = ["", *(f"{score.name} {ARROWS[score.direction]}".rstrip() for score in columns)]
    lines = [
        f"{clips} real clips; label `{columns[0].label}`; mean or distance with its {columns[0].interval.level:.0%} "
        "interval over clips.",
        "",
        "| " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    lines += [f"| {row.label} | " + " | ".join(_cell(score, clips) for score in row.scores) + " |" for row in rows]
    lines += ["", "Protocols: " + ", ".join(f"{score.name} `{score.protocol[:12]}`" for score in columns) + "."]
    return "\n".join(lines) + "\n"


def _cell(score: Score, clips: int) -> str:
    if score.value is None:
        return f"n/a ({score.reason})"
    text = f"{score.value:.4g}"
    if score.interval.low is not None and score.interval.high is not None:
        text += f" [{score.interval.low:.4g}, {score.interval.high:.4g}]"
    return text if score.n == clips else f"{text} n={score.n}"


def as_json(rows: Sequence[ComparedRow], clips: int) -> str:
    """The same with every note, gap and hash."""
    document: dict[str, Any] = {
        "schema_version": 1,
        "command_line": command_line(),
        "git": git_state(),
        "clips": clips,
        "rows": [{"label": row.label, "scores": [_tidied(score.as_dict()) for score in row.scores]} for row in rows],
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _tidied(block: dict[str, Any]) -> dict[str, Any]:
    return block | {"gaps": [gap | {"message": tidy_paths(gap["message"])} for gap in block["gaps"]]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.score_compare", description=__doc__)
    parser.add_argument("sources", nargs="+", metavar="LABEL=FOLDER", help="folders of videos, one row each")
    parser.add_argument("--reference", required=True, metavar="FOLDER", help="folder of the real videos")
    parser.add_argument("--metric", choices=SETS, default=MINI)
    parser.add_argument("--metrics", default=",".join(NAMES), metavar="NAMES", help=f"of {','.join(NAMES)}")
    parser.add_argument("--backbones", type=Path, help="folder of weight files; mini has its own")
    parser.add_argument("--cache", type=Path, default=Path("runs/.cache/features"))
    parser.add_argument("--out", type=Path, help="write the markdown there, and the JSON beside it")
    return parser


def _sources(words: Sequence[str]) -> dict[str, Videos]:
    sources: dict[str, Videos] = {}
    for word in words:
        label, separator, folder = word.partition("=")
        if not separator or not label or not folder:
            raise ConfigError(f"expected LABEL=FOLDER, got {word!r}")
        if label in sources or label == REAL:
            raise ConfigError(f"the label {label!r} is taken; give every folder its own")
        sources[label] = find_videos(folder, label)
    return sources


def run(options: argparse.Namespace) -> str:
    """Score and write; returns what to show.

    Raises:
        ConfigError: Wrong words.
        MetricError: Networks are missing, or a folder cannot be scored.
    """
    names = options.metrics.split(",")
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise ConfigError(f"--metrics takes {', '.join(NAMES)}, got {', '.join(unknown)}")
    sources, reference = _sources(options.sources), find_videos(options.reference, "reference")
    metrics = metric_set(options.metric, names, options.backbones)
    rows = compare(sources, reference, metrics, FeatureCache(options.cache))
    text = as_markdown(rows, len(reference))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
        options.out.with_suffix(".json").write_text(as_json(rows, len(reference)), encoding="utf-8")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (0 done, 1 failed, 2 bad command, 130 interrupted)."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        sys.stdout.write(run(_parser().parse_args(arguments)))
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except (MetricError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; features that are done are kept\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
