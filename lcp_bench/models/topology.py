"""Names and order of a denoising UNet's layers, without torch.

A *layer* is the unit that a step evaluates or skips: `conv_in`, `down.I.J`, `down.I.ds` (downsampler), `mid`, `up.I.J`,
`up.I.us` (upsampler), `out`. Strategies speak in these names (*sites*), never in a model's classes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from lcp_bench.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of the walk.

    Attributes:
        name: Site name, for example `up.3.2`.
        level: Resolution level, 0 is the latent's own size, each level halves it.
        pushes: Whether the output is kept as a skip.
        pops: The layer whose output is concatenated to this layer's input, if any.
        shape: Level of the output's size, and its width in channels (or in multiples of the first level's).
        attentions: Which self-attentions the layer has: `reference`, `audio`, `temporal`.
    """

    name: str
    level: int
    shape: tuple[int, int]
    pushes: bool = False
    pops: str | None = None
    attentions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Topology:
    """The layers of one UNet in execution order."""

    layers: tuple[LayerSpec, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All site names in execution order."""
        return tuple(layer.name for layer in self.layers)

    def index(self, name: str) -> int:
        """Position of a site; an unknown site is a `ConfigError` that lists the sites."""
        for position, layer in enumerate(self.layers):
            if layer.name == name:
                return position
        close = get_close_matches(name, self.names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown site {name!r}{hint} This model has: {', '.join(self.names)}")

    def __getitem__(self, name: str) -> LayerSpec:
        return self.layers[self.index(name)]

    def attention_sites(self, patterns: Sequence[str] = ("*",), key: str = "sites") -> frozenset[str]:
        """Layers with spatial attention whose names match any of the patterns (shell style).

        Args:
            patterns: For example `up.3.*`.
            key: Name of the option, for the message.

        Raises:
            ConfigError: A pattern matches none of them.
        """
        names = [layer.name for layer in self.layers if "reference" in layer.attentions]
        matched: set[str] = set()
        for pattern in patterns:
            found = fnmatch.filter(names, pattern)
            if not found:
                close = get_close_matches(pattern, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(
                    f"{key}: {pattern!r} matches no layer with attention{hint} This model has: {', '.join(names)}"
                )
            matched.update(found)
        return frozenset(matched)


def unet_topology(
    levels: int,
    layers_per_block: int,
    widths: Sequence[int] = (),
    *,
    attention_levels: Sequence[bool] = (),
    attentions: Sequence[str] = ("reference", "audio", "temporal"),
) -> Topology:
    """Topology of an SD-1.5-shaped UNet: `levels` down blocks, a mid block, `levels` up blocks of one layer more.

    Skips are pushed by `conv_in`, every down layer and every downsampler, and popped last-in first-out by the up
    layers, so that `up.{levels-1}.{layers_per_block}` receives the output of `conv_in`.

    Args:
        levels: Resolution levels.
        layers_per_block: Layers of a down block.
        widths: Width of each level, in channels or as ratios; SD-1.5's ratios 1, 2, 4, 4, ... unless given.
        attention_levels: Whether the blocks of each level have attention; all but the coarsest unless given. The mid
            block always has it.
        attentions: The self-attentions of a layer that has any.
    """
    attends = attention_levels or [level < levels - 1 for level in range(levels)]
    widths = widths or [min(2**level, 4) for level in range(levels)]
    down: list[LayerSpec] = [LayerSpec("conv_in", 0, (0, widths[0]), pushes=True)]
    for block in range(levels):
        shape = (block, widths[block])
        down += [LayerSpec(f"down.{block}.{j}", block, shape, pushes=True) for j in range(layers_per_block)]
        if block < levels - 1:
            down.append(LayerSpec(f"down.{block}.ds", block + 1, (block + 1, widths[block]), pushes=True))
    stack = [layer.name for layer in down]
    up: list[LayerSpec] = []
    for block in range(levels):
        level = levels - 1 - block
        names = [f"up.{block}.{j}" for j in range(layers_per_block + 1)]
        up += [LayerSpec(name, level, (level, widths[level]), pops=stack.pop()) for name in names]
        if block < levels - 1:
            up.append(LayerSpec(f"up.{block}.us", level - 1, (level - 1, widths[level])))
    coarsest = levels - 1
    mid = LayerSpec("mid", coarsest, (coarsest, widths[coarsest]))
    layers = (*down, mid, *up, LayerSpec("out", 0, (0, widths[0])))
    return Topology(tuple(_with_attentions(layer, attends, tuple(attentions)) for layer in layers))


def _with_attentions(layer: LayerSpec, attends: Sequence[bool], attentions: tuple[str, ...]) -> LayerSpec:
    inner = layer.name == "mid" or layer.name.rpartition(".")[2].isdecimal()
    has = inner and (layer.name == "mid" or attends[layer.level])
    return replace(layer, attentions=attentions) if has else layer
