"""Names and order of a denoising UNet's layers, without torch.

A *layer* is the unit that a step evaluates or skips: `conv_in`, `down.I.J`, `down.I.ds` (downsampler), `mid`, `up.I.J`,
`up.I.us` (upsampler), `out`. Strategies speak in these names (*sites*), never in a model's classes.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    name: str
    level: int
    pushes: bool = False
    pops: str | None = None


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


def unet_topology(levels: int, layers_per_block: int) -> Topology:
    """Topology of an SD-1.5-shaped UNet: `levels` down blocks, a mid block, `levels` up blocks of one layer more.

    Skips are pushed by `conv_in`, every down layer and every downsampler, and popped last-in first-out by the up
    layers, so that `up.{levels-1}.{layers_per_block}` receives the output of `conv_in`.
    """
    down: list[LayerSpec] = [LayerSpec("conv_in", 0, pushes=True)]
    for block in range(levels):
        down += [LayerSpec(f"down.{block}.{j}", block, pushes=True) for j in range(layers_per_block)]
        if block < levels - 1:
            down.append(LayerSpec(f"down.{block}.ds", block + 1, pushes=True))
    stack = [layer.name for layer in down]
    up: list[LayerSpec] = []
    for block in range(levels):
        level = levels - 1 - block
        up += [LayerSpec(f"up.{block}.{j}", level, pops=stack.pop()) for j in range(layers_per_block + 1)]
        if block < levels - 1:
            up.append(LayerSpec(f"up.{block}.us", level - 1))
    return Topology((*down, LayerSpec("mid", levels - 1), *up, LayerSpec("out", 0)))
