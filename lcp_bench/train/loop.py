"""One training loop for every network of this repository: seeded, resumable, with averaged weights and a plain log.

Step `n` draws its batch from a generator seeded with (seed, n), so an interrupted training goes on exactly where it
was: the same batches, the same optimiser state, the same losses as if it had never stopped. Under `torchrun` every
process takes its share of the batch, from a generator of its own, and gradients are averaged.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from lcp_bench.atomic import replacing
from lcp_bench.config import require
from lcp_bench.errors import WeightsError
from lcp_bench.measure.clock import monotonic_s

log = logging.getLogger(__name__)

LossFunction = Callable[[np.random.Generator], Tensor]
"""Draws a batch from the generator and returns the scalar loss of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one stage is trained.

    Attributes:
        steps: Optimiser steps of the whole stage; the learning rate falls along a cosine over them.
        batch: Samples per step, of all processes together.
        learning_rate: Peak of AdamW's rate, reached after `warmup` steps.
        warmup: Steps of linear rise.
        final_rate: Rate at the last step as a share of the peak.
        weight_decay: AdamW's decoupled decay.
        clip_norm: Largest gradient norm.
        average: Decay of the averaged weights per step; 0 keeps none.
        checkpoint_every: Steps between two checkpoints.
        log_every: Steps between two lines of the log.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    final_rate: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    average: float = 0.999
    checkpoint_every: int = 200
    log_every: int = 50

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "1 or more", self.steps)
        require(self.batch >= 1, "batch", "1 or more", self.batch)
        require(self.learning_rate > 0, "learning_rate", "more than 0", self.learning_rate)
        require(0 <= self.average < 1, "average", "in 0..1", self.average)
        require(0 <= self.final_rate <= 1, "final_rate", "in 0..1", self.final_rate)
        require(self.checkpoint_every >= 1, "checkpoint_every", "1 or more", self.checkpoint_every)
        require(self.log_every >= 1, "log_every", "1 or more", self.log_every)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step (0 .. steps - 1)."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.learning_rate * rise * (self.final_rate + (1 - self.final_rate) * fall)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that share a training.

    Attributes:
        rank: This one's number.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @staticmethod
    def running() -> Processes:
        """Those of torchrun, or this process alone."""
        if not distributed.is_initialized():
            return Processes()
        return Processes(distributed.get_rank(), distributed.get_world_size())

    def share(self, batch: int) -> int:
        """Samples of a batch that this process draws.

        Raises:
            ConfigError: The batch cannot be shared equally.
        """
        require(batch % self.count == 0, "batch", f"a multiple of the {self.count} processes", batch)
        return batch // self.count

    def agree(self, parameters: Iterable[Tensor], loss: float, late: bool) -> tuple[float, bool]:
        """Average all gradients in place; returns the mean loss and whether any process is late."""
        if self.count == 1:
            return loss, late
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:  # this process' share did not reach it, another one's may have
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        joined = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([loss, float(late)])])
        distributed.all_reduce(joined)
        joined /= self.count
        start = 0
        for gradient in gradients:
            gradient.copy_(joined[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return float(joined[-2]), bool(joined[-1] > 0)


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process make files that the others then find."""
    processes = Processes.running()
    if processes.rank:
        distributed.barrier()
    yield
    if processes.count > 1 and not processes.rank:
        distributed.barrier()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a stage stands.

    Attributes:
        step: Steps done.
        finished: Whether all are.
        losses: Logged (step, mean loss since the last line).
    """

    step: int
    finished: bool
    losses: tuple[tuple[int, float], ...]


def step_generator(seed: int, step: int, processes: Processes) -> np.random.Generator:
    """The generator of one process' share of one step's batch."""
    return np.random.default_rng([seed, step, *([processes.rank] if processes.count > 1 else [])])


class Trainer:
    """Trains the parameters of `module` that require gradients, with checkpoints in `folder`.

    Args:
        name: Name of the stage, also of its checkpoint and log files.
        module: The networks; everything in its state is kept, what requires gradients is trained.
        loss: The loss of one batch.
        recipe: How.
        seed: Seed of the batches.
        folder: Where checkpoint and log go.
    """

    def __init__(
        self, name: str, module: nn.Module, loss: LossFunction, recipe: Recipe, *, seed: int, folder: Path
    ) -> None:
        self.name, self.module, self.loss, self.recipe, self.seed = name, module, loss, recipe, seed
        self.checkpoint = folder / f"{name}.checkpoint.pt"
        self.log_file = folder / f"{name}.log.jsonl"
        self.trained = {key: tensor for key, tensor in module.named_parameters() if tensor.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.trained.values(),
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.average = {key: tensor.detach().clone() for key, tensor in self.trained.items()}
        self.processes = Processes.running()
        self.step = 0
        self.losses: list[tuple[int, float]] = []

    def run(self, *, max_steps: int | None = None, max_minutes: float | None = None) -> Progress:
        """Train from the last checkpoint to the end, or until a limit of this start is reached.

        Args:
            max_steps: Steps of this start.
            max_minutes: Minutes of this start; the checkpoint is written before it returns.
        """
        self.resume()
        started, first, window = monotonic_s(), self.step, list[float]()
        self.module.train()
        while self.step < self.recipe.steps and not _reached(max_steps, self.step - first):
            loss, late = self._advance(_late(max_minutes, started))
            window.append(loss)
            if self.step % self.recipe.log_every == 0 or self.step == self.recipe.steps:
                seconds = (monotonic_s() - started) / (self.step - first)
                self._log(sum(window) / len(window), seconds)
                window.clear()
            if self.step % self.recipe.checkpoint_every == 0:
                self.save()
            if late:
                break
        self.save()
        return Progress(self.step, self.step >= self.recipe.steps, tuple(self.losses))

    def use_average(self) -> None:
        """Put the averaged weights into the module; training from here on would start from them."""
        with torch.no_grad():
            for key, tensor in self.trained.items():
                tensor.copy_(self.average[key])

    def _advance(self, late: bool) -> tuple[float, bool]:
        """One step; its mean loss, and whether any process says that it is late."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        loss = self.loss(step_generator(self.seed, self.step, self.processes))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss, any_late = self.processes.agree(self.trained.values(), float(loss.detach()), late)
        nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip_norm)
        self.optimiser.step()
        self.step += 1
        # A young average must not remember the random start: its decay grows with the number of steps.
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, tensor in self.trained.items():
                self.average[key].lerp_(tensor, 1 - decay)
        return mean_loss, any_late

    def save(self) -> None:
        """Write the checkpoint, atomically; the first process does."""
        if self.processes.rank:
            return
        state: dict[str, Any] = {
            "step": self.step,
            "seed": self.seed,
            "module": self.module.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "losses": [list(pair) for pair in self.losses],
        }
        with replacing(self.checkpoint) as partial:
            torch.save(state, partial)

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one.

        Raises:
            WeightsError: It was made with another seed or for another network.
        """
        if not self.checkpoint.is_file():
            return False
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        advice = "start again in another folder, or delete it"
        if state["seed"] != self.seed:
            raise WeightsError(f"{self.checkpoint} was trained with seed {state['seed']}, not {self.seed}; {advice}")
        if set(state["average"]) != set(self.trained):
            raise WeightsError(f"{self.checkpoint} belongs to another network or stage; {advice}")
        self.module.load_state_dict(state["module"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])
        self.losses = [(int(step), float(loss)) for step, loss in state["losses"]]
        log.info("%s: going on from step %d of %d", self.name, self.step, self.recipe.steps)
        return True

    def _log(self, loss: float, seconds: float) -> None:
        self.losses.append((self.step, loss))
        if self.processes.rank:
            return
        line = {"step": self.step, "loss": round(loss, 6), "rate": self.recipe.rate_at(self.step - 1)}
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "seconds_per_step": round(seconds, 4)}) + "\n")
        log.info("%s: step %d of %d, loss %.5f, %.3f s a step", self.name, self.step, self.recipe.steps, loss, seconds)


def _late(max_minutes: float | None, started: float) -> bool:
    return max_minutes is not None and monotonic_s() - started > 60 * max_minutes


def _reached(limit: int | None, done: int) -> bool:
    return limit is not None and done >= limit
