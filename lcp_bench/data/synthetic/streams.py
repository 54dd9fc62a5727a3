"""The generators behind everything random, and who belongs to which split."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from lcp_bench.errors import DatasetError

IDENTITY, SPEECH, MOTION, BACKGROUND, PLAN = 1, 2, 3, 4, 5
"""Numbers of the independent streams. A new parameter goes to the end of one of them, or gets a number of its own."""

Split = Literal["train", "validation", "test"]
SPLITS: Final[dict[Split, range]] = {
    "train": range(0, 200),
    "validation": range(200, 232),
    "test": range(232, 264),
}
"""People of each split; nobody is in two."""


def generator(root: int, stream: int, *numbers: int) -> np.random.Generator:
    """The generator of one stream.

    Args:
        root: Seed of the data set, 0 to 2**32 - 1.
        stream: One of the module's numbers.
        numbers: Person, take and so on, 0 or more.

    Raises:
        DatasetError: A number that is negative or too large.
    """
    for value in (root, *numbers):
        if not 0 <= value < 2**32:
            raise DatasetError(f"expected seeds, people and takes in 0..{2**32 - 1}, got {value}; choose another")
    return np.random.default_rng([root, stream, *numbers])


def split_of(person: int) -> Split:
    """The split that a person belongs to.

    Raises:
        DatasetError: Nobody has this number.
    """
    for name, people in SPLITS.items():
        if person in people:
            return name
    raise DatasetError(f"expected a person in 0..{SPLITS['test'].stop - 1}, got {person}; choose one of a split")
