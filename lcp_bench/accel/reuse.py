"""What the feature cache keeps of a feature over key steps, and what a follower makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class ReadRule(Protocol):
    """How recorded features become the features of a follower.

    Attributes:
        history: Older key steps that the rule looks back to; 0 lets the cache drop them before the next key step.
    """

    history: int

    def keep(self, older: tuple[Tensor, ...], value: Tensor, gap: int) -> tuple[Tensor, ...]:
        """What is held after a key step.

        Args:
            older: What was held of this feature before, empty at first.
            value: The feature at the key step.
            gap: Steps since the key step that `older` belongs to.
        """
        ...

    def read(self, held: tuple[Tensor, ...], ahead: int) -> Tensor:
        """The feature for a follower that lies `ahead` steps after the newest key step."""
        ...


class Newest:
    """The feature of the newest key step, unchanged."""

    history = 0

    def keep(self, older: tuple[Tensor, ...], value: Tensor, gap: int) -> tuple[Tensor, ...]:
        """See `ReadRule`."""
        return (value,)

    def read(self, held: tuple[Tensor, ...], ahead: int) -> Tensor:
        """See `ReadRule`."""
        return held[0]
