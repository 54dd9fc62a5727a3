"""A score with everything a reader needs to trust or refuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from metrics.cache import Gap
from metrics.errors import MetricError
from metrics.intervals import Interval

Direction = Literal["lower", "higher", "none"]


@dataclass(frozen=True, slots=True)
class Score:
    """One number of one run.

    Attributes:
        name: for example `fvd`, `lse_c`, `psnr_vs_unaccelerated`.
        value: in `unit`, or None with a `reason`.
        unit: of `value` and the interval.
        direction: whether lower or higher is better; `none` for a diagnosis.
        n: clips that the value is made of.
        n_expected: clips that should have been; the difference is in `gaps`.
        samples: feature vectors, frames or tracks behind the value, on the scored side.
        interval: over clips, or over the people in them where these are known (`identities` says how many).
        protocol: hash of the protocol, weights included.
        label: what the backbones are: `public`, `seeded-v1`, `no backbone`.
        gaps: clip to why it does not count.
        notes: what a reader must know, for example a singular covariance.
        reason: why `value` is None.
    """

    name: str
    value: float | None
    unit: str
    direction: Direction
    n: int
    n_expected: int
    samples: int
    interval: Interval
    protocol: str
    label: str
    gaps: dict[str, Gap]
    notes: tuple[str, ...] = ()
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The score as JSON values; every null has a `<name>_reason` beside it."""
        block: dict[str, Any] = {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "direction": self.direction,
            "n": self.n,
            "n_expected": self.n_expected,
            "samples": self.samples,
            "low": self.interval.low,
            "high": self.interval.high,
            "level": self.interval.level,
            "resamples": self.interval.resamples,
            "protocol": self.protocol,
            "label": self.label,
            "gaps": [{"clip": clip, "reason": gap.reason, "message": gap.message} for clip, gap in self.gaps.items()],
            "notes": list(self.notes),
        }
        if self.interval.identities is not None:
            block["identities"] = self.interval.identities
        if self.value is None:
            block["value_reason"] = self.reason
        if self.interval.low is None:
            block["low_reason"] = block["high_reason"] = self.interval.reason
        return block


def comparable(scores: list[Score]) -> None:
    """Refuse to put scores into one column that were not measured alike.

    Raises:
        MetricError: the scores differ in name, protocol or n.
    """
    kinds = {(score.name, score.protocol, score.n) for score in scores}
    if len(kinds) > 1:
        listed = "; ".join(f"{name} under {protocol} with n = {n}" for name, protocol, n in sorted(kinds))
        raise MetricError(f"these scores are different measurements and cannot share a column: {listed}")
