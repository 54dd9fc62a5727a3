"""`python -m lcp_bench.score_cost`: what each metric costs on this machine, per 100 clips, first and second time.

Every metric is measured in a process of its own, so that a peak of memory is its own: features of a few clips in an
empty cache, the same with the cache full, and the scores of 100 clips, whose features are those of the measured clips
repeated. Feature times are scaled to 100 clips; score times are of 100 clips as they are. The clips are drawn people
unless a folder is given. The record is one JSON file; measuring some metrics again replaces their rows only.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.metric_config import METRICS
from lcp_bench.provenance import git_state
from lcp_bench.score import find_videos

log = logging.getLogger(__name__)

SETS = ("mini", "seeded-v1")
DETECTOR = "s3fd"
"""Measured beside the metrics: with random weights it sees no faces, so the seeded `sync` tracks with the cascade."""
CLIPS, SECONDS, SIDE = 4, 2.4, 512
"""Drawn clips: long enough for a SyncNet track, as large as the published models' videos."""
RECORD, TABLE, DRAWN = "results/metric-cost.json", "docs/metric-cost.md", "runs/.cache/cost-clips"
SCHEMA = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 when something cannot be measured, 2 when the command is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    try:
        options = _parser().parse_args(arguments)
        if options.part is not None:
            return _part(options)
        return _measure(options)
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _measure(options: argparse.Namespace) -> int:
    parts = parse_parts(options.sets, options.metrics)
    videos = Path(options.videos) if options.videos else draw_clips(Path(DRAWN))
    clips = describe_clips(videos, drawn=not options.videos)
    path = Path(options.out)
    document = open_record(path, clips, options.threads)
    for name, metric in parts:
        log.info("%s %s: %d clips", name, metric, clips["n"])
        row = {**_in_own_process(name, metric, videos, options.threads), "git": git_state()}
        document["rows"] = [each for each in document["rows"] if (each["set"], each["metric"]) != (name, metric)]
        document["rows"].append(row)
        _save(path, document)
    table = Path(options.table)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(as_markdown(document), encoding="utf-8")
    sys.stdout.write(f"{len(document['rows'])} rows in {path}, table in {table}\n")
    return 0


def parse_parts(sets: str, metrics: str) -> list[tuple[str, str]]:
    """Sets and metrics as (set, metric), in a fixed order.

    >>> parse_parts("mini", "sync,fvd")
    [('mini', 'fvd'), ('mini', 'sync')]

    Raises:
        ConfigError: An unknown name, or nothing to measure.
    """
    chosen = [[word for part in text.split(",") if (word := part.strip())] for text in (sets, metrics)]
    for what, names, known in (("--sets", chosen[0], SETS), ("--metrics", chosen[1], (*METRICS, DETECTOR))):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigError(f"expected {what} from {','.join(known)}, got {unknown[0]!r}")
    found = [
        (name, metric)
        for name in SETS
        for metric in (*METRICS, DETECTOR)
        if name in chosen[0] and metric in chosen[1] and (metric != DETECTOR or name != "mini")
    ]
    if not found:
        raise ConfigError(f"expected something to measure, got --sets {sets} --metrics {metrics}; s3fd is seeded only")
    return found


def draw_clips(root: Path) -> Path:
    """Draw the default clips once; returns their folder."""
    from lcp_bench.data.synthetic.dataset import load_synthetic
    from lcp_bench.synthetic_config import SyntheticConfig

    load_synthetic(root, SyntheticConfig(family="synth_hdtf", people=CLIPS, seconds=SECONDS, image_size=SIDE))
    return root / "clips"


def describe_clips(folder: Path, *, drawn: bool) -> dict[str, Any]:
    """Number, frames and size of the clips: what the costs are of.

    Raises:
        ConfigError: No videos, or only one (pairs are needed).
        MediaError: A video cannot be read.
    """
    from lcp_bench.video import probe

    found = [probe(path) for path in find_videos(folder, "VIDEOS").values()]
    if len(found) < 2:
        raise ConfigError(f"expected at least two videos in {folder}, got {len(found)}; fidelity compares pairs")
    return {
        "n": len(found),
        "drawn": drawn,
        "mean_frames": sum(each.frames or 0 for each in found) / len(found),
        "sizes": sorted({f"{each.width}x{each.height}" for each in found}),
    }


