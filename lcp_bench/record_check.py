"""What the checks of a record share."""

from __future__ import annotations

from lcp_bench.errors import StoreError

SHOWN = 200


def expect(good: bool, where: str, expected: str, got: object) -> None:
    """Raise `StoreError` "WHERE must be EXPECTED, got GOT" unless `good`."""
    if not good:
        text = repr(got)
        shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
        raise StoreError(f"{where} must be {expected}, got {shown}; the record was not accepted")


def is_int(value: object) -> bool:
    """Whether it is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
