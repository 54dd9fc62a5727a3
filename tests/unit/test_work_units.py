"""Units for work: one for numbers that stand together, and never 0.00 for something."""

from __future__ import annotations

import pytest

from lcp_bench.work_units import work_unit


@pytest.mark.parametrize(
    ("works", "name"),
    [
        ([2158.07, 0.4], "TFLOP"), ([1.0], "TFLOP"), ([0.999, 0.002], "GFLOP"), ([0.0601], "GFLOP"), ([1e-3], "GFLOP"),
        ([9.9e-4], "MFLOP"), ([1e-9], "MFLOP"), ([0.0, 0.0], "TFLOP"), ([], "TFLOP"),
    ],
)  # fmt: skip
def test_the_greatest_number_chooses(works: list[float], name: str) -> None:
    assert work_unit(works).name == name


def test_values_are_converted() -> None:
    unit = work_unit([0.0601])
    assert (unit.show(0.0601, 2), unit.show(0.00049, 3)) == ("60.10", "0.490")
    assert work_unit([2158.066]).show(2158.066, 2) == "2158.07"
