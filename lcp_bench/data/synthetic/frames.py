"""Single frames of many people with evenly spread parameters, to train a regressor of expressions.

Clips will not do for that: each shows one emotion, so that a network learns the people instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lcp_bench.data.synthetic.background import draw_background
from lcp_bench.data.synthetic.motion import POSE_LIMITS
from lcp_bench.data.synthetic.people import draw_person
from lcp_bench.data.synthetic.render import render

PARAMETERS = (
    "open", "width", "round", "contact",
    "smile", "brow", "furrow", "lids", "blink",
    "yaw", "pitch", "roll", "x", "y",
)  # fmt: skip
"""Names of the columns of `random_frames`' parameters: mouth, expression, pose."""
LOW = np.array([0, 0, 0, 0, -1, -1, -1, -1, 0, *(-limit for limit in POSE_LIMITS)])
HIGH = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, *POSE_LIMITS])
FRAMES_PER_PERSON = 2
STREAM = 101
"""Apart from the streams of clips; people come from the identity stream of the seed."""


def random_frames(seed: int, count: int, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw frames with uniformly drawn parameters; every two show one person before one background.

    Args:
        seed: Root seed of people and parameters; take one that no clip uses.
        count: Number of frames.
        size: Side of a frame in pixels.

    Returns:
        uint8 (count, size, size, 3), and float32 (count, 14): the columns of `PARAMETERS` in the units of `Take` and
        `Motion`.
    """
    rng = np.random.default_rng([seed, STREAM])
    values = rng.uniform(LOW, HIGH, (count, len(PARAMETERS))).astype(np.float32)
    # Half of the eyes are open and half of the teeth off the lip, as they nearly always are.
    values[:, [3, 8]] *= rng.uniform(size=(count, 2)) < 0.5
    gaze = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    pictures = np.empty((count, size, size, 3), dtype=np.uint8)
    for begin in range(0, count, FRAMES_PER_PERSON):
        chosen = slice(begin, min(begin + FRAMES_PER_PERSON, count))
        person = draw_person(seed, begin // FRAMES_PER_PERSON)
        background = draw_background(rng, size, plain=bool(rng.uniform() < 0.3))
        parts = values[chosen]
        pictures[chosen] = render(
            person, parts[:, :4], parts[:, 4:9], parts[:, 9:14], gaze[chosen], background, size
        ).frames
    return pictures, values
