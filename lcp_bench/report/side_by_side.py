"""`python -m lcp_bench.report.side_by_side`: videos of the same clips next to each other, in step, to be looked at.

Takes the videos of all records of a folder, or any folders of videos with equal names, and writes one video per clip
with a labelled column per source, and on demand a contact sheet of stills.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.store import list_records
from lcp_bench.video import probe, read_video, write_video

log = logging.getLogger(__name__)

Frames = NDArray[np.uint8]
SIDE_PX = 192
"""Columns are enlarged to at least this; small pictures cannot be judged."""
LABEL_PX = 18
GAP_PX = 4
PAPER = 255


def find_sources(runs: Path | None, named: Sequence[str], real: Path | None) -> dict[str, Path]:
    """Label to folder of videos, in the order of the columns.

    Args:
        runs: Folder of records; every finished one is a column under its strategy's name.
        named: Further `LABEL=FOLDER`.
        real: Folder of the real videos, the first column.

    Raises:
        ConfigError: A word without `=`, or one label for two sources.
    """
    found: list[tuple[str, Path]] = [] if real is None else [("real", real)]
    for run in list_records(runs) if runs is not None else []:
        if run.record is not None:
            found.append((str(run.record["accel"]["name"]), Path(run.path) / "clips"))
    for word in named:
        label, separator, folder = word.partition("=")
        if not separator or not label or not folder:
            raise ConfigError(f"expected LABEL=FOLDER, got {word!r}")
        found.append((label, Path(folder)))
    labels = [label for label, _ in found]
    doubled = sorted({label for label in labels if labels.count(label) > 1})
    if doubled:
        raise ConfigError(f"one label for several sources: {', '.join(doubled)}; name them: LABEL=RUN/clips ...")
    if not found:
        raise ConfigError("nothing to show: give --runs DIR with finished runs, or LABEL=FOLDER words")
    return dict(found)


def common_clips(sources: Mapping[str, Path]) -> list[str]:
    """Names of the videos that every source has, sorted.

    Raises:
        ConfigError: There are none.
    """
    names = [{path.stem for path in folder.glob("*.mp4")} for folder in sources.values()]
    shared = sorted(set.intersection(*names))
    if not shared:
        counts = ", ".join(f"{label}: {len(found)}" for label, found in zip(sources, names, strict=True))
        raise ConfigError(f"expected videos of equal names in all folders, found none in common ({counts})")
    return shared


def join(columns: Mapping[str, Frames]) -> Frames:
    """Labelled columns next to each other.

    Args:
        columns: Label to uint8 (frames, H, W, 3); longer ones are cut to the shortest.

    Returns:
        uint8 (frames, height, width, 3), both sides even.
    """
    length = min(frames.shape[0] for frames in columns.values())
    parts = [_column(label, frames[:length]) for label, frames in columns.items()]
    height = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 0), (0, height - part.shape[1]), (0, 0), (0, 0)), constant_values=PAPER) for part in parts
    ]
    joined = np.concatenate(padded, axis=2)
    odd = ((0, 0), (0, joined.shape[1] % 2), (0, joined.shape[2] % 2), (0, 0))
    return np.pad(joined, odd, constant_values=PAPER)


def _column(label: str, frames: Frames) -> Frames:
    enlarged = _enlarged(frames)
    strip = _label(label, enlarged.shape[2])
    column = np.concatenate([np.broadcast_to(strip, (len(frames), *strip.shape)), enlarged], axis=1)
    return np.pad(column, ((0, 0), (0, 0), (0, GAP_PX), (0, 0)), constant_values=PAPER)


def _enlarged(frames: Frames) -> Frames:
    factor = max(1, -(-SIDE_PX // frames.shape[2]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _label(text: str, width: int) -> Frames:
    image = Image.new("RGB", (width, LABEL_PX), (PAPER,) * 3)
    ImageDraw.Draw(image).text((2, 2), text, fill=(0, 0, 0), font=ImageFont.load_default(12))
    return np.asarray(image)


def contact_sheet(clips: Mapping[str, Mapping[str, Frames]], stills: int) -> Image.Image:
    """Stills of every source of every clip: a block per clip, a row per source, time from left to right.

    Args:
        clips: Clip to label to uint8 (frames, H, W, 3).
        stills: Pictures per row, evenly spaced.
    """
    rows = []
    for clip, columns in clips.items():
        for label, frames in columns.items():
            chosen = np.linspace(0, len(frames) - 1, stills).round().astype(int)
            strip = np.concatenate(list(frames[chosen]), axis=1)
            rows.append(np.concatenate([_label(f"{clip}  {label}", strip.shape[1]), strip], axis=0))
    width = max(row.shape[1] for row in rows)
    return Image.fromarray(
        np.concatenate(
            [np.pad(row, ((0, GAP_PX), (0, width - row.shape[1]), (0, 0)), constant_values=PAPER) for row in rows]
        )
    )


def write_all(
    sources: Mapping[str, Path], clips: Sequence[str], out: Path, sheet: Path | None, stills: int
) -> list[Path]:
    """Write the joined videos, and the contact sheet if asked for; returns the videos' paths."""
    written: list[Path] = []
    shown: dict[str, dict[str, Frames]] = {}
    for clip in clips:
        files = {label: folder / f"{clip}.mp4" for label, folder in sources.items()}
        columns = {label: read_video(path) for label, path in files.items()}
        first = next(iter(files.values()))
        fps = probe(first).fps
        assert fps is not None  # a video that could be read has a frame rate
        path = out / f"{clip}.mp4"
        write_video(path, join(columns), fps, first)
        written.append(path)
        shown[clip] = columns
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(shown, stills).save(sheet)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (0 done, 1 nothing could be written, 2 bad command)."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.report.side_by_side", description=__doc__)
    parser.add_argument("sources", nargs="*", metavar="LABEL=FOLDER", help="further folders of videos")
    parser.add_argument("--runs", type=Path, help="folder of records; every finished run is a column")
    parser.add_argument("--real", type=Path, help="folder of the real videos, the first column")
    parser.add_argument("--out", type=Path, required=True, help="folder for the joined videos")
    parser.add_argument("--clips", help="names of the clips, with commas (default: all that every source has)")
    parser.add_argument("--sheet", type=Path, help="a PNG with stills")
    parser.add_argument("--stills", type=int, default=12, help="stills per row of the sheet (default: 12)")
    options = parser.parse_args(arguments)
    try:
        sources = find_sources(options.runs, options.sources, options.real)
        shared = common_clips(sources)
        clips = options.clips.split(",") if options.clips else shared
        missing = sorted(set(clips) - set(shared))
        if missing:
            raise ConfigError(f"not every source has: {', '.join(missing)}; all have: {', '.join(shared)}")
        written = write_all(sources, clips, options.out, options.sheet, options.stills)
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
