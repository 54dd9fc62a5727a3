"""The feature cache of one segment, and the counters that prove what was computed and what was reused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lcp_bench.accel.reuse import Newest, ReadRule
from lcp_bench.errors import EngagementError


class FeatureCache:
    """Features recorded at key steps, by name (see `lcp_bench.accel.scope`).

    Lives inside a `with` block: leaving the segment drops every tensor, so no feature outlives its segment.

    Args:
        rule: What is kept over key steps and what a follower reads; by default the newest key step's feature.
    """

    def __init__(self, rule: ReadRule | None = None) -> None:
        self.rule: ReadRule = rule or Newest()
        self._held: dict[str, tuple[Tensor, ...]] = {}
        self._step = 0
        self.peak_bytes = 0
        self.closed = False

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        self.closed = True

    def make_room(self) -> None:
        """Drop what the coming key step replaces anyway: it would sit in memory through the whole step."""
        self._check_open()
        if not self.rule.history:
            self._held.clear()

    def replace(self, features: Mapping[str, Tensor], step: int = 0) -> None:
        """Keep what the key step `step` recorded; features that it did not record are dropped."""
        self._check_open()
        gap = step - self._step
        self._held = {name: self.rule.keep(self._held.get(name, ()), value, gap) for name, value in features.items()}
        self._step = step
        self.peak_bytes = max(self.peak_bytes, sum(self.sizes().values()))

    def read(self, name: str, steps: Sequence[int] = ()) -> Tensor:
        """A feature as the steps see it; asking for one that was never recorded is a bug of the strategy.

        Raises:
            EngagementError: Nothing was recorded under this name, or the rule has one answer for each of several steps.
        """
        self._check_open()
        if name not in self._held:
            raise EngagementError(
                f"feature {name!r} was not recorded at the key step; recorded: {', '.join(self._held) or 'nothing'}"
            )
        if self.rule.history and len(steps) > 1:
            raise EngagementError(f"{name!r} differs for each of the steps {list(steps)}; evaluate them one by one")
        return self.rule.read(self._held[name], steps[0] - self._step if steps else 0)

    def sizes(self) -> dict[str, int]:
        """Bytes of everything held, by feature."""
        return {
            name: sum(tensor.numel() * tensor.element_size() for tensor in kept) for name, kept in self._held.items()
        }

    def __len__(self) -> int:
        return len(self._held)

    def _check_open(self) -> None:
        if self.closed:
            raise EngagementError("the feature cache was used after its segment ended")


class Engagement:
    """Counts, per step, the layers that were computed, the features that were reused, the references left out."""

    def __init__(self) -> None:
        self.computed: Counter[tuple[int, str]] = Counter()
        self.reused: Counter[tuple[int, str]] = Counter()
        self.dropped: Counter[tuple[int, str]] = Counter()

    def compute(self, steps: Iterable[int], layer: str) -> None:
        """A layer ran for these steps."""
        self.computed.update((step, layer) for step in steps)

    def reuse(self, steps: Iterable[int], feature: str) -> None:
        """A recorded feature was read for these steps."""
        self.reused.update((step, feature) for step in steps)

    def drop(self, steps: Iterable[int], feature: str) -> None:
        """A layer was evaluated without a feature that it has, for these steps."""
        self.dropped.update((step, feature) for step in steps)

    def merge(self, other: Engagement) -> None:
        """Add another segment's counts."""
        self.computed.update(other.computed)
        self.reused.update(other.reused)
        self.dropped.update(other.dropped)

    def per_layer(self) -> dict[str, dict[str, int]]:
        """Totals over steps: {"computed": {layer: count}, "reused": {feature: count}, "dropped": {feature: count}}."""
        totals: dict[str, dict[str, int]] = {"computed": {}, "reused": {}, "dropped": {}}
        for kind, counts in (("computed", self.computed), ("reused", self.reused), ("dropped", self.dropped)):
            for (_, name), count in counts.items():
                totals[kind][name] = totals[kind].get(name, 0) + count
        return totals
