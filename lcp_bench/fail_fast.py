"""Stop early when the machine, and not a clip, is what fails: the same error several times in a row."""

from __future__ import annotations

import re

INPUT_STAGES = frozenset({"read", "face", "audio"})
"""Failures here are the clip's own: cheap, and the next portrait may be fine."""

_NAMES = re.compile(r"[\w.~@+-]*/[\w.~@+/-]*")
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?")


def kind_of(reason: str) -> str:
    """A failure's text without what differs from clip to clip: paths and numbers.

    >>> kind_of("CUDA out of memory: tried 2.50 GiB") == kind_of("CUDA out of memory: tried 1.25 GiB")
    True
    """
    return _NUMBERS.sub("#", _NAMES.sub("PATH", reason)).strip()


class InARow:
    """Counts equal failures that follow each other.

    Args:
        limit: How many are enough; None never is.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._kind = ""
        self.count = 0

    def worked(self) -> None:
        """Something succeeded: the count starts anew."""
        self._kind, self.count = "", 0

    def failed(self, reason: str) -> bool:
        """Count one failure; whether it was one too many."""
        kind = kind_of(reason)
        self.count = self.count + 1 if kind == self._kind else 1
        self._kind = kind
        return self.enough

    @property
    def enough(self) -> bool:
        """Whether the last failures were as many equal ones as the limit says."""
        return self._limit is not None and self.count >= self._limit
