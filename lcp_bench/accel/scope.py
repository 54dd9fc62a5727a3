"""Scopes: which layers a step evaluates and what it reads from the features recorded at its key step.

A scope is data. The UNet walks its layers in order; a layer outside the scope costs nothing. Where an evaluated layer
needs something that an unevaluated layer would have produced, it is read from the feature cache:

* `SITE:in` - the hidden map that enters a layer on the main path (before the skip is concatenated);
* `SITE:out` - the output of an encoder layer, needed as a skip;
* `SITE:PART.OPERATION` - what an attention or feed-forward added to the background (`lcp_bench.accel.dfa`);
* `FIRST..LAST:delta` - output of LAST minus input of FIRST, added to the current hidden map (Delta-DiT's cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology

if TYPE_CHECKING:
    from lcp_bench.accel.dfa import ForegroundRule


@dataclass(frozen=True, slots=True)
class Delta:
    """A run of layers, both ends included, replaced by what it added to its input at the key step."""

    first: str
    last: str

    @property
    def feature(self) -> str:
        """Name of the recorded feature."""
        return f"{self.first}..{self.last}:delta"


def delta_ends(feature: str) -> tuple[str, str]:
    """First and last layer of a delta feature's name."""
    first, last = feature.removesuffix(":delta").split("..")
    return first, last


@dataclass(frozen=True)
class Scope:
    """The part of the network that one step evaluates.

    Attributes:
        name: What the plan prints.
        evaluated: Site names of the layers that run.
        deltas: Runs of skipped layers that are replaced by a recorded difference instead of a recorded feature.
        foreground: Attentions that compute the foreground only and take the rest from the key step; None: no such.
        without_reference: Evaluated layers that do not read their reference features.
    """

    name: str
    evaluated: frozenset[str]
    deltas: tuple[Delta, ...] = ()
    foreground: ForegroundRule | None = None
    without_reference: frozenset[str] = frozenset()

    def drops(self, topology: Topology) -> tuple[str, ...]:
        """Features that evaluated layers have and do not read."""
        return tuple(f"{name}:reference" for name in topology.names if name in self.without_reference)

    def reads(self, topology: Topology) -> tuple[str, ...]:
        """Features the scope needs from the key step, in the order of use."""
        found: list[str] = []
        resumes = {topology.index(delta.last) + 1: delta for delta in self.deltas}
        made = self.evaluated | {delta.last for delta in self.deltas}
        starts = {delta.first for delta in self.deltas}
        previous_ran = True
        for position, layer in enumerate(topology.layers):
            ran = layer.name in self.evaluated
            if position in resumes:
                found.append(resumes[position].feature)
                previous_ran = True
            if layer.name in starts and not previous_ran:
                raise ConfigError(
                    f"scope {self.name}: the delta from {layer.name} on starts where the map is not the current one; "
                    "evaluate the layer in front of it"
                )
            if ran and not previous_ran:
                found.append(f"{layer.name}:in")
            if ran and layer.pops is not None and layer.pops not in made:
                found.append(f"{layer.pops}:out")
            if ran and self.foreground is not None:
                found += self.foreground.features(layer)
            previous_ran = ran
        return tuple(dict.fromkeys(found))


def full_scope(topology: Topology) -> Scope:
    """Every layer: what a key step evaluates."""
    return Scope("full", frozenset(topology.names))


def shell_scope(topology: Topology, site: str) -> Scope:
    """From the up layer `site` to the end on its recorded input, plus the encoder layers whose skips it consumes.

    For `up.3.2` this is `conv_in`, `up.3.2`, `out`: LightningCP's follower (arXiv 2509.00052, section 3.2) and branch 0
    of DeepCache's helper. For earlier sites the encoder prefix up to the skip that `site` pops is evaluated too,
    because its skips must belong to the current latents.
    """
    layer = topology[site]
    if layer.pops is None:
        allowed = ", ".join(spec.name for spec in topology.layers if spec.pops is not None)
        raise ConfigError(f"site {site!r} has no skip to resume with; expected one of: {allowed}")
    encoder = topology.names[: topology.index(layer.pops) + 1]
    decoder = topology.names[topology.index(site) :]
    return Scope(f"shell:{site}", frozenset((*encoder, *decoder)))


def resume_scope(topology: Topology, site: str) -> Scope:
    """From `site` to the end with everything it needs recorded, skips too; the current latents are not read at all."""
    return Scope(f"resume:{site}", frozenset(topology.names[topology.index(site) :]))


def decoder_scope(topology: Topology) -> Scope:
    """All up layers and the output on recorded skips and a recorded mid output (Faster Diffusion, arXiv 2312.09608)."""
    first_up = next(position for position, layer in enumerate(topology.layers) if layer.pops is not None)
    return Scope("decoder", frozenset(topology.names[first_up:]))


def delta_scope(topology: Topology, first: str, last: str) -> Scope:
    """Everything but the layers `first`..`last`, which are replaced by their recorded delta (arXiv 2406.01125).

    The run must keep the shape of the hidden map. The skip of its last layer is the current map; skips produced before
    that are read as recorded.

    Raises:
        ConfigError: Unknown sites, a range that runs backwards, or one that has no difference.
    """
    return _without(topology, f"delta:{first}..{last}", (checked_delta(topology, first, last),))


def layer_deltas_scope(topology: Topology, first: str, last: str) -> Scope:
    """As `delta_scope`, but every layer of the run is replaced by its own delta, so that its skips are current too."""
    start, stop = topology.index(first), topology.index(last)
    checked_delta(topology, first, last)
    names = topology.names[start : stop + 1]
    return _without(topology, f"deltas:{first}..{last}", tuple(checked_delta(topology, name, name) for name in names))


def checked_delta(topology: Topology, first: str, last: str) -> Delta:
    """The delta of a run of layers that keeps the shape of the hidden map; see `delta_scope`."""
    start, stop = topology.index(first), topology.index(last)
    if stop < start:
        raise ConfigError(f"delta range {first}..{last} runs backwards; {last} comes before {first}")
    if start == 0 or stop == len(topology.layers) - 1:
        raise ConfigError(f"delta range {first}..{last} must leave out conv_in and out")
    before, after = topology.layers[start - 1].shape, topology.layers[stop].shape
    if before != after:
        raise ConfigError(
            f"delta range {first}..{last} changes the size or width of the hidden map, so there is no difference to "
            "keep; start and end at the same resolution and width, for example down.0.0..up.3.1"
        )
    return Delta(first, last)


def _without(topology: Topology, name: str, deltas: tuple[Delta, ...]) -> Scope:
    evaluated = set(topology.names)
    for delta in deltas:
        evaluated -= set(topology.names[topology.index(delta.first) : topology.index(delta.last) + 1])
    return Scope(name, frozenset(evaluated), deltas)
