"""Which clips of the procedural data set are made; no numpy here, so that a wrong command is answered at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lcp_bench.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """What is drawn and spoken, `dataset.synthetic.*`.

    Attributes:
        family: `synth_hdtf` (neutral, free pose, textured background, 4 to 10 s) or `synth_mead` (eight emotions,
            little pose, plain background, 2 to 4 s).
        split: Whose clips: `train` (200 people), `validation` or `test` (32 each).
        people: How many people, the split's first ones.
        takes: Clips per person.
        seconds: Length of every clip; None draws one per clip from the family's range.
        background: `still`, the best case for methods that work on the foreground only, or `moving`.
        seed: Root of everything random; None takes the family's own.
        image_size: Side of the pictures in pixels.
    """

    family: Literal["synth_hdtf", "synth_mead"]
    split: Literal["train", "validation", "test"] = "test"
    people: int = 8
    takes: int = 1
    seconds: float | None = None
    background: Literal["still", "moving"] = "still"
    seed: int | None = None
    image_size: int = 64

    def __post_init__(self) -> None:
        people = 200 if self.split == "train" else 32
        _require(1 <= self.people <= people, "people", f"in 1..{people} for split {self.split}", self.people)
        _require(1 <= self.takes <= 10_000, "takes", "in 1..10000", self.takes)
        _require(self.seconds is None or 0.04 <= self.seconds <= 600, "seconds", "in 0.04..600 or null", self.seconds)
        _require(self.seed is None or 0 <= self.seed < 2**32, "seed", "in 0..4294967295 or null", self.seed)
        size = self.image_size
        _require(32 <= size <= 512 and size % 2 == 0, "image_size", "an even number in 32..512", size)


def _require(condition: bool, key: str, expected: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"dataset.synthetic.{key} must be {expected}, got {value!r}")
