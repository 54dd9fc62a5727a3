"""The training loop: seeded, resumable, averaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.train.loop import Recipe, Trainer

RECIPE = Recipe(steps=12, batch=4, learning_rate=0.05, warmup=3, checkpoint_every=5, log_every=4, average=0.9)


class Line:
    """A line to be found from noisy points."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.module = nn.Linear(1, 1)

    def __call__(self, generator: np.random.Generator) -> Tensor:
        x = torch.from_numpy(generator.standard_normal((4, 1), dtype=np.float32))
        return (self.module(x) - (3 * x - 1)).square().mean()


def trainer(folder: Path, recipe: Recipe = RECIPE, seed: int = 7, start: int = 0) -> Trainer:
    line = Line(start)
    return Trainer("line", line.module, line, recipe, seed=seed, folder=folder)


def test_the_same_seed_gives_the_same_losses_and_weights(tmp_path: Path) -> None:
    first, second, other = (trainer(tmp_path / name, seed=seed) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    losses = [each.run().losses for each in (first, second, other)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(first.module.weight, second.module.weight)  # type: ignore[arg-type]


def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    assert whole.run().finished
    for number in range(4):  # later starts have weights of their own, which the checkpoint must replace
        piece = trainer(tmp_path / "pieces", start=99 if number else 0)
        progress = piece.run(max_steps=4)
    assert progress.finished and progress.step == 12
    assert piece.losses == whole.losses
    for key, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, piece.module.state_dict()[key])
    assert torch.equal(whole.average["weight"], piece.average["weight"])


def test_a_first_start_without_checkpoint_begins_with_its_own_weights(tmp_path: Path) -> None:
    assert not torch.equal(Line(0).module.weight, Line(99).module.weight)
    assert not trainer(tmp_path).resume()


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    again = trainer(tmp_path)
    before = (tmp_path / "line.log.jsonl").read_text()
    assert again.run().finished
    assert (tmp_path / "line.log.jsonl").read_text() == before


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).run(max_steps=2)
    with pytest.raises(WeightsError, match="seed 7, not 8"):
        trainer(tmp_path, seed=8).run()
    module = nn.Linear(1, 1, bias=False)
    with pytest.raises(WeightsError, match="another network or stage"):
        Trainer("line", module, lambda _: module.weight.sum(), RECIPE, seed=7, folder=tmp_path).run()


def test_the_rate_rises_then_falls_to_its_share(tmp_path: Path) -> None:
    rates = [RECIPE.rate_at(step) for step in range(13)]
    assert rates[0] < rates[1] < rates[2]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[12] == pytest.approx(0.05 * RECIPE.final_rate)


def test_the_average_lags_behind_and_replaces_the_weights(tmp_path: Path) -> None:
    each = trainer(tmp_path)
    each.run()
    assert not torch.equal(each.module.weight, each.average["weight"])  # type: ignore[arg-type]
    each.use_average()
    assert torch.equal(each.module.weight, each.average["weight"])  # type: ignore[arg-type]


def test_frozen_weights_stay_and_are_kept_in_the_checkpoint(tmp_path: Path) -> None:
    line = Line()
    line.module.bias.requires_grad_(False)
    frozen = line.module.bias.clone()
    Trainer("line", line.module, line, RECIPE, seed=7, folder=tmp_path).run()
    assert torch.equal(line.module.bias, frozen)
    state = torch.load(tmp_path / "line.checkpoint.pt", weights_only=True)
    assert set(state["module"]) == {"weight", "bias"} and set(state["average"]) == {"weight"}


def test_the_log_has_one_line_per_interval(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "line.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"average": 1.0}])
def test_a_recipe_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recipe(**{"steps": 1, "batch": 1, "learning_rate": 0.1, **wrong})  # type: ignore[arg-type]
