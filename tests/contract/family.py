"""Small networks of the family with random weights and conditions, for tests of what runs and what is reused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import AudioConfig, TemporalConfig, UNetConfig
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1

TOKEN_DIM = 16


def two_levels() -> UNetConfig:
    """Every kind of module at two levels; the coarser level has no attention.

    Groups of several channels: a norm over single channels would remove the time embedding.
    """
    return UNetConfig(
        norm_groups=8,
        channels=(32, 64),
        attention_levels=(True, False),
        heads=2,
        image_token_dim=TOKEN_DIM,
        audio=AudioConfig(token_dim=TOKEN_DIM),
        temporal=TemporalConfig(heads=2, in_plain_blocks=False),
    )


def seeded_unet(config: UNetConfig, seed: int = 3) -> UNet:
    """A network with weights by the rule of the goldens, the position tables as computed."""
    unet = UNet(config).eval().requires_grad_(False)
    tables = [name for name, _ in unet.named_buffers() if name.endswith(".pe")]
    apply_seeded_v1(unet, seed, computed_buffers=tables)
    return unet


class Draw:
    """Standard normal tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)


def level_sizes(height: int, width: int, levels: int) -> list[tuple[int, int]]:
    """Sizes of all levels; strided convolutions round up."""
    sizes = [(height, width)]
    for _ in range(levels - 1):
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    return sizes


def random_conditions(
    unet: UNet, *, branches: int = 2, frames: int = 4, size: tuple[int, int] = (8, 8), motion: int = 2, seed: int = 5
) -> Conditions:
    """Reference, image, audio, masks and pixel feature, all different for every branch and frame where they can be."""
    draw, config = Draw(seed), unet.config
    sizes = level_sizes(*size, levels=len(config.channels))
    bank = {}
    for name in unet.attention_sites():
        level = unet.topology[name].level
        height, width = sizes[level]
        bank[name] = draw(branches * (1 + motion), height * width, config.channels[level])
    assert config.image_token_dim is not None
    sites = unet.site_conditions(
        bank,
        draw(branches, 4, config.image_token_dim),
        draw(branches, frames, 3, config.image_token_dim),
        branches=branches,
        frames=frames,
        row_rule="tiled",
    )
    masks = [draw(3, branches * frames, height * width, 1).sigmoid() for height, width in sizes]
    feature = draw(branches, frames, config.channels[0], *size)
    return Conditions(branches, frames, sites, masks, feature)


def layer_modules(unet: UNet) -> dict[str, nn.Module]:
    """One module per layer that runs exactly once when the layer runs."""
    modules: dict[str, nn.Module] = {"conv_in": unet.conv_in, "out": unet.conv_out, "mid": unet.mid_block.resnets[0]}
    for kind, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks)):
        for number, block in enumerate(blocks):
            modules.update({f"{kind}.{number}.{j}": resnet for j, resnet in enumerate(block.resnets)})
            for tail, name in (("downsamplers", "ds"), ("upsamplers", "us")):
                if hasattr(block, tail):
                    modules[f"{kind}.{number}.{name}"] = getattr(block, tail)[0]
    assert set(modules) == set(unet.topology.names)
    return modules


@contextmanager
def counted_calls(unet: UNet) -> Iterator[Counter[str]]:
    """Counts the forward calls of every layer, seen from outside the network's own counters."""
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, layer=name: calls.update([layer]))
        for name, module in layer_modules(unet).items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