def open_record(path: Path, clips: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The record so far, or an empty one.

    Raises:
        ConfigError: The file is of other clips, threads, or another machine: its rows would not belong together.
    """
    from lcp_bench.measure.clock import utc_now
    from lcp_bench.measure.device import device_state
    from lcp_bench.provenance import PACKAGES, versions

    device = device_state("cpu")
    document: dict[str, Any] = {
        "schema_version": SCHEMA,
        "what": "cost of each metric, per 100 clips",
        "command": "python -m lcp_bench.score_cost",
        "created_utc": utc_now(),
        "clips": dict(clips),
        "threads": threads,
        "device": device,
        "versions": versions((*PACKAGES, "torchmetrics")),
        "rows": [],
    }
    if not path.is_file():
        return document
    earlier = json.loads(path.read_text(encoding="utf-8"))
    now = (dict(clips), threads, device["label"])
    if (earlier.get("clips"), earlier.get("threads"), earlier.get("device", {}).get("label")) != now:
        raise ConfigError(f"{path} was measured with other clips or threads, or elsewhere; delete it, or name --out")
    return document | {"rows": earlier["rows"]}


def _save(path: Path, document: Mapping[str, Any]) -> None:
    from lcp_bench.score_table import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _in_own_process(name: str, metric: str, videos: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "lcp_bench.score_cost", str(videos), "--part", name, "--metrics", metric]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{name} {metric} cannot be measured: {done.stderr.strip()[-500:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _part(options: argparse.Namespace) -> int:
    """One metric, in this process."""
    import torch

    from lcp_bench.score_cost_part import measure_detector, measure_metric

    torch.set_num_threads(options.threads)
    videos = find_videos(options.videos, "VIDEOS")
    measure = measure_detector if options.metrics == DETECTOR else measure_metric
    sys.stdout.write(json.dumps(measure(options.part, options.metrics, videos), allow_nan=False) + "\n")
    return 0


def as_markdown(document: Mapping[str, Any]) -> str:
    """The record as a page: what was measured, the table, and how to read it."""
    clips, device = document["clips"], document["device"]
    order = (*METRICS, DETECTOR)
    rows = sorted(document["rows"], key=lambda row: (SETS.index(row["set"]), order.index(row["metric"])))
    kind = "drawn people" if clips["drawn"] else "clips of the user's"
    lines = [
        "# What the metrics cost",
        "",
        "Generated by `python -m lcp_bench.score_cost`; do not edit. The numbers are those of "
        "`results/metric-cost.json`.",
        "",
        f"Measured on {clips['n']} {kind} of {clips['mean_frames']:.0f} frames, {', '.join(clips['sizes'])} pixels, "
        f"and **scaled to 100 clips**; {device['label']}, torch {document['versions'].get('torch', '?')}. Seconds are "
        "of processor time, which other work on the machine hardly changes; the record has those of the clock too.",
        "",
        "| set | metric | features of 100 clips (s) | again, cached (s) | scores of 100 clips (s) | "
        "networks loaded (s) | peak memory (MB) | of which before the first clip (MB) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *map(_line, rows), "", *NOTES, ""])


NOTES = (
    "- *features*: decoding, faces where needed, the network; linear in clips and nearly so in frames.",
    "- *again, cached*: hashing the videos and reading their features, what every later score of the same videos pays.",
    "- *scores*: the value with its interval by resampling clips, at 100 clips and the protocol's own number of "
    "resamples; the features are those of the measured clips repeated, which costs what 100 different ones would.",
    "- *peak memory*: resident size of a process that does nothing else; Python with torch and the networks are in it.",
    "- `seeded-v1` has the published networks' sizes with random weights: the cost is theirs, the scores mean "
    "nothing. Its `sync` finds faces with the project's cascade; the published one runs S3FD on every frame instead, "
    "row `s3fd`, whose cost comes on top.",
    "- `fidelity` is PSNR, SSIM and LPIPS together.",
)


def _line(row: Mapping[str, Any]) -> str:
    def cell(key: str) -> str:
        value = row[key]
        return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"

    keys = ("features_cpu_s_per_100", "cached_cpu_s_per_100", "scores_cpu_s_at_100", "load_cpu_s")
    sizes = (row["peak_bytes"], row["loaded_bytes"])
    done = "" if row["n_ok"] == row["n"] else f" ({row['n_ok']} of {row['n']} clips scored)"
    cells = [row["set"], row["metric"] + done, *map(cell, keys), *(f"{size / 1e6:.0f}" for size in sizes)]
    return "| " + " | ".join(cells) + " |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.score_cost", description=__doc__.partition("\n")[0])
    parser.add_argument("videos", metavar="VIDEOS", nargs="?", help="folder of videos (default: draw some)")
    parser.add_argument("--sets", metavar="NAMES", default=",".join(SETS), help="default: %(default)s")
    parser.add_argument("--metrics", metavar="NAMES", default=",".join((*METRICS, DETECTOR)), help="default: all")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", default=RECORD, help="the record (default: %(default)s)")
    parser.add_argument("--table", metavar="FILE", default=TABLE, help="the table (default: %(default)s)")
    parser.add_argument("--part", choices=SETS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
