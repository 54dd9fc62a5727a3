"""`python -m lcp_bench.data.synthetic.variants --dataset-root ROOT --out FOLDER`: the data set, damaged in known ways.

Writes FOLDER/VARIANT/CLIP.mp4 with the clip's own sound, for any scorer to read against ROOT/clips. A metric is worth
something if it finds the damage that it is meant to find. Its floor is not the clip itself but the re-roll: the same
person, background, sound and mouth with other pose and blinks, what an ideal generator would make.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter1d

from lcp_bench.data.images import read_portrait
from lcp_bench.data.synthetic.clip import SyntheticClip
from lcp_bench.data.synthetic.dataset import remake, settings_of
from lcp_bench.data.synthetic.render import render
from lcp_bench.data.synthetic.speech import FPS, make_speech
from lcp_bench.errors import ConfigError, DatasetError, LcpBenchError
from lcp_bench.video import write_video

log = logging.getLogger(__name__)

Frames = NDArray[np.uint8]
Settings = Mapping[str, Any]

OTHER_TAKE = 1_000_000
"""Added to a take's number for the mouth of another sound; no data set reaches it."""
NOISE_STREAM = 102


def _rerolled(number: int) -> Callable[[SyntheticClip, Settings], Frames]:
    def make(clip: SyntheticClip, settings: Settings) -> Frames:
        return _again(clip, settings, reroll=number)

    return make


def _again(clip: SyntheticClip, settings: Settings, **changes: Any) -> Frames:
    return remake(settings, clip.person_id, clip.take, **changes).frames


def _drawn(clip: SyntheticClip, mouth: NDArray[np.float32], expression: NDArray[np.float32]) -> Frames:
    """The clip with another mouth and expression, everything else as it was."""
    motion = clip.motion
    size = clip.frames.shape[1]
    return render(clip.person, mouth, expression, motion.pose, motion.gaze, clip.background, size).frames


def _wrong_sound(clip: SyntheticClip, settings: Settings) -> Frames:
    other = make_speech(clip.person, clip.root, clip.person_id, clip.take + OTHER_TAKE, len(clip.frames))
    return _drawn(clip, other.mouth, clip.motion.expression)


def _half_mouth(clip: SyntheticClip, settings: Settings) -> Frames:
    return _drawn(clip, clip.mouth * np.array([0.5, 1, 1, 1], dtype=np.float32), clip.motion.expression)


def _neutral(clip: SyntheticClip, settings: Settings) -> Frames:
    """No emotion and no movement of brows and lids; blinks stay."""
    return _drawn(clip, clip.mouth, clip.motion.expression * np.array([0, 0, 0, 0, 1], dtype=np.float32))


def _frozen(clip: SyntheticClip, settings: Settings) -> Frames:
    return np.repeat(clip.frames[:1], len(clip.frames), axis=0)


def _twice(clip: SyntheticClip, settings: Settings) -> Frames:
    return np.repeat(clip.frames[::2], 2, axis=0)[: len(clip.frames)]


def _averaged(width: int) -> Callable[[SyntheticClip, Settings], Frames]:
    def make(clip: SyntheticClip, settings: Settings) -> Frames:
        return _pixels(uniform_filter1d(clip.frames.astype(np.float32), width, axis=0, mode="nearest"))

    return make


def _blurred(spread: float) -> Callable[[SyntheticClip, Settings], Frames]:
    def make(clip: SyntheticClip, settings: Settings) -> Frames:
        return _pixels(gaussian_filter(clip.frames.astype(np.float32), (0, spread, spread, 0), mode="nearest"))

    return make


def _noisy(spread: float) -> Callable[[SyntheticClip, Settings], Frames]:
    def make(clip: SyntheticClip, settings: Settings) -> Frames:
        rng = np.random.default_rng([clip.root, NOISE_STREAM, clip.person_id, clip.take])
        return _pixels(clip.frames + rng.normal(0, spread, clip.frames.shape))

    return make


