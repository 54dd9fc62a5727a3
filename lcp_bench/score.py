"""`python -m lcp_bench.score VIDEOS --reference REAL`: score any folder of videos, made by anyone.

Clips are matched by the stem of their file names. What cannot be scored is named and counted, never left out.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.metric_config import METRICS

SETS = ("paper", "mini")
SEEDED = "seeded-v1"
NEED_REFERENCE = ("fvd", "fid", "efid")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
FORMATS = ("text", "json")
DEFAULT_BACKBONES = "weights/metrics"
DEFAULT_CACHE = "runs/.cache/features"
SHOWN = 3

Videos = dict[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """What to score.

    Attributes:
        videos: clip to its file.
        reference: the same clips' real videos, or None.
        baseline: the same clips made without acceleration (or by anything else to compare with), or None.
        metrics: names of `METRICS`, in this order.
        left_out: metric to why it is not computed.
        metric: set of networks: `paper`, `mini`, or `seeded-v1`, whose scores mean nothing.
        backbones: folder of weight files; None takes those that ship with the repository (`mini`).
        cache: folder of features.
        min_clips: Fréchet distances of fewer clips are null with a reason.
        identities: clip to the person in it, where known: intervals are then over people.
    """

    videos: Videos
    reference: Videos | None = None
    baseline: Videos | None = None
    metrics: tuple[str, ...] = METRICS
    left_out: dict[str, str]
    metric: str = "paper"
    backbones: Path | None = Path(DEFAULT_BACKBONES)
    cache: Path = Path(DEFAULT_CACHE)
    min_clips: int = 0
    identities: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 when something is missing or nothing has a value, 2 when wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("lcp_bench.score_run").setLevel(logging.INFO)
    try:
        options = _parser().parse_args(arguments)
        return _run(options)
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(
            f"{error.filename or 'a file'}: {error.strerror or error}; mend it and run the command again\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the command again to go on: features that were computed are kept\n")
        return 130


def _run(options: argparse.Namespace) -> int:
    request = make_request(options)
    out = None if options.out is None else _writable(Path(options.out))
    # Torch is imported from here on only: a wrong command answers at once.
    from lcp_bench.score_run import score_videos
    from lcp_bench.score_table import as_json, as_text, write_text

    report = score_videos(request)
    text = as_json(report) if options.format == "json" else as_text(report)
    if out is not None:
        write_text(out, text)
        text = f"{len(report.rows)} scores written to {out}\n"
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        sys.stderr.close()
    return 0 if any(row.score.value is not None for row in report.rows) else 1


def make_request(options: Any) -> ScoreRequest:
    """Check the command line and list the folders.

    Raises:
        ConfigError: a folder is absent, holds no video or two of one stem; no clip is in both folders; an unknown
            metric, or one that was asked for by name and lacks the folder it compares with.
    """
    videos = find_videos(options.videos, "VIDEOS")
    reference = None if options.reference is None else find_videos(options.reference, "--reference")
    baseline = None if options.baseline is None else find_videos(options.baseline, "--baseline")
    for name, other in (("--reference", reference), ("--baseline", baseline)):
        if other is not None and not videos.keys() & other.keys():
            raise ConfigError(
                f"no clip of VIDEOS is in {name}: clips are matched by file name without its ending, got "
                f"{_listed(videos)} and {_listed(other)}; rename the files so that they agree"
            )
    if options.seeded and options.backbones is not None:
        raise ConfigError("expected --backbones or --seeded, got both; --seeded needs no weight files")
    if options.seeded and options.metric != "paper":
        raise ConfigError("expected --metric or --seeded, got both; --seeded tries the published networks' path")
    lacking = _lacking(reference is not None, baseline is not None)
    asked = None if options.metrics is None else parse_metrics(options.metrics)
    refused = [name for name in asked or () if name in lacking]
    if refused:
        raise ConfigError(f"{refused[0]} {lacking[refused[0]]}; give the folder, or leave the metric out of --metrics")
    return ScoreRequest(
        videos=videos,
        reference=reference,
        baseline=baseline,
        metrics=asked or tuple(name for name in METRICS if name not in lacking),
        left_out={} if asked else lacking,
        metric=SEEDED if options.seeded else options.metric,
        backbones=_backbones(options),
        cache=Path(options.cache).expanduser(),
    )


def _backbones(options: Any) -> Path | None:
    default = None if options.metric == "mini" else DEFAULT_BACKBONES
    chosen = options.backbones or default
    return None if chosen is None else Path(chosen).expanduser()


def _lacking(has_reference: bool, has_baseline: bool) -> dict[str, str]:
    found = {}
    if not has_reference:
        found = dict.fromkeys(NEED_REFERENCE, "compares with real videos: it needs --reference VIDEOS")
        if not has_baseline:
            found["fidelity"] = "compares videos in pairs: it needs --baseline VIDEOS or --reference VIDEOS"
    return found


def parse_metrics(text: str) -> tuple[str, ...]:
    """Metrics of a comma-separated list, in the order of `METRICS`.

    >>> parse_metrics("sync, fvd")
    ('fvd', 'sync')

    Raises:
        ConfigError: an empty list or an unknown name.
    """
    names = [name for part in text.split(",") if (name := part.strip().lower())]
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"expected --metrics from {','.join(METRICS)}, got {name!r}{hint}")
    if not names:
        raise ConfigError(f"expected --metrics from {','.join(METRICS)}, got an empty list")
    return tuple(name for name in METRICS if name in names)


def find_videos(folder: str | Path, what: str) -> Videos:
    """The videos directly in a folder, by the stem of their file names; hidden files do not count.

    Args:
        folder: where they are.
        what: name of the argument, for messages.

    Raises:
        ConfigError: no such folder, no video in it, or two videos of one stem.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        kind = "a file" if root.is_file() else "nothing there"
        raise ConfigError(f"{what}: expected a folder of videos at {root}, got {kind}")
    found: Videos = {}
    try:
        paths = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError as error:
        problem = error.strerror or error
        raise ConfigError(f"{what}: {root} cannot be read ({problem}); check its permissions") from error
    for path in paths:
        if path.suffix.lower() not in VIDEO_SUFFIXES or path.is_dir():
            continue
        if path.stem in found:
            raise ConfigError(
                f"{what}: {root} holds two videos of clip {path.stem!r}: {found[path.stem].name} and {path.name}; "
                "keep one of them"
            )
        found[path.stem] = path
    if not found:
        below = next((path for suffix in VIDEO_SUFFIXES for path in sorted(root.glob(f"*/*{suffix}"))), None)
        hint = "" if below is None else f"; did you mean {below.parent}?"
        raise ConfigError(f"{what}: expected videos ({' '.join(VIDEO_SUFFIXES)}) in {root}, found none{hint}")
    return found


