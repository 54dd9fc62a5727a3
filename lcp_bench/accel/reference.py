"""Reference feature removal (arXiv 2509.00052): layers whose self-attention stops reading the reference.

In these layers the conditional rows attend to their own tokens only, as the unconditional rows always do. Composes with
any scope and with DFA; it needs no cache, so it also works where every step is key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lcp_bench.accel.scope import Scope
    from lcp_bench.models.topology import Topology


@dataclass(frozen=True, kw_only=True)
class RemovalConfig:
    """Options of the removal.

    The paper names neither the layers nor the steps and says that they vary among models. What can be said about Hallo:
    removal lowers 679.56 TFLOP (table 2) to 671.44 (there) or 671.40 (table 1), by 8.12 to 8.16. That is 11 key steps
    times the reference's share of one 64 x 64 layer (0.7409 TFLOP, together 8.150), or, by a coincidence of powers of
    two, of all five 16 x 16 layers and three 32 x 32 ones (the same number); with key steps alone no third combination
    fits. It is not `up.3.2` at every step: that would save another 4.4 at the followers. The other four 64 x 64 layers
    (`down.0.0`, `down.0.1`, `up.3.0`, `up.3.1`) are equally good, and as followers do not evaluate them, "every step"
    and "key steps" mean the same there. EchoMimic's difference (4.44; 8 key steps times 0.5557) says the same; MEMO's
    (0.74) fits `up.3.2` at every step (0.43 at key steps, 0.30 at followers); EchoMimic Acc's fits no single layer. The
    default `up.3.1` is the layer whose output followers reuse; which of the four is best for the lips is a question of
    measurement.

    Attributes:
        sites: Layers that lose the reference, as patterns (`*`, `?`); none leaves every layer as it is.
        steps: At which steps: `all`, `key` or `followers`.
    """

    sites: tuple[str, ...] = ("up.3.1",)
    steps: Literal["all", "key", "followers"] = "all"


def without_reference(
    scope: Scope, config: RemovalConfig | None, topology: Topology, kind: Literal["key", "followers"]
) -> Scope:
    """A scope whose layers do not read the reference where the configuration says so.

    Raises:
        ConfigError: A pattern matches no layer with attention.
    """
    if config is None:
        return scope
    matched = topology.attention_sites(config.sites, "accel.reference.sites") if config.sites else frozenset()
    dropped = matched & scope.evaluated
    if config.steps not in ("all", kind) or not dropped:
        return scope
    return replace(scope, name=f"{scope.name}-reference", without_reference=dropped)


def unread_references(scopes: Iterable[Scope | None], topology: Topology) -> frozenset[str]:
    """Layers whose reference features none of the scopes reads, though one evaluates them; None is the full network."""
    read: set[str] = set()
    dropped: set[str] = set()
    for scope in scopes:
        evaluated = frozenset(topology.names) if scope is None else scope.evaluated
        without = frozenset() if scope is None else scope.without_reference
        read |= evaluated - without
        dropped |= without
    return frozenset(dropped - read)
