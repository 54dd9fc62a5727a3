"""Plots of the report page as SVG text: speed against quality, and where the time goes. Needs matplotlib.

Equal records give equal bytes: no date, fixed ids, text as outlines.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcp_bench.errors import ConfigError
from lcp_bench.report.table import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGES = ("preprocess", "encode", "reference", "denoise", "decode", "write")
"""Order in which a clip passes through them; others come after."""
COLOURS = ("#b8b2a7", "#8fb8de", "#6c8ead", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#3b6064")
DOTS = ("#24292f", "#d1495b", "#30638e", "#edae49", "#66a182", "#8d6a9f", "#e07b39", "#4fb0ae", "#a44a3f", "#7c8b2f")
MARKS = "osD^vP*Xhp<>"
INK, FAINT, FRONT = "#24292f", "#d8dee4", "#656d76"


@dataclass(frozen=True)
class Point:
    """A run in a plot of speed against quality.

    Attributes:
        label: Name of the strategy.
        speed: With its interval; a point without a value cannot be drawn.
        quality: With its interval.
        mark: Which colour and shape; equal for the same run in all plots of a page.
    """

    label: str
    speed: Measured
    quality: Measured
    mark: int = 0


def on_front(points: Sequence[Point], direction: str) -> list[Point]:
    """The points that no other point beats in both, from slow to fast; faster is better.

    Args:
        points: All with values.
        direction: Of the quality: `lower`, `higher`; `none` has no front.

    >>> slow, fast = Point("a", Measured(1.0), Measured(2.0)), Point("b", Measured(2.0), Measured(2.0))
    >>> [point.label for point in on_front([slow, fast], "lower")]
    ['b']
    """
    if direction == "none":
        return []
    sign = -1.0 if direction == "lower" else 1.0
    places = [(_value(point.speed), sign * _value(point.quality)) for point in points]
    kept = [
        point
        for point, (speed, good) in zip(points, places, strict=True)
        if not any(s >= speed and g >= good and (s, g) != (speed, good) for s, g in places)
    ]
    return sorted(kept, key=lambda point: (_value(point.speed), point.label))


def pareto_svg(points: Sequence[Point], *, speed: str, quality: str, direction: str) -> str:
    """Speed against quality with 95 % intervals as bars, and the front as a line.

    Args:
        points: At least one; all with values.
        speed: Title of the horizontal axis, with unit.
        quality: Title of the vertical axis, with unit.
        direction: `lower`, `higher` or `none`: which quality is better; says where the front lies.

    Raises:
        ConfigError: A point has no value, or matplotlib is missing.
    """
    with _figure(5.6, 3.3) as figure:
        axes = figure.subplots()
        front = on_front(points, direction)
        axes.plot(
            [_value(point.speed) for point in front], [_value(point.quality) for point in front],
            color=FRONT, linewidth=1.0, linestyle="--", zorder=1, label="front",
        )  # fmt: skip
        for point in points:
            _draw(axes, point, edge=INK if point in front else "none")
        better = {"lower": "\n(lower is better)", "higher": "\n(higher is better)"}.get(direction, "")
        axes.set_xlabel(speed)
        axes.set_ylabel(f"{quality}{better}")
        axes.margins(0.08)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        return _text(figure)


def _draw(axes: Axes, point: Point, edge: str) -> None:
    colour = DOTS[point.mark % len(DOTS)]
    axes.errorbar(
        _value(point.speed), _value(point.quality), xerr=_reach(point.speed), yerr=_reach(point.quality),
        fmt=MARKS[point.mark % len(MARKS)], markersize=6.5, markeredgecolor=edge, markeredgewidth=1.0, color=colour,
        elinewidth=1, capsize=2, label=point.label,
    )  # fmt: skip


def _reach(cell: Measured) -> list[list[float]] | None:
    """How far the interval reaches to both sides, as matplotlib wants it."""
    if cell.low is None or cell.high is None:
        return None
    return [[_value(cell) - cell.low], [cell.high - _value(cell)]]


def _value(cell: Measured) -> float:
    if cell.value is None:
        raise ConfigError(f"a point of a plot must have a value, got none: {cell.reason}; leave its run out")
    return cell.value


def stages_svg(runs: Mapping[str, Mapping[str, float]]) -> str:
    """Mean seconds per clip of every stage, one stacked bar per run.

    Args:
        runs: Label to stage to seconds.

    Raises:
        ConfigError: Matplotlib is missing.
    """
    stages = sorted({stage for times in runs.values() for stage in times}, key=_order)
    labels = list(runs)[::-1]  # the first run on top
    with _figure(7.6, 0.9 + 0.36 * len(labels)) as figure:
        axes = figure.subplots()
        start = [0.0] * len(labels)
        for number, stage in enumerate(stages):
            seconds = [runs[label].get(stage, 0.0) for label in labels]
            axes.barh(
                range(len(labels)), seconds, left=start, height=0.68, label=stage, color=COLOURS[number % len(COLOURS)]
            )
            start = [before + each for before, each in zip(start, seconds, strict=True)]
        axes.set_yticks(range(len(labels)), labels)
        for place, total in enumerate(start):
            axes.annotate(f"{total:.3g} s", (total, place), xytext=(4, 0), textcoords="offset points", va="center")
        axes.margins(x=0.12)
        axes.set_xlabel("mean seconds per clip")
        axes.legend(ncols=len(stages), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8)
        return _text(figure)


def _order(stage: str) -> tuple[int, str]:
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of the page's look, inches; never touches the state of pyplot."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f'matplotlib is needed for plots ({error}); pip install -e ".[report]"') from error
    look: Any = {
        "svg.hashsalt": "lcp_bench", "svg.fonttype": "path", "font.size": 9, "axes.edgecolor": FAINT, "text.color": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.grid": True,
        "axes.spines.right": False, "axes.axisbelow": True, "grid.color": FAINT, "grid.linewidth": 0.6,
        "legend.handlelength": 1.0, "legend.columnspacing": 1.2, "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(look):
        yield Figure(figsize=(width, height), layout="constrained")


def _text(figure: Figure) -> str:
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return written.getvalue()
