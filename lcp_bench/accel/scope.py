"""Scopes: which layers a step evaluates and what it reads from the features recorded at its key step.

A scope is data. The UNet walks its layers in order; a layer outside the scope costs nothing. Where an evaluated layer
needs something that an unevaluated layer would have produced, it is read from the feature cache:

* `SITE:in` - the hidden map that enters a layer on the main path (before the skip is concatenated);
* `SITE:out` - the output of an encoder layer, needed as a skip;
* `FIRST..LAST:delta` - output of LAST minus input of FIRST, added to the current hidden map (Delta-DiT's cache).
"""

from __future__ import annotations

from dataclasses import dataclass

from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology


@dataclass(frozen=True, slots=True)
class Delta:
    """A run of layers, both ends included, replaced by what it added to its input at the key step."""

    first: str
    last: str

    @property
    def feature(self) -> str:
        """Name of the recorded feature."""
        return f"{self.first}..{self.last}:delta"


@dataclass(frozen=True)
class Scope:
    """The part of the network that one step evaluates.

    Attributes:
        name: What the plan prints.
        evaluated: Site names of the layers that run.
        deltas: Runs of skipped layers that are replaced by a recorded difference instead of a recorded feature.
    """

    name: str
    evaluated: frozenset[str]
    deltas: tuple[Delta, ...] = ()

    def reads(self, topology: Topology) -> tuple[str, ...]:
        """Features the scope needs from the key step, in the order of use."""
        found: list[str] = []
        resumes = {topology.index(delta.last) + 1: delta for delta in self.deltas}
        made = self.evaluated | {delta.last for delta in self.deltas}
        previous_ran = True
        for position, layer in enumerate(topology.layers):
            ran = layer.name in self.evaluated
            if position in resumes:
                found.append(resumes[position].feature)
                previous_ran = True
            if ran and not previous_ran:
                found.append(f"{layer.name}:in")
            if ran and layer.pops is not None and layer.pops not in made:
                found.append(f"{layer.pops}:out")
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
    skipped = set(topology.names[start : stop + 1])
    return Scope(f"delta:{first}..{last}", frozenset(topology.names) - skipped, (Delta(first, last),))