def _listed(videos: Videos) -> str:
    more = f" and {len(videos) - SHOWN} more" if len(videos) > SHOWN else ""
    return ", ".join(list(videos)[:SHOWN]) + more


def _writable(path: Path) -> Path:
    """Refuse an impossible place before hours of work."""
    path = path.expanduser()
    if path.is_dir() or not path.parent.is_dir():
        problem = "it is a folder" if path.is_dir() else f"the folder {path.parent} does not exist"
        raise ConfigError(f"--out: expected a file that can be written, got {path}: {problem}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lcp_bench.score",
        description="Score a folder of videos. Clips are matched between folders by file name without its ending.",
    )
    parser.add_argument("videos", metavar="VIDEOS", help="folder of the videos to score")
    parser.add_argument("--reference", metavar="VIDEOS", help="folder of the real videos: FVD, FID, E-FID, floor")
    parser.add_argument("--baseline", metavar="VIDEOS", help="folder to compare with: paired differences, fidelity")
    parser.add_argument("--metrics", metavar="NAMES", help=f"of {','.join(METRICS)} (default: all that are possible)")
    parser.add_argument("--metric", choices=SETS, default="paper", help="published networks, or the repository's small")
    parser.add_argument("--backbones", metavar="DIR", help=f"folder of weight files (default: {DEFAULT_BACKBONES})")
    parser.add_argument("--seeded", action="store_true", help="try the path without weight files; numbers are void")
    parser.add_argument("--cache", metavar="DIR", default=DEFAULT_CACHE, help="features (default: %(default)s)")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--out", metavar="FILE", help="write there instead of to the terminal")
    return parser


if __name__ == "__main__":
    sys.exit(main())
