"""The feature cache of one segment, and the counters that prove what was computed and what was reused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from lcp_bench.errors import EngagementError


class FeatureCache:
    """Features recorded at the newest key step, by name (see `lcp_bench.accel.scope`).

    Lives inside a `with` block: leaving the segment drops every tensor, so no feature outlives its segment.
    """

    def __init__(self) -> None:
        self._features: dict[str, Tensor] = {}
        self.peak_bytes = 0
        self.closed = False

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._features.clear()
        self.closed = True

    def replace(self, features: Mapping[str, Tensor]) -> None:
        """Drop what an older key step recorded and keep `features`."""
        self._check_open()
        self._features = dict(features)
        held = sum(tensor.numel() * tensor.element_size() for tensor in self._features.values())
        self.peak_bytes = max(self.peak_bytes, held)

    def read(self, name: str) -> Tensor:
        """A recorded feature; asking for one that was never recorded is a bug of the strategy."""
        self._check_open()
        if name not in self._features:
            raise EngagementError(
                f"feature {name!r} was not recorded at the key step; recorded: {', '.join(self._features) or 'nothing'}"
            )
        return self._features[name]

    def __len__(self) -> int:
        return len(self._features)

    def _check_open(self) -> None:
        if self.closed:
            raise EngagementError("the feature cache was used after its segment ended")


class Engagement:
    """Counts, per step, the layers that were computed and the features that were reused."""

    def __init__(self) -> None:
        self.computed: Counter[tuple[int, str]] = Counter()
        self.reused: Counter[tuple[int, str]] = Counter()

    def compute(self, steps: Iterable[int], layer: str) -> None:
        """A layer ran for these steps."""
        self.computed.update((step, layer) for step in steps)

    def reuse(self, steps: Iterable[int], feature: str) -> None:
        """A recorded feature was read for these steps."""
        self.reused.update((step, feature) for step in steps)

    def merge(self, other: Engagement) -> None:
        """Add another segment's counts."""
        self.computed.update(other.computed)
        self.reused.update(other.reused)

    def per_layer(self) -> dict[str, dict[str, int]]:
        """Totals over steps: {"computed": {layer: count}, "reused": {feature: count}}."""
        totals: dict[str, dict[str, int]] = {"computed": {}, "reused": {}}
        for kind, counts in (("computed", self.computed), ("reused", self.reused)):
            for (_, name), count in counts.items():
                totals[kind][name] = totals[kind].get(name, 0) + count
        return totals
