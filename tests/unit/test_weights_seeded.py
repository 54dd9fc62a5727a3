"""Seeded weights: the documented rule, value by value, and draws on a device."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.weights.seeded import (
    apply_seeded_v1,
    draw_on_device,
    position_table,
    seeded_v1,
    weights_identity,
)


class Small(nn.Module):
    """A module with every kind of tensor the rule distinguishes."""

    pe: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("pe", position_table((1, 5, 6)))


def _normal(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
    return generator.standard_normal(shape).astype(np.float32)


RULES: list[tuple[str, tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = [
    ("bn.running_var", (7,), lambda x: 0.5 + 0.5 * np.abs(x)),
    ("bn.running_mean", (7,), lambda x: 0.1 * x),
    ("conv.weight", (4, 3, 3, 3), lambda x: x / np.sqrt(27)),
    ("table.original0", (1, 1, 8), lambda x: x / np.sqrt(8)),
    ("norm.weight", (7,), lambda x: 1 + 0.1 * x),
    ("norm.bias", (7,), lambda x: 0.1 * x),
    ("scale", (), lambda x: 0.1 * x),
]


@pytest.mark.parametrize(("key", "shape", "rule"), RULES, ids=[key for key, _, _ in RULES])
def test_rule(key: str, shape: tuple[int, ...], rule: Callable[[np.ndarray], np.ndarray]) -> None:
    got = seeded_v1(key, shape, seed=5)
    assert got.dtype == np.float32 and got.shape == shape
    np.testing.assert_allclose(got, rule(_normal(key, shape, 5)), rtol=3e-7, atol=1e-8)


def test_known_values() -> None:
    """Values computed once with numpy from the written rule; they must never change."""
    known = [-0.3358731, -0.7058884, -0.61944542, 1.33588643]
    np.testing.assert_allclose(seeded_v1("conv_in.weight", (2, 2), 0).ravel(), known, rtol=1e-6)


def test_key_and_seed_matter() -> None:
    assert not np.array_equal(seeded_v1("a.weight", (4,), 0), seeded_v1("b.weight", (4,), 0))
    assert not np.array_equal(seeded_v1("a.weight", (4,), 0), seeded_v1("a.weight", (4,), 1))


def test_apply_fills_by_key_and_leaves_integers_and_computed_buffers() -> None:
    module = Small()
    module.get_buffer("norm.num_batches_tracked").fill_(3)
    before = module.pe.clone()
    apply_seeded_v1(module, 2, computed_buffers=("pe",), prefix="net.")
    assert torch.equal(
        module.conv.weight,
        torch.from_numpy(seeded_v1("net.conv.weight", (4, 3, 3, 3), 2)),
    )
    running = module.get_buffer("norm.running_var")
    assert torch.equal(running, torch.from_numpy(seeded_v1("net.norm.running_var", (4,), 2)))
    assert int(module.get_buffer("norm.num_batches_tracked")) == 3
    assert torch.equal(module.pe, before)


def test_apply_gives_meta_modules_float32_values_on_the_cpu() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    apply_seeded_v1(module, 0)
    assert torch.equal(module.weight, torch.from_numpy(seeded_v1("weight", (2, 3), 0)))


def test_apply_names_unknown_computed_buffers_and_tensors_without_values() -> None:
    with pytest.raises(WeightsError, match=r"computed buffers \['no.pe'\]"):
        apply_seeded_v1(nn.Linear(2, 2), 0, computed_buffers=("no.pe",))
    with torch.device("meta"):
        module = Small()
    with pytest.raises(WeightsError, match=r"1 tensors have no value .*num_batches_tracked"):
        apply_seeded_v1(module, 0, computed_buffers=("pe",))


def test_position_table() -> None:
    table = position_table((1, 4, 6))
    angle = 3 * 10000 ** (-2 / 6)
    assert table.shape == (1, 4, 6)
    assert table[0, 3, 2:4].tolist() == pytest.approx([np.sin(angle), np.cos(angle)], rel=1e-5)
    with pytest.raises(WeightsError, match="even channels"):
        position_table((1, 4, 5))


def _drawn(seed: int = 0, component: str = "net", dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        module = nn.ModuleDict({"linear": nn.Linear(400, 300), "norm": nn.LayerNorm(300)})
        module.register_buffer("pe", torch.empty(1, 5, 6))
    draw_on_device(module, seed, "cpu", dtype, component=component)
    return dict(module.state_dict())


def test_draw_has_the_rules_scale_type_and_computed_tables() -> None:
    state = _drawn(dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    weight = state["linear.weight"].float()
    assert float(weight.std()) == pytest.approx(1 / 20, rel=0.02)  # 1 / sqrt(400); 120,000 samples
    assert float(weight.mean()) == pytest.approx(0, abs=5e-4)
    assert float(state["norm.weight"].float().mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(state["pe"], position_table((1, 5, 6)).to(torch.bfloat16))


def test_draw_repeats_and_depends_on_seed_and_component() -> None:
    first = _drawn()["linear.weight"]
    assert torch.equal(first, _drawn()["linear.weight"])
    assert not torch.equal(first, _drawn(seed=1)["linear.weight"])
    assert not torch.equal(first, _drawn(component="other")["linear.weight"])


def test_draw_keeps_a_table_that_the_module_computed() -> None:
    module = Small()
    table = torch.arange(30.0).reshape(1, 5, 6)
    module.pe = table
    draw_on_device(module, 0, "cpu", torch.float32)
    assert torch.equal(module.pe, table)
    assert not module.conv.weight.requires_grad


def test_draw_refuses_tensors_it_cannot_make() -> None:
    with torch.device("meta"):
        module = nn.BatchNorm1d(3)
    with pytest.raises(WeightsError, match="num_batches_tracked"):
        draw_on_device(module, 0, "cpu", torch.float32)


def test_identity() -> None:
    assert weights_identity("seeded-v1", 7) == "seeded-v1:7"
    assert weights_identity("seeded-device", 7, torch.device("cuda", 1)) == "seeded-device:7:cuda"
    with pytest.raises(WeightsError, match="seeded-v2"):
        weights_identity("seeded-v2", 7)
