"""Training clips of `mini`: drawn people that no data set contains, as pixels, sound features and masks.

People come from a root of their own, so that nobody of the synthetic data sets' splits is ever seen in training, not
even their training people: the validation and test rows of every table are strangers to the model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcp_bench.atomic import replacing
from lcp_bench.config import require
from lcp_bench.data.audio_features import log_mel_features
from lcp_bench.data.masks import attention_masks, face_region, rectangles_from_box
from lcp_bench.data.synthetic.clip import make_clip

log = logging.getLogger(__name__)

TRAINING_ROOT = 1000
"""Root of the training people; the data sets use 1 and 2."""
FAMILIES = ("synth_hdtf", "synth_mead")
LATENT_SIDE, LEVELS = 8, 4
LAYOUT = 2
"""Raised when the arrays change."""
FACE_EXPAND_RATIO = 1.2


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipsConfig:
    """What is rendered for training.

    Attributes:
        people: Number of people, one take each; odd ones of `synth_mead`, even ones of `synth_hdtf`.
        frames: Frames per take.
        references: Frames of a take that may serve as its portrait, evenly spaced; the first is frame 0.
        image_size: Side of the frames, px.
        moving_share: Every so-manieth person (0: nobody) has a moving background.
    """

    people: int = 2000
    frames: int = 48
    references: int = 4
    image_size: int = 64
    moving_share: int = 8

    def __post_init__(self) -> None:
        require(self.people >= 1, "clips.people", "1 or more", self.people)
        require(self.frames >= 24, "clips.frames", "24 or more", self.frames)
        require(1 <= self.references <= self.frames, "clips.references", "1 .. clips.frames", self.references)

    @property
    def reference_frames(self) -> NDArray[np.int64]:
        """Indices of the frames that may serve as portrait."""
        return np.linspace(0, self.frames - 1, self.references + 1)[:-1].astype(np.int64)


ARRAYS: Mapping[str, type] = {
    "pixels": np.uint8, "mel": np.float16, "masks": np.float16, "region": np.uint8, "landmarks": np.float16,
    "mouths": np.float16,
}  # fmt: skip


def shapes(config: ClipsConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays.

    Pixels, mel, masks (three branches, all levels joined) and region of each reference; five landmarks and the box of
    the lips of each frame in pixels.
    """
    cells = sum((LATENT_SIDE >> level) ** 2 for level in range(LEVELS))
    side, people, references = config.image_size, config.people, config.references
    return {
        "pixels": (people, config.frames, side, side, 3),
        "mel": (people, config.frames, 4, 26),
        "masks": (people, references, 3, cells),
        "region": (people, references, side, side),
        "landmarks": (people, config.frames, 5, 2),
        "mouths": (people, config.frames, 4),
    }


def load_clips(config: ClipsConfig, folder: Path) -> dict[str, NDArray[Any]]:
    """The training arrays, memory-mapped; rendered on first use (minutes), resumable person by person.

    Args:
        config: What to render.
        folder: Where the arrays lie.
    """
    name = "-".join(str(value) for value in (*asdict(config).values(), LATENT_SIDE, f"v{LAYOUT}"))
    place = folder / f"clips-{name}"
    place.mkdir(parents=True, exist_ok=True)
    done_file = place / "people_done"
    done = int(done_file.read_text()) if done_file.is_file() else 0
    arrays: dict[str, NDArray[Any]] = {}
    for key, shape in shapes(config).items():
        path = place / f"{key}.npy"
        mode = "r+" if path.is_file() else "w+"
        arrays[key] = np.lib.format.open_memmap(path, mode=mode, dtype=ARRAYS[key], shape=shape)  # type: ignore[no-untyped-call]
    if done < config.people:
        log.info("rendering %d training people into %s", config.people - done, place)
    for person in range(done, config.people):
        _render(config, person, arrays)
        if (person + 1) % 50 == 0 or person + 1 == config.people:
            for array in arrays.values():
                array.flush()  # type: ignore[attr-defined]
            with replacing(done_file) as partial:
                partial.write_text(str(person + 1))
    return arrays


def _render(config: ClipsConfig, person: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    clip = make_clip(
        FAMILIES[person % 2],  # type: ignore[arg-type]
        TRAINING_ROOT,
        person,
        0,
        frames=config.frames,
        size=config.image_size,
        moving_background=config.moving_share > 0 and person % config.moving_share == 0,
    )
    arrays["pixels"][person] = clip.frames
    arrays["landmarks"][person], arrays["mouths"][person] = clip.rendered.landmarks5, clip.rendered.mouth_box
    waveform = (clip.waveform / np.float32(32768)).astype(np.float32)
    arrays["mel"][person] = log_mel_features(waveform, 25, 1)[0][: config.frames].numpy()
    for number, frame in enumerate(config.reference_frames):
        rectangles = rectangles_from_box(
            clip.rendered.face_boxes[frame],
            clip.rendered.landmarks5[frame],
            config.image_size,
            config.image_size,
            FACE_EXPAND_RATIO,
            lip_box=clip.rendered.mouth_box[frame],
        )
        levels = attention_masks(rectangles, LATENT_SIDE, LEVELS)
        arrays["masks"][person, number] = np.stack([np.concatenate(each, axis=1)[0] for each in levels.values()])
        arrays["region"][person, number] = face_region(rectangles, config.image_size)[0] * 255
