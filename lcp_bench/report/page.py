"""`python -m lcp_bench.report html`: one folder to look at, opened from disk, that loads nothing from anywhere.

    <out>/index.html              tables, plots, schedules, and a viewer of all videos side by side
          assets/                 style and script of the page
          plots/*.svg
          runs/<run_id>/          the record behind every cell, and the run's videos
          real/<data>/            the real videos, where the data set has them

Equal records give equal bytes. A second call brings the folder up to date and removes what it wrote before and does not
need any more; a folder that holds anything else is refused.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lcp_bench.errors import ConfigError
from lcp_bench.report.page_clips import Cell, Source, Viewer
from lcp_bench.report.page_sections import Line, Plot, Section, make_sections
from lcp_bench.report.table import unfinished
from lcp_bench.store import StoredRun, list_records

ASSETS = ("page.css", "page.js")
OWN_FOLDERS = ("assets", "plots", "real", "runs")
VIDEOS = ("copy", "link", "none")
MARK = '<meta name="generator" content="lcp_bench report">'


def html(arguments: Sequence[str]) -> tuple[str, int]:
    """The command; returns what to show, the page's path, and the exit code.

    Raises:
        LcpBenchError: The command is wrong, there are no records, or the folder cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lcp_bench.report html",
        description="Write one folder with tables, plots, schedules and all videos side by side; open its index.html.",
    )
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of records (default: runs)")
    parser.add_argument("--out", metavar="DIR", default="report", help="folder of the page (default: report)")
    parser.add_argument(
        "--videos", choices=VIDEOS, default="copy",
        help="copy: the folder can be moved and sent (default); link: refer to the folder of runs; none: no viewer",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    path = write_page(Path(options.runs).expanduser(), Path(options.out).expanduser(), videos=options.videos)
    return f"{path}\n", 0


def write_page(runs: Path, out: Path, *, videos: str = "copy") -> Path:
    """Write the report of a folder of runs; returns the path of its `index.html`.

    Args:
        runs: Folder of runs.
        out: Folder of the page: new, empty, or made by this function.
        videos: `copy`, `link` or `none`.

    Raises:
        ConfigError: No records; `out` holds something else or cannot be written; matplotlib is missing.
    """
    listed = list_records(runs)
    if not any(run.record is not None for run in listed):
        raise ConfigError(
            f"expected at least one record in {runs}, found none; make some with: python -m lcp_bench -m +model=mini "
            "+accel=none,lcp; or name another folder: --runs DIR"
        )
    _require_own(out)
    sections = make_sections(listed)
    folder = _Folder(out, videos)
    try:
        text = _render(_page(listed, sections, folder))
        for name in ASSETS:
            folder.write(f"assets/{name}", (resources.files(__package__) / "assets" / name).read_text("utf-8"))
        path = folder.write("index.html", text)
        folder.clean()
    except OSError as error:
        raise ConfigError(
            f"{out} must be a folder that can be written, got: {error}; give another: --out DIR"
        ) from error
    return path


def _require_own(out: Path) -> None:
    index = out / "index.html"
    try:
        known = not out.exists() or not any(out.iterdir()) or (index.is_file() and MARK in index.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{out} must be a readable folder, got: {error}; give another: --out DIR") from error
    if not known:
        raise ConfigError(f"{out} must be new, empty, or an earlier report, but holds other files; give another: --out")


@dataclass
class _Folder:
    """The page's folder; knows what was written, so that the rest of an earlier report can go."""

    root: Path
    videos: str
    written: set[Path] = field(default_factory=set)

    def write(self, name: str, text: str) -> Path:
        path = self._place(name)
        path.write_text(text, encoding="utf-8")
        return path

    def copy(self, source: Path, name: str) -> str:
        """Copy a file unless the same one is there; returns its address relative to the page."""
        path, found = self._place(name), source.stat()
        there = path.stat() if path.exists() else None
        if there is None or (there.st_size, there.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            shutil.copy2(source, path)
        return quote(name)

    def video(self, source: Path, name: str) -> str:
        if self.videos == "copy":
            return self.copy(source, name)
        return quote(Path(os.path.relpath(source, self.root.resolve())).as_posix())

    def clean(self) -> None:
        """Remove what an earlier report left in the folders that are ours, and folders that are empty then."""
        for name in OWN_FOLDERS:
            for path in sorted((self.root / name).rglob("*"), reverse=True):
                if path.is_dir() and not path.is_symlink():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif path not in self.written:
                    path.unlink()

    def _place(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.written.add(path)
        return path


def _page(listed: Sequence[StoredRun], sections: Sequence[Section], folder: _Folder) -> dict[str, Any]:
    """What the template needs: plain texts, lists and objects."""
    records = [run.record for run in listed if run.record is not None]
    for run in listed:
        if run.record is not None:
            folder.copy(run.path / "record.json", _record(run.run_id))
    git = [record["git"] for record in records]
    commits = {f"{str(each['commit'])[:12]}{' with changes' if each['dirty'] else ''}" for each in git}
    return {
        "count": len(records),
        "newest": max(record["created_utc"] for record in records),
        "commits": sorted(commits),
        "sections": [_section(number, section, folder) for number, section in enumerate(sections, start=1)],
        "unfinished": unfinished(listed),
        "command": "python -m lcp_bench.report html",
    }


def _section(number: int, section: Section, folder: _Folder) -> dict[str, Any]:
    name = f"comparison-{number}"
    scores = {"columns": section.score_columns, "rows": [_line(line) for line in section.score_lines]}
    return {
        "id": name,
        "heading": section.heading,
        "warnings": section.warnings,
        "columns": section.columns,
        "rows": [_line(line, section) for line in section.lines],
        "scores": scores if section.score_columns else None,
        "notes": section.notes,
        "plots": [_plot(folder, f"{name}-{place}", plot) for place, plot in enumerate(section.plots, start=1)],
        "no_plots": section.no_plots,
        "stages": None if section.stages is None else _plot(folder, f"{name}-stages", section.stages),
        "strips": [
            {"label": strip.label, "summary": strip.summary, "record": _record(strip.run_id), "svg": strip.svg}
            for strip in section.strips
        ],
        "viewer": _viewer(name, section.viewer, section, folder),
    }


def _record(run_id: str) -> str:
    return f"runs/{run_id}/record.json"


def _line(line: Line, section: Section | None = None) -> dict[str, Any]:
    cells: Any = line.cells
    if section is not None:
        kinds = [column.is_number for column in section.columns]
        texts = (line.label, *line.cells[1:])  # the strategy's name, made unique
        cells = [{"text": text, "is_number": kind} for text, kind in zip(texts, kinds, strict=True)]
    record = _record(line.run_id) if line.run_id else None
    return {"label": line.label, "cells": cells, "run_id": line.run_id, "record": record}


def _plot(folder: _Folder, name: str, plot: Plot) -> dict[str, str]:
    folder.write(f"plots/{name}.svg", plot.svg)
    return {"file": f"plots/{name}.svg", "alt": plot.alt, "caption": plot.caption}


def _viewer(name: str, viewer: Viewer | None, section: Section, folder: _Folder) -> dict[str, Any] | None:
    """The viewer's data for the page's script; None where there is not one video."""
    if viewer is None or folder.videos == "none":
        return None
    if not any(cell.video for source in viewer.sources for cell in source.cells.values()):
        return None
    baselines = {source.baseline for source in viewer.sources}
    return {
        "fps": viewer.fps,
        "clips": [{"id": clip.id, "mouth": clip.mouth, "mouth_source": clip.mouth_source} for clip in viewer.clips],
        "sources": [
            {
                "label": source.label,
                "detail": section.speeds.get(source.run_id or "", "from the data set"),
                "run_id": source.run_id,
                "baseline": source.baseline,
                "is_baseline": source.run_id in baselines and source.baseline is None,
                "cells": list(_cells(name, source, viewer, folder)),
            }
            for source in viewer.sources
        ],
    }


def _cells(name: str, source: Source, viewer: Viewer, folder: _Folder) -> Iterator[dict[str, str]]:
    for clip in viewer.clips:
        cell = source.cells.get(clip.id, Cell(None, "no such video"))
        if cell.video is None:
            yield {"reason": cell.reason}
        else:
            run, video = source.run_id, cell.video
            place = f"runs/{run}/clips/{video.name}" if run else f"real/{name}/{clip.id}{video.suffix}"
            yield {"src": folder.video(video, place)}


def _render(page: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    for section in page["sections"]:
        for strip in section["strips"]:
            strip["svg"] = Markup(strip["svg"])  # made by `strips.strip_svg`, which escapes what it takes in
    environment = Environment(
        loader=PackageLoader("lcp_bench.report", "assets"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=page)
