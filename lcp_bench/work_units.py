"""Units for amounts of work, chosen so that numbers of a laptop's model and of the published ones both read well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """A unit and how many of it are one TFLOP."""

    name: str
    per_tflop: float

    def show(self, tflop: float, decimals: int) -> str:
        """Work given in TFLOP as a number in this unit."""
        return f"{tflop * self.per_tflop:.{decimals}f}"


UNITS = (WorkUnit("TFLOP", 1.0), WorkUnit("GFLOP", 1e3), WorkUnit("MFLOP", 1e6))
"""Largest first."""


def work_unit(tflops: Iterable[float]) -> WorkUnit:
    """The largest unit in which the greatest of some amounts of work is at least one.

    Amounts that are compared with each other are given together, so that they come in one unit.

    Args:
        tflops: in TFLOP (1e12 FLOP), 0 or more.

    >>> work_unit([0.0601, 0.0003]).show(0.0601, 2), work_unit([2158.07, 0.5]).name
    ('60.10', 'TFLOP')
    """
    greatest = max(tflops, default=0.0)
    return next((unit for unit in UNITS if greatest * unit.per_tflop >= 1), UNITS[-1] if greatest else UNITS[0])
