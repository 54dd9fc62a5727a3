"""Plots of the report page: the front, equal bytes, refusals."""

from __future__ import annotations

import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.report.plots import Point, on_front, pareto_svg, stages_svg
from lcp_bench.report.table import Measured


def _point(label: str, speed: float, quality: float) -> Point:
    return Point(label, Measured(speed, speed - 0.1, speed + 0.1, 5), Measured(quality))


POINTS = [_point("none", 1, 10), _point("good", 2, 11), _point("bad", 1.5, 12), _point("twin", 2, 11)]


def test_the_front_depends_on_the_direction() -> None:
    assert [point.label for point in on_front(POINTS, "lower")] == ["none", "good", "twin"]
    assert [point.label for point in on_front(POINTS, "higher")] == ["bad", "good", "twin"]
    assert on_front(POINTS, "none") == []


def test_equal_input_gives_equal_bytes_and_any_label_is_drawn() -> None:
    points = [*POINTS, _point("$x_$ <b>&", 3, 9)]
    made = [pareto_svg(points, speed="speed-up (x)", quality="fid", direction="lower") for _ in range(2)]
    assert made[0] == made[1] and made[0].rstrip().endswith("</svg>")
    assert made[0] != pareto_svg(points, speed="speed-up (x)", quality="fid", direction="none")
    assert "http" not in made[0].replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_a_point_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="too few clips; leave its run out"):
        pareto_svg(
            [Point("x", Measured(None, reason="too few clips"), Measured(1.0))],
            speed="s",
            quality="q",
            direction="none",
        )


def test_stages_of_runs_that_lack_one() -> None:
    svg = stages_svg({"none": {"denoise": 2.0, "odd": 1.0}, "lcp": {"denoise": 1.0}})
    assert svg == stages_svg({"none": {"denoise": 2.0, "odd": 1.0}, "lcp": {"denoise": 1.0}})
    assert svg.startswith("<?xml")
