"""Layer names, their order, and which skip goes where."""

from __future__ import annotations

import pytest

from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import Topology, unet_topology

SD = unet_topology(levels=4, layers_per_block=2)


def test_order_of_a_stable_diffusion_unet() -> None:
    expected = """
        conv_in down.0.0 down.0.1 down.0.ds down.1.0 down.1.1 down.1.ds down.2.0 down.2.1 down.2.ds down.3.0 down.3.1
        mid up.0.0 up.0.1 up.0.2 up.0.us up.1.0 up.1.1 up.1.2 up.1.us up.2.0 up.2.1 up.2.2 up.2.us up.3.0 up.3.1 up.3.2
        out
    """
    assert SD.names == tuple(expected.split())


def test_which_skip_goes_where() -> None:
    """Last in, first out; the last up layer gets the very first skip."""
    pops = {layer.name: layer.pops for layer in SD.layers if layer.pops is not None}
    assert pops == {
        "up.0.0": "down.3.1", "up.0.1": "down.3.0", "up.0.2": "down.2.ds",
        "up.1.0": "down.2.1", "up.1.1": "down.2.0", "up.1.2": "down.1.ds",
        "up.2.0": "down.1.1", "up.2.1": "down.1.0", "up.2.2": "down.0.ds",
        "up.3.0": "down.0.1", "up.3.1": "down.0.0", "up.3.2": "conv_in",
    }  # fmt: skip


def test_levels() -> None:
    """A downsampler's output belongs to the coarser level, an upsampler's to the finer one."""
    wanted = {"conv_in": 0, "down.0.1": 0, "down.0.ds": 1, "down.2.ds": 3, "down.3.0": 3, "mid": 3, "up.0.2": 3}
    wanted |= {"up.0.us": 2, "up.1.0": 2, "up.2.us": 0, "up.3.0": 0, "out": 0}
    assert {name: SD[name].level for name in wanted} == wanted


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_skip_is_used_once_at_its_own_resolution(levels: int, layers: int) -> None:
    topology = unet_topology(levels, layers)
    pushed = [layer.name for layer in topology.layers if layer.pushes]
    popped = [layer.pops for layer in topology.layers if layer.pops is not None]
    assert popped == pushed[::-1]
    assert len(pushed) == levels * (layers + 1)
    assert len(set(topology.names)) == len(topology.names)
    for layer in topology.layers:
        if layer.pops is not None:
            assert topology[layer.pops].level == layer.level
            assert topology.index(layer.pops) < topology.index(layer.name)


def test_index_is_the_place_in_the_walk() -> None:
    assert [SD.index(name) for name in SD.names] == list(range(len(SD.names)))


def test_unknown_site() -> None:
    with pytest.raises(ConfigError) as caught:
        SD.index("up.3.3")
    message = str(caught.value)
    assert "'up.3.3'" in message
    assert "did you mean 'up.3." in message
    for name in SD.names:
        assert name in message


def test_unknown_site_without_a_close_match() -> None:
    with pytest.raises(ConfigError, match="unknown site 'transformer'") as caught:
        Topology(SD.layers)["transformer"]
    assert "did you mean" not in str(caught.value)
