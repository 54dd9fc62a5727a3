"""Decoupled foreground attention, DFA (arXiv 2509.00052), as data; the tensors are in models/foreground.py.

At followers, some attentions compute the foreground of the reference picture only; what they add to the background is
what they added at the newest key step, which keeps those rows. Composes with any scope.

Readings, where the paper leaves a choice open:

* *Projections are restricted, feed-forwards are not.* The text speaks of attention, the figure draws whole modules. The
  published FLOPs decide (differences between LCP and LCP + DFA in table 2, per follower). With attention and its
  projections restricted, Hallo, EchoMimic and MEMO imply foreground ratios of 0.43, 0.40 and 0.47: about one value, as
  it must be for the same portraits. With feed-forwards restricted too they imply 0.57, 0.54 and 0.79; with the
  attention cores alone 0.23 and 0.11, and nothing explains MEMO, whose cores the paper did not count. EchoMimic Acc
  fits only the second reading, at 0.38.
* *What is kept* is what the attention adds to its residual, after the output projection; of a temporal module, the sum
  over its attentions. Group norms, layer norms and cross-attentions see the whole map.
* *The mask* is shrunk by area; `coverage` and `dilation` are ours. A follower's attention to the reference uses the
  same cells of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from lcp_bench.errors import ConfigError

if TYPE_CHECKING:
    from lcp_bench.accel.scope import Scope
    from lcp_bench.models.topology import LayerSpec, Topology

Part = Literal["reference", "audio", "temporal"]
PARTS: tuple[Part, ...] = get_args(Part)
"""Self-attentions of a layer: with reference features, of the audio module, over time."""

PAPER_RATIO = 0.4316
"""Foreground's share of the 64 x 64 latent that turns Hallo's published 745.72 TFLOP into 679.56."""


@dataclass(frozen=True, kw_only=True)
class ForegroundConfig:
    """Options of DFA.

    Attributes:
        sites: Layers whose attentions are restricted, as patterns (`*`, `?`); of these, those that followers evaluate.
        parts: Which of a layer's self-attentions; a layer that lacks one has nothing to restrict there.
        projections: Compute queries, keys, values and the output projection for the foreground only. Off, only the
            attention proper is short: the same result for more work (the temporal attentions, whose core is a few
            percent, then run everywhere and the background is discarded).
        feed_forward: Restrict the feed-forwards of the same modules too.
        reference_keys: Let the foreground see the reference's foreground only; off, all of the reference.
        coverage: Share of a cell's area that must be foreground, above 0 up to 1.
        dilation: Latent cells by which the foreground grows in every direction.
        assumed_ratio: The foreground's share that a plan counts with before any picture is known; the default is what
            the published FLOPs imply. A run's rows carry the true share.
    """

    sites: tuple[str, ...] = ("*",)
    parts: tuple[Part, ...] = PARTS
    projections: bool = True
    feed_forward: bool = False
    reference_keys: bool = True
    coverage: float = 0.5
    dilation: int = 0
    assumed_ratio: float = PAPER_RATIO

    def __post_init__(self) -> None:
        if not self.sites or not self.parts:
            raise ConfigError("accel.attention needs at least one site and one part; accel.attention=null turns it off")
        if not 0 < self.coverage <= 1:
            raise ConfigError(f"accel.attention.coverage must be above 0 and up to 1, got {self.coverage}")
        if not 0 <= self.dilation <= 64:
            raise ConfigError(f"accel.attention.dilation must be in 0..64 latent cells, got {self.dilation}")
        if not 0 <= self.assumed_ratio <= 1:
            raise ConfigError(f"accel.attention.assumed_ratio must be in 0..1, got {self.assumed_ratio}")

    def rule(self, topology: Topology) -> ForegroundRule:
        """The rule for a model.

        Raises:
            ConfigError: A pattern matches no layer with attention.
        """
        sites = topology.attention_sites(self.sites, "accel.attention.sites")
        return ForegroundRule(
            sites,
            frozenset(self.parts),
            projections=self.projections,
            feed_forward=self.feed_forward,
            reference_keys=self.reference_keys,
        )


@dataclass(frozen=True, slots=True)
class ForegroundRule:
    """Which attentions of a scope compute the foreground only.

    Attributes:
        sites: Layers.
        parts: Which of their self-attentions.
        projections: See `ForegroundConfig`.
        feed_forward: See `ForegroundConfig`.
        reference_keys: See `ForegroundConfig`.
    """

    sites: frozenset[str]
    parts: frozenset[Part]
    projections: bool = True
    feed_forward: bool = False
    reference_keys: bool = True

    @property
    def operations(self) -> tuple[str, ...]:
        """What is restricted in each part: the names of what a key step keeps."""
        return ("attention", "feed_forward") if self.feed_forward else ("attention",)

    def parts_of(self, layer: LayerSpec) -> tuple[Part, ...]:
        """The restricted parts of a layer, in the order in which it runs them."""
        if layer.name not in self.sites:
            return ()
        return tuple(part for part in PARTS if part in self.parts and part in layer.attentions)

    def features(self, layer: LayerSpec) -> tuple[str, ...]:
        """What a follower reads of the key step for a layer, for example `up.3.2:temporal.attention`."""
        return tuple(f"{layer.name}:{part}.{name}" for part in self.parts_of(layer) for name in self.operations)


def with_foreground(scope: Scope, config: ForegroundConfig | None, topology: Topology) -> Scope:
    """A follower's scope with its attention restricted to the foreground.

    Raises:
        ConfigError: A pattern matches no layer with attention, or nothing that the scope evaluates is restricted.
    """
    if config is None:
        return scope
    rule = config.rule(topology)
    restricted = [layer.name for layer in topology.layers if layer.name in scope.evaluated and rule.parts_of(layer)]
    if not restricted:
        with_attention = [layer.name for layer in topology.layers if layer.attentions]
        evaluated = [name for name in with_attention if name in scope.evaluated]
        raise ConfigError(
            f"accel.attention restricts nothing: followers evaluate attention in {', '.join(evaluated) or 'no layer'}, "
            f"but accel.attention.sites={list(config.sites)} with parts={list(config.parts)} names none of it; use "
            "sites=['*'], or accel.attention=null"
        )
    return replace(scope, name=f"{scope.name}+foreground", foreground=rule)
