"""The strict conversion of plain data into dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.typed import build, closest, convert, describe, dotted_keys, unknown_key


@dataclass(frozen=True)
class Inner:
    """A nested part."""

    ratio: float
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outer:
    """The root."""

    inner: Inner
    count: int = 1


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (2024, str, "2024"),
        (None, int | None, None),
        (True, bool, True),
        ([1, 2], list[int], [1, 2]),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        ({"a": 1}, dict[str, int], {"a": 1}),
        ("x", Literal["x", "y"], "x"),
        ([1], int | list[int], [1]),
        ({"deep": [1]}, Any, {"deep": [1]}),
    ],
)
def test_convert(value: Any, hint: Any, expected: Any) -> None:
    converted = convert(value, hint, "key")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("3", int, "key must be an integer, got '3'"),
        (3.0, int, "key must be an integer, got 3.0"),
        (True, int, "key must be an integer, got True"),
        (float("inf"), float, "key must be a finite number, got inf"),
        (1.5, str, "key must be text, got 1.5"),
        (1, bool, "key must be true or false, got 1"),
        ("z", Literal["x", "y"], "key must be one of x, y; got 'z'"),
        ("1,2", list[int], "key must be a list, got '1,2'"),
        ([1, "b"], list[int], "key[1] must be an integer, got 'b'"),
        ({"a": "b"}, dict[str, int], "key.a must be an integer, got 'b'"),
        ("x", int | list[int], "key must be an integer or a list, got 'x'"),
        ("x", int | None, "key must be an integer, got 'x'"),
    ],
)
def test_refuse(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(value, hint, "key")
    assert str(caught.value) == message


def test_build_nested() -> None:
    assert build(Outer, {"inner": {"ratio": 2, "tags": ["a"]}}, "") == Outer(Inner(2.0, ["a"]), 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inner": {"ratio": 1, "tag": []}}, "unknown key 'inner.tag'; did you mean 'inner.tags'?"),
        ({"inner": {}}, "inner.ratio is missing"),
        ({"inner": 4}, "inner must be a group of keys, got 4"),
        ({"inner": {"ratio": 1}, "ratio": 2}, "unknown group or key 'ratio'; did you mean 'inner.ratio'?"),
    ],
)
def test_build_refuses(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, data, "", tuple(dotted_keys(Outer)))
    assert message in str(caught.value)


def test_words() -> None:
    assert tuple(dotted_keys(Outer)) == ("inner.ratio", "inner.tags", "count")
    assert closest("LPC", ["none", "lcp"]) == "lcp"
    assert closest("zzz", ["none", "lcp"]) is None
    assert describe(int | None) == "an integer or null"
    assert "none" in str(unknown_key("accel", "x", ()))