def _pixels(values: NDArray[Any]) -> Frames:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


VARIANTS: dict[str, tuple[str, Callable[[SyntheticClip, Settings], Frames]]] = {
    "reroll": ("other pose, gaze and blinks: the floor", _rerolled(1)),
    "wrong_sound": ("the mouth of another sound", _wrong_sound),
    "frozen": ("the first frame only", _frozen),
    "blur": ("Gaussian blur, 1.5 pixels", _blurred(1.5)),
    "averaged3": ("mean over 3 frames", _averaged(3)),
    "averaged5": ("mean over 5 frames", _averaged(5)),
    "neutral": ("no expression but blinks", _neutral),
    "half_mouth": ("the mouth opens half as far", _half_mouth),
    "repeat2": ("every other frame, shown twice", _twice),
    "noise": ("Gaussian noise, 12 of 255", _noisy(12.0)),
    "reroll2": ("another re-roll", _rerolled(2)),
    "blur_light": ("Gaussian blur, 0.7 pixels", _blurred(0.7)),
    "noise_light": ("Gaussian noise, 4 of 255", _noisy(4.0)),
}
"""What each variant is, and the frames of a clip under it."""
DEFAULT = tuple(VARIANTS)[:10]


def write_variants(root: str | Path, out: str | Path, names: Sequence[str] = DEFAULT) -> int:
    """Write variants of every clip of a procedural data set.

    Args:
        root: The data set's folder.
        out: Folder for `VARIANT/CLIP.mp4`; files that are there are replaced.
        names: Of `VARIANTS`.

    Returns:
        The number of videos written.

    Raises:
        ConfigError: Unknown variant, or none.
        DatasetError: No procedural data set, or one that this code does not draw in the same way.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        raise ConfigError(f"--variants must be of {', '.join(VARIANTS)}, got {','.join(unknown) or 'none'}")
    place, target = Path(root).resolve(), Path(out)
    settings = settings_of(place)
    truths = sorted(place.glob("truth/*.npz"))
    if not truths:
        raise DatasetError(
            f"expected clips in {place}, found none; make them with +dataset=synth_hdtf dataset.root=..."
        )
    for count, path in enumerate(truths, start=1):
        clip = _read(place, path, settings)
        for name in names:
            write_video(target / name / f"{path.stem}.mp4", VARIANTS[name][1](clip, settings), FPS, clip.sound)
        if count % 16 == 0 or count == len(truths):
            log.info("%s: %d of %d clips", target, count, len(truths))
    return len(truths) * len(names)


def _read(place: Path, path: Path, settings: Settings) -> SyntheticClip:
    """A clip of the folder, drawn again and held against its first frame and its parameters."""
    with np.load(path, allow_pickle=False) as truth:
        person, take, mouth = int(truth["person"]), int(truth["take"]), truth["mouth"]
    clip = remake(settings, person, take)
    portrait = read_portrait(place / "ref" / f"{path.stem}.png", None)
    if not (np.array_equal(portrait, clip.frames[0]) and np.array_equal(mouth, clip.mouth)):
        raise DatasetError(
            f"{path.stem} is drawn differently by this machine or version; make the data set in {place} anew"
        )
    return clip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 when the data set cannot be used, 2 for a wrong command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        count = write_variants(options.dataset_root, options.out, options.variants.split(","))
    except LcpBenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{error.filename or options.out}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(f"{count} videos in {options.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:12} {text}" for name, (text, _) in VARIANTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m lcp_bench.data.synthetic.variants",
        description="Damage a procedural data set in known ways, to see what a metric notices.",
        epilog=f"variants (the last three are not in the default):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset-root", required=True, metavar="ROOT", help="folder of a procedural data set")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="videos go to FOLDER/VARIANT/CLIP.mp4")
    parser.add_argument("--variants", default=",".join(DEFAULT), metavar="A,B", help="which, separated by commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
