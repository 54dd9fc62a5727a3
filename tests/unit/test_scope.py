"""What a follower evaluates and what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcp_bench.accel.scope import decoder_scope, delta_scope, full_scope, shell_scope
from lcp_bench.errors import ConfigError
from lcp_bench.models.topology import unet_topology

SD = unet_topology(levels=4, layers_per_block=2)
UP_SITES = [layer.name for layer in SD.layers if layer.pops is not None]

# Branch b of DeepCache's helper recomputes what lies outside skip b.
SHELLS = {
    "up.3.2": "conv_in up.3.2 out",
    "up.3.1": "conv_in down.0.0 up.3.1 up.3.2 out",
    "up.3.0": "conv_in down.0.0 down.0.1 up.3.0 up.3.1 up.3.2 out",
    "up.2.2": "conv_in down.0.0 down.0.1 down.0.ds up.2.2 up.2.us up.3.0 up.3.1 up.3.2 out",
    "up.2.1": "conv_in down.0.0 down.0.1 down.0.ds down.1.0 up.2.1 up.2.2 up.2.us up.3.0 up.3.1 up.3.2 out",
}


def test_full_scope() -> None:
    scope = full_scope(SD)
    assert scope.evaluated == set(SD.names)
    assert scope.reads(SD) == ()


@pytest.mark.parametrize("site", SHELLS)
def test_shell(site: str) -> None:
    scope = shell_scope(SD, site)
    assert scope.evaluated == set(SHELLS[site].split())
    assert scope.reads(SD) == (f"{site}:in",)
    assert scope.name == f"shell:{site}"


@pytest.mark.parametrize("site", UP_SITES)
def test_every_shell_reads_one_feature(site: str) -> None:
    """Its skips are all fresh; only the main path is cut."""
    scope = shell_scope(SD, site)
    assert scope.reads(SD) == (f"{site}:in",)
    assert "mid" not in scope.evaluated


def test_shells_are_nested() -> None:
    scopes = [shell_scope(SD, site).evaluated for site in UP_SITES]
    for wider, narrower in zip(scopes, scopes[1:], strict=False):
        assert narrower < wider


def test_shells_equal_the_layers_that_deepcache_ran(shared_dir: Path) -> None:
    meta = json.loads((shared_dir / "goldens/accel/deepcache_sd_tiny/meta.json").read_text())
    sites = {0: "up.3.2", 1: "up.3.1", 2: "up.3.0"}
    seen = set()
    for run in meta["runs"]:
        ran = {_layer(module) for module in run["non_key_layers_run"]} - {"time_embedding"}
        assert shell_scope(SD, sites[run["cache_branch_id"]]).evaluated == ran
        seen.add(run["cache_branch_id"])
    assert seen == set(sites)


def _layer(module: str) -> str:
    """`up_blocks.3.resnets.2` to `up.3.2`."""
    block, *rest = module.split(".")
    if not rest:
        return "out" if block in ("conv_norm_out", "conv_out") else block
    return f"{block.removesuffix('_blocks')}.{rest[0]}.{rest[2]}"


@pytest.mark.parametrize("site", ["mid", "conv_in", "out", "down.0.0", "up.2.us"])
def test_shell_needs_a_layer_with_a_skip(site: str) -> None:
    with pytest.raises(ConfigError, match="has no skip to resume with") as caught:
        shell_scope(SD, site)
    for allowed in UP_SITES:
        assert allowed in str(caught.value)


def test_shell_of_an_unknown_site_lists_the_sites() -> None:
    with pytest.raises(ConfigError, match=r"unknown site 'up\.4\.0'.*This model has: conv_in, .*up\.3\.2, out"):
        shell_scope(SD, "up.4.0")


def test_decoder() -> None:
    """Faster Diffusion: all up blocks on the recorded mid output and the twelve recorded skips."""
    scope = decoder_scope(SD)
    assert scope.evaluated == {name for name in SD.names if name.startswith("up.")} | {"out"}
    skips = [f"{SD[site].pops}:out" for site in UP_SITES]
    assert scope.reads(SD) == ("up.0.0:in", *skips)
    assert len(skips) == 12


def test_delta_of_the_mid_block() -> None:
    scope = delta_scope(SD, "mid", "mid")
    assert scope.evaluated == set(SD.names) - {"mid"}
    assert scope.reads(SD) == ("mid..mid:delta",)


def test_delta_over_skips_reads_them_as_recorded() -> None:
    """The range swallows the makers of three skips; who pops them reads the recorded ones."""
    scope = delta_scope(SD, "down.2.ds", "up.0.us")
    assert scope.evaluated.isdisjoint(SD.names[SD.index("down.2.ds") : SD.index("up.1.0")])
    assert scope.reads(SD) == ("down.2.ds..up.0.us:delta",)
    wider = delta_scope(SD, "down.0.0", "up.3.0")
    assert wider.reads(SD) == ("down.0.0..up.3.0:delta", "down.0.0:out")


def test_delta_that_ends_in_the_encoder_makes_its_last_skip_itself() -> None:
    """up.3.0 pops down.0.1, which the range replaces: its skip is the current map, not the key step's."""
    scope = delta_scope(SD, "down.0.0", "down.0.1")
    assert scope.reads(SD) == ("down.0.0..down.0.1:delta", "down.0.0:out")


@pytest.mark.parametrize(("first", "last"), [("up.3.1", "up.3.0"), ("mid", "down.3.1")])
def test_delta_range_must_run_forwards(first: str, last: str) -> None:
    with pytest.raises(ConfigError, match="runs backwards"):
        delta_scope(SD, first, last)


@pytest.mark.parametrize(("first", "last"), [("conv_in", "mid"), ("mid", "out"), ("conv_in", "out")])
def test_delta_range_must_leave_out_both_ends(first: str, last: str) -> None:
    with pytest.raises(ConfigError, match="must leave out conv_in and out"):
        delta_scope(SD, first, last)


@pytest.mark.parametrize(
    ("first", "last"), [("down.0.0", "down.0.ds"), ("down.1.0", "mid"), ("up.0.us", "up.1.2"), ("down.1.0", "down.1.1")]
)
def test_delta_range_must_keep_the_resolution(first: str, last: str) -> None:
    """A difference between maps of two sizes does not exist; torch's broadcasting error would come mid-run."""
    with pytest.raises(ConfigError, match="size|level|resolution|shape"):
        delta_scope(SD, first, last)


def test_delta_of_an_unknown_site() -> None:
    with pytest.raises(ConfigError, match="unknown site"):
        delta_scope(SD, "down.0.0", "down.9.0")
