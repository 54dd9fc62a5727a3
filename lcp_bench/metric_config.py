"""Which metrics score the videos of a run; no torch here, so that a wrong command is answered at once.

What is scored is no part of a run's identity: the videos are the same. A run that was made without metrics is scored
later by the same command with `+metric=NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lcp_bench.errors import ConfigError
from lcp_bench.typed import suggestion

MetricSetName = Literal["mini", "paper"]
METRICS = ("fvd", "fid", "efid", "sync", "fidelity")
"""Names of all metrics, in the order in which they are computed and shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricConfig:
    """What is scored after generation, and by which networks.

    Attributes:
        name: `none`; `mini`, the small networks that ship with this repository; `paper`, the published ones.
        metrics: Of `METRICS`; their order does not matter.
        backbones: Folder of weight files; None means the files that ship with the repository (`mini` only).
        bootstrap: Resamples of clips behind an interval; None takes the number of each metric's own protocol.
        min_clips: Fréchet distances of fewer clips are null with a reason.
    """

    name: Literal["none", "mini", "paper"] = "none"
    metrics: tuple[str, ...] = METRICS
    backbones: str | None = None
    bootstrap: int | None = None
    min_clips: int = 2

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                hint = suggestion(name, METRICS)
                raise ConfigError(f"metric.metrics must be of {', '.join(METRICS)}, got {name!r}{hint}")
        if self.name != "none" and not self.metrics:
            raise ConfigError("metric.metrics must name at least one metric, got an empty list; or use +metric=none")
        object.__setattr__(self, "metrics", tuple(name for name in METRICS if name in self.metrics))
        if self.name == "paper" and self.backbones is None:
            raise ConfigError("metric.backbones must be a folder for metric=paper, got null; weights/metrics is usual")
        if self.backbones is not None:
            if not self.backbones.strip():
                raise ConfigError("metric.backbones must be a folder, got an empty text")
            object.__setattr__(self, "backbones", str(Path(self.backbones).expanduser()))
        if self.bootstrap is not None and not (self.bootstrap == 0 or 100 <= self.bootstrap <= 1_000_000):
            raise ConfigError(f"metric.bootstrap must be 0 (no intervals) or in 100..1000000, got {self.bootstrap}")
        if not 2 <= self.min_clips <= 10**6:
            raise ConfigError(f"metric.min_clips must be in 2..1000000, got {self.min_clips}")
