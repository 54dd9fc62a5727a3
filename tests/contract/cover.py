"""Which combinations a contract test takes by default: a covering few. All others are slow, none is left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def covering(first: Sequence[Any], second: Sequence[Any], *others: Sequence[Any]) -> set[tuple[Any, ...]]:
    """Every pair of the first two factors once, with the values of the others in turn.

    With more values of `second` than of another factor, every value of `first` meets all values of that one too.
    """
    return {
        (one, two, *(values[(row + column) % len(values)] for values in others))
        for row, one in enumerate(first)
        for column, two in enumerate(second)
    }


def combinations(*factors: Sequence[Any]) -> list[Any]:
    """All combinations as pytest parameters; those beyond `covering` are slow."""
    default = covering(*factors)
    return [
        pytest.param(*each, id="-".join(map(str, each)), marks=() if each in default else pytest.mark.slow)
        for each in product(*factors)
    ]
