"""One pass over a UNet's layers: what runs, what is read from the key step, and what is kept for the followers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from lcp_bench.accel.gate import Fork
from lcp_bench.accel.scope import Scope, delta_ends
from lcp_bench.errors import ConfigError
from lcp_bench.models.conditions import Conditions, Layout
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.foreground import WHOLE, Foreground, KeptRows, MergedRows, WholeRows
from lcp_bench.models.topology import LayerSpec

if TYPE_CHECKING:
    from lcp_bench.models.unet import UNet


def stream_of(feature: str) -> str:
    """Name of the audio stream that is kept beside a feature of the main path, where a model has one."""
    return f"{feature}.stream"


@dataclass(slots=True)
class Call:
    """State of one forward pass.

    Attributes:
        layout: Row order.
        time: SiLU of the time embedding of every row.
        size: Height and width of level 0.
        conditions: Segment constants already spread over the members; None for a reference network.
        image: Image tokens of every row where `conditions` is None.
        bank: Features written by a reference network.
        skips: Outputs of encoder layers that wait for their up layer.
        walk: What decides about foreground and reference in this pass; None leaves every attention as it is.
        stream: Audio tokens beside the hidden map, at this place of the pass; None where no layer changes them.
    """

    layout: Layout
    time: Tensor
    size: tuple[int, int]
    conditions: Conditions | None = None
    image: Tensor | None = None
    bank: dict[str, list[Tensor]] | None = None
    skips: dict[str, Tensor] = field(default_factory=dict)
    walk: Walk | None = None
    stream: Tensor | None = None

    def level_size(self, level: int) -> tuple[int, int]:
        """Height and width at a level; strided convolutions round up."""
        height, width = self.size
        for _ in range(level):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def rows(self, spec: LayerSpec, part: str) -> WholeRows:
        """Which tokens of an attention are computed and kept."""
        return WHOLE if self.walk is None else self.walk.rows(spec, part)

    def reads_reference(self, site: str) -> bool:
        """Whether a layer reads its reference features in this pass."""
        return self.walk is None or self.walk.reads_reference(site)


class Walk:
    """One pass over the layers of a scope, reading and recording features on the way."""

    def __init__(
        self,
        unet: UNet,
        call: Call,
        scope: Scope,
        cache: FeatureCache | None,
        record: Sequence[str],
        steps: Sequence[int],
        engagement: Engagement | None,
        fork: Fork | None = None,
    ) -> None:
        self.unet, self.call, self.cache, self.fork = unet, call, cache, fork
        self.record, self.steps, self.engagement = frozenset(record), steps, engagement
        self.recorded: dict[str, Tensor] = {}
        self._ends = {feature: delta_ends(feature) for feature in self.record if feature.endswith(":delta")}
        self._follow(scope)
        call.walk = self

    def _follow(self, scope: Scope) -> None:
        self.scope = scope
        self._replaced = {delta.last: delta for delta in scope.deltas}

    def run(self, latents: Tensor) -> Tensor:
        """Walk all layers; returns the last evaluated layer's output."""
        try:
            return self._run(latents)
        finally:
            # the two know each other: left so, a segment's conditions and memories would wait for a garbage collection
            self.call.walk = None

    def _run(self, latents: Tensor) -> Tensor:
        hidden: Tensor = latents
        fresh = True  # whether `hidden` belongs to the current latents at this place of the main path
        # what goes into the runs of layers whose delta is to be recorded
        entered: dict[str, tuple[Tensor, Tensor | None]] = {}
        for spec in self.unet.topology.layers:
            state = (hidden, self.call.stream)
            entered.update({feature: state for feature, (first, _) in self._ends.items() if first == spec.name})
            if spec.name in self.scope.evaluated:
                hidden, fresh = self._evaluate(spec, hidden if fresh else self._enter(spec)), True
            elif spec.name in self._replaced:
                hidden, fresh = self._add_delta(hidden, self._replaced[spec.name].feature), True
                if spec.pushes:
                    self.call.skips[spec.name] = hidden
            else:
                fresh = fresh and self._inside_delta(spec.name)
            for feature in [feature for feature in entered if self._ends[feature][1] == spec.name]:
                self._record_delta(feature, hidden, *entered.pop(feature))
            if self.fork is not None and self.fork.probe in self.recorded:
                self._turn(self.fork, entered)
        return hidden

    def _enter(self, spec: LayerSpec) -> Tensor:
        """What enters a layer according to the key step: the hidden map, and the audio stream beside it."""
        feature = f"{spec.name}:in"
        if self.call.stream is not None:
            self.call.stream = self._read_stream(feature)
        return self._read(feature)

    def _add_delta(self, hidden: Tensor, feature: str) -> Tensor:
        if self.call.stream is not None:
            self.call.stream = self.call.stream + self._read_stream(feature)
        return hidden + self._read(feature)

    def _record_delta(self, feature: str, hidden: Tensor, before: Tensor, heard: Tensor | None) -> None:
        self.recorded[feature] = hidden - before
        if heard is not None and self.call.stream is not None:
            self.recorded[stream_of(feature)] = self.call.stream - heard

    def _turn(self, fork: Fork, entered: dict[str, tuple[Tensor, Tensor | None]]) -> None:
        """The probe is known: go on in full, or turn into the fork's scope and record nothing."""
        assert self.cache is not None
        self.fork = None
        fork.reused = fork.reuses(self.recorded[fork.probe], self.cache.read(fork.probe, self.steps))
        if not fork.reused:
            self.cache.make_room()
            return
        self._follow(fork.scope)
        self.record, self._ends = frozenset(), {}
        self.recorded.clear()
        entered.clear()

    def _evaluate(self, spec: LayerSpec, hidden: Tensor) -> Tensor:
        """Run one layer and keep what is to be recorded of it."""
        self._fetch_skip(spec)
        if f"{spec.name}:in" in self.record:
            self.recorded[f"{spec.name}:in"] = hidden
            if self.call.stream is not None:
                self.recorded[stream_of(f"{spec.name}:in")] = self.call.stream
        hidden = self.unet._run(spec, hidden, self.call)
        self._count(spec.name)
        if spec.pushes:
            self.call.skips[spec.name] = hidden
        if f"{spec.name}:out" in self.record:
            self.recorded[f"{spec.name}:out"] = hidden
        return hidden

    def _inside_delta(self, name: str) -> bool:
        index = self.unet.topology.index
        return any(index(delta.first) <= index(name) < index(delta.last) for delta in self.scope.deltas)

    def _fetch_skip(self, spec: LayerSpec) -> None:
        if spec.pops is not None and spec.pops not in self.call.skips:
            self.call.skips[spec.pops] = self._read(f"{spec.pops}:out")

    def _read(self, feature: str) -> Tensor:
        assert self.cache is not None
        if self.engagement is not None:
            self.engagement.reuse(self.steps, feature)
        return self.call.layout.spread_frames(self.cache.read(feature, self.steps))

    def _read_stream(self, feature: str) -> Tensor:
        """The audio stream beside a feature; not counted, it is a part of it."""
        assert self.cache is not None
        return self.call.layout.spread_frames(self.cache.read(stream_of(feature), self.steps))

    def _count(self, layer: str) -> None:
        if self.engagement is not None:
            self.engagement.compute(self.steps, layer)

    # ------------------------------------------------------------------ foreground and reference

    def rows(self, spec: LayerSpec, part: str) -> WholeRows:
        """See `Call.rows`: merged with the key step's background, kept for the followers, or simply all."""
        rule = self.scope.foreground
        if rule is not None and part in rule.parts_of(spec):
            prefix = f"{spec.name}:{part}."
            return MergedRows(self._foreground(spec), rule, lambda name: self._read(prefix + name))
        prefix = f"{spec.name}:{part}."
        wanted = {feature[len(prefix) :] for feature in self.record if feature.startswith(prefix)}
        if not wanted:
            return WHOLE
        return KeptRows(self._foreground(spec), wanted, lambda name, rows: self.recorded.update({prefix + name: rows}))

    def reads_reference(self, site: str) -> bool:
        """See `Call.reads_reference`; every dropped reference is counted."""
        if site not in self.scope.without_reference:
            return True
        if self.engagement is not None:
            self.engagement.drop(self.steps, f"{site}:reference")
        return False

    def _foreground(self, spec: LayerSpec) -> Foreground:
        assert self.call.conditions is not None
        levels = self.call.conditions.foreground
        if levels is None:
            raise ConfigError(
                f"the strategy restricts the attention of {spec.name} to the foreground, but the conditions have none; "
                "give Conditions.foreground (lcp_bench.models.foreground.foreground_levels)"
            )
        return levels[spec.level]
