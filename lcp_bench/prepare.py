"""`python -m lcp_bench.prepare +dataset=hdtf annotations=... sources=...`: make a data set from your own copies.

HDTF and MEAD cannot be passed on. This command cuts them, from what their users can obtain, into square 25 fps clips
with 16 kHz sound, chooses 100 of them (seeded, people taking turns), and freezes the choice. It downloads nothing. It
can be stopped at any moment and issued again: finished clips are kept.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lcp_bench.config import DatasetConfig, require
from lcp_bench.data.prepared import COMMANDS, PREPARED
from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.typed import build, unknown_key

USAGE = """\
usage: python -m lcp_bench.prepare +dataset=NAME sources=FOLDER [KEY=VALUE ...]

  +dataset=hdtf|mead
  sources=FOLDER        hdtf: downloaded videos, NAME.mp4, GROUP_NAME.mp4 or GROUP/NAME.mp4
                        mead: the folder with the actors' folders (M003/video/front/angry/level_1/001.mp4)
  annotations=FOLDER    hdtf: the published text files (RD_video_url.txt, RD_annotion_time.txt, ...)
  dataset.root=FOLDER   where the prepared clips go (default: data/NAME)
  clips=100             how many clips are chosen
  seed=0                of the choice
  clip_seconds=5        longest clip; null takes whole segments (default for mead: null, whole sentences)
  image_size=512        side of the clips in pixels
  face_expand=2.0       mead: side of the cut square over that of the box around the face
  dataset.face_detector=cascade|insightface
  refreeze=true         choose anew although the folder is prepared; the run ids change

For example:
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareOptions:
    """The command's own keys; see `USAGE`. All but the folders and `refreeze` are kept in the manifest."""

    sources: str
    annotations: str | None = None
    clips: int = 100
    seed: int = 0
    clip_seconds: float | None = None
    image_size: int = 512
    face_expand: float = 2.0
    refreeze: bool = False

    def __post_init__(self) -> None:
        require(self.clips >= 1, "clips", "1 or more", self.clips)
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        seconds = self.clip_seconds
        require(seconds is None or seconds >= 0.04, "clip_seconds", "0.04 or more, or null", seconds)
        even = 64 <= self.image_size <= 2048 and self.image_size % 2 == 0
        require(even, "image_size", "an even number in 64..2048", self.image_size)
        require(1 <= self.face_expand <= 10, "face_expand", "in 1..10", self.face_expand)


DEFAULTS: Mapping[str, Mapping[str, Any]] = {"hdtf": {"clip_seconds": 5.0}, "mead": {}}
TEXT = ("sources", "annotations")


def run(dataset: DatasetConfig, options: PrepareOptions) -> str:
    """Prepare a data set.

    Args:
        dataset: Name, root and face detector.
        options: The command's keys.

    Returns:
        What to tell the user.

    Raises:
        ConfigError: Options that do not fit the data set.
        DatasetError: Malformed annotations, wrong folders, or nothing that could be cut.
    """
    from lcp_bench.data.prepare_run import PrepareSpec, prepare, summary

    sources, shaping = _sources(dataset, options)
    spec = PrepareSpec(
        dataset=dataset.name,
        root=Path(dataset.root),
        clips=options.clips,
        seed=options.seed,
        image_size=options.image_size,
        face_detector=dataset.face_detector,
        insightface_root=dataset.insightface_root,
        options={"clip_seconds": options.clip_seconds, **shaping},
        refreeze=options.refreeze,
    )
    return summary(prepare(sources, spec))


def _sources(dataset: DatasetConfig, options: PrepareOptions) -> tuple[list[Any], dict[str, Any]]:
    """The data set's sources, and what of its own shapes the result."""
    if dataset.name == "hdtf":
        from lcp_bench.data.hdtf import hdtf_sources
        from lcp_bench.data.hdtf_annotations import annotations_hash

        if options.annotations is None:
            raise ConfigError(f"annotations is missing; for example: {COMMANDS['hdtf']}")
        found = hdtf_sources(options.annotations, options.sources, options.clip_seconds)
        return found, {"annotations_sha256": annotations_hash(options.annotations)}
    from lcp_bench.data.mead import mead_sources
    from lcp_bench.data.prepare_crop import FaceWindow

    require(options.annotations is None, "annotations", "absent for mead, which has none", options.annotations)
    crop = FaceWindow(options.face_expand, dataset.face_detector, dataset.insightface_root)
    return list(mead_sources(options.sources, crop, options.clip_seconds)), {"crop": dict(crop.stored())}


def parse(words: Sequence[str]) -> tuple[DatasetConfig, PrepareOptions]:
    """Read the command line: own keys, and the `dataset` and `paths` keys of every other command.

    Raises:
        ConfigError: Unknown or repeated key, wrong value, or no data set that is prepared.
    """
    from lcp_bench.preflight import load_run_config

    known = [field.name for field in fields(PrepareOptions)]
    own: dict[str, Any] = {}
    others: list[str] = []
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        if key in known and equals:
            if key in own:
                raise ConfigError(f"{key} is given twice: {own[key]!r} and {value!r}; give it once")
            own[key] = value if key in TEXT else _value(value)
        elif key == "dataset" or key.startswith(("dataset.", "paths.")):
            others.append(word)
        else:
            raise unknown_key("", key, [*known, "dataset", "dataset.root"])
    if not any(word.lstrip("+").startswith("dataset=") for word in others):
        raise ConfigError(f"no dataset given; choose one of: {', '.join(PREPARED)}; for example: {COMMANDS['hdtf']}")
    dataset = load_run_config(others, fallback={"model": "hallo", "accel": "none"}).dataset
    if dataset.name not in PREPARED:
        raise ConfigError(f"dataset {dataset.name!r} needs no preparation; this command is for {', '.join(PREPARED)}")
    own = {**DEFAULTS[dataset.name], **own}
    options = build(PrepareOptions, own, "", known)
    for key in TEXT:
        require(own.get(key) != "", key, "a folder", "")
    return dataset, options


def _value(text: str) -> Any:
    """A number, true, false or null; other text stays text, for the type check to refuse."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (0 done, 1 nothing could be prepared, 2 bad command, 130 interrupted)."""
    words = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if {"-h", "--help"} & set(words):
        print(USAGE + "".join(f"  {command}\n" for command in COMMANDS.values()), end="")
        return 0
    try:
        print(run(*parse(words)))
    except LcpBenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; issue the command again to go on: finished clips are kept", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{error.filename or 'the prepared folder'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
