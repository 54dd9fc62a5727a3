"""Errors of the metrics."""

from __future__ import annotations

from lcp_bench.errors import LcpBenchError

GAP_REASONS = (
    *("missing", "undecodable", "frame rate", "too short", "no sound", "no face", "no face track"),
    *("frames differ", "sizes differ", "too small"),
)


class MetricError(LcpBenchError):
    """A metric cannot be computed as asked: wrong shapes, too few samples, a missing or unfit weight file."""


class VideoGap(LcpBenchError):
    """One video cannot be scored; it becomes a named gap: counted in a score's `n_expected`, not in its `n`.

    `reason` is one of `GAP_REASONS`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        if reason not in GAP_REASONS:
            raise MetricError(f"expected a reason of {GAP_REASONS}, got {reason!r}")
        self.reason = reason
