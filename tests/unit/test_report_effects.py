"""Main effects and interactions on tables whose answer is known."""

from __future__ import annotations

import itertools
import math

import pandas
import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.report.frames_effects import ALIKE, interactions, main_effects

FACTORS = ("caches", "foreground")


def _frame(together: float = 1.0, **changes: object) -> pandas.DataFrame:
    """Caching gives 2x, the foreground 1.5x, both 3x times `together`; each 10 % wide."""
    lines = []
    for caches, foreground in itertools.product((False, True), repeat=2):
        speedup = (2.0 if caches else 1.0) * (1.5 if foreground else 1.0) * (together if caches and foreground else 1.0)
        measured = caches or foreground
        lines.append(
            dict.fromkeys(ALIKE, "x")
            | {"caches": caches, "foreground": foreground, "status": "complete", "created_utc": "2025"}
            | {"speedup": speedup, "speedup_n": 5 if measured else 0}
            | {
                "speedup_low": speedup / 1.05 if measured else math.nan,
                "speedup_high": speedup * 1.05 if measured else math.nan,
            }
        )
    return pandas.DataFrame(lines).assign(**changes)


def test_parts_that_multiply() -> None:
    effects = main_effects(_frame(), FACTORS).set_index("factor")
    assert effects.ratio.to_dict() == pytest.approx({"caches": 2.0, "foreground": 1.5})
    assert list(effects.pairs) == [2, 2]
    found = interactions(_frame(), FACTORS).iloc[0]
    assert (found["first"], found["second"], found.squares) == ("caches", "foreground", 1)
    assert found.ratio == pytest.approx(1.0)
    # three measured corners, each log(1.05) wide; the baseline is 1 by definition
    assert math.log(found.high) == pytest.approx(math.sqrt(3) * math.log(1.05))


def test_parts_that_do_not_multiply_are_seen() -> None:
    found = interactions(_frame(together=0.8), FACTORS).iloc[0]
    assert found.ratio == pytest.approx(0.8) and found.high < 1


def test_a_nested_ablation_has_effects_and_no_interaction() -> None:
    frame = _frame()
    nested = frame[~(frame.foreground & ~frame.caches)]
    effects = main_effects(nested, FACTORS).set_index("factor")
    assert effects.ratio.to_dict() == pytest.approx({"caches": 2.0, "foreground": 1.5}) and list(effects.pairs) == [
        1,
        1,
    ]
    assert interactions(nested, FACTORS).empty


def test_lines_that_differ_otherwise_are_not_compared() -> None:
    frame = _frame(device=["a", "b", "c", "d"])
    assert main_effects(frame, FACTORS).empty and interactions(frame, FACTORS).empty
    assert main_effects(_frame(status="partial"), FACTORS).empty


def test_a_table_without_the_columns_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected the columns of load_frame"):
        main_effects(pandas.DataFrame({"speedup": [1.0]}))
