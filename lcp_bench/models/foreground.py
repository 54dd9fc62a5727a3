"""The foreground of a clip, and attention that computes foreground tokens only.

Decoupled foreground attention (arXiv 2509.00052): queries and keys are gathered to the foreground's tokens, dense
attention runs on the shorter sequence, and the other rows come from the newest key step. No L x L mask exists.

The index tensors are made once per clip, on the host; their lengths are then known without looking at the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from lcp_bench.accel.dfa import ForegroundRule

Compute = Callable[[Tensor, "Foreground | None"], Tensor]
"""An attention with its projections: (normed tokens, cells whose core is computed or None for all) to what it adds."""


@dataclass(frozen=True, slots=True)
class Foreground:
    """The cells of one level, split in two; indices into the flattened map.

    Attributes:
        inside: Foreground cells in rising order, int64 (cells,).
        outside: All others.
    """

    inside: Tensor
    outside: Tensor

    @property
    def tokens(self) -> int:
        """Cells of the level."""
        return self.inside.numel() + self.outside.numel()

    @property
    def ratio(self) -> float:
        """Foreground's share of the level, 0 to 1."""
        return self.inside.numel() / self.tokens

    def select(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """Foreground tokens of a full map's (..., L, ...)."""
        return tokens.index_select(dim, self.inside)

    def background(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """The other tokens."""
        return tokens.index_select(dim, self.outside)

    def merge(self, foreground: Tensor, background: Tensor) -> Tensor:
        """(rows, foreground cells, C) and (rows, the others, C) to (rows, L, C)."""
        merged = foreground.new_empty(foreground.shape[0], self.tokens, foreground.shape[2])
        return merged.index_copy_(1, self.inside, foreground).index_copy_(1, self.outside, background)

    def refill(self, foreground: Tensor) -> Tensor:
        """(rows, foreground cells, C) to (rows, L, C) with zeros elsewhere."""
        full = foreground.new_zeros(foreground.shape[0], self.tokens, foreground.shape[2])
        return full.index_copy_(1, self.inside, foreground)

    def to(self, device: torch.device | str) -> Foreground:
        """The same indices on a device."""
        return Foreground(self.inside.to(device), self.outside.to(device))


def foreground_of(mask: Tensor) -> Foreground:
    """Indices of a boolean mask of any shape, on the host."""
    flat = mask.flatten().cpu()
    return Foreground(flat.nonzero()[:, 0], (~flat).nonzero()[:, 0])


def foreground_levels(
    mask: Tensor, size: tuple[int, int], levels: int, *, coverage: float = 0.5, dilation: int = 0
) -> list[Foreground]:
    """Shrink a picture's foreground to every attention resolution.

    Args:
        mask: Foreground of the reference picture, (H, W) in [0, 1] or boolean.
        size: Height and width of the latent; each further level halves it, rounding up.
        levels: Number of levels.
        coverage: Share of a cell's area that must be foreground, above 0 up to 1. Coarser levels are shrunk from the
            latent's mask in the same way.
        dilation: Latent cells by which the foreground grows in every direction (a square), before coarser levels.

    Returns:
        One `Foreground` per level, finest first, on the host.
    """
    finest = F.interpolate(mask.float().cpu()[None, None], size=size, mode="area") >= coverage - 1e-6
    if dilation:
        finest = F.max_pool2d(finest.float(), 2 * dilation + 1, stride=1, padding=dilation) > 0
    found = []
    for _ in range(levels):
        shrunk = F.interpolate(finest.float(), size=size, mode="area") >= coverage - 1e-6
        found.append(foreground_of(shrunk))
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    return found


class WholeRows:
    """Every token is computed: attention as the model has it."""

    def attend(self, normed: Tensor, compute: Compute) -> Tensor:
        """What an attention adds to the tokens.

        Args:
            normed: Normed tokens (rows, L, C).
            compute: See `Compute`.
        """
        return compute(normed, None)

    def feed(self, normed: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What a feed-forward adds to the tokens (rows, L, C)."""
        return compute(normed)

    def keys(self, tokens: Tensor) -> Tensor:
        """Reference keys or values (rows, L, C) that the attention may see."""
        return tokens


WHOLE = WholeRows()


class KeptRows(WholeRows):
    """A key step: everything is computed, and the background rows that followers need are kept.

    Args:
        foreground: The level's foreground.
        wanted: Of `attention` and `feed_forward`, what is kept.
        keep: Called with the name and the rows (rows, background cells, C).
    """

    def __init__(self, foreground: Foreground, wanted: Collection[str], keep: Callable[[str, Tensor], None]) -> None:
        self.foreground, self._wanted, self._keep = foreground, wanted, keep

    def attend(self, normed: Tensor, compute: Compute) -> Tensor:
        """See `WholeRows.attend`."""
        return self.kept("attention", compute(normed, None))

    def feed(self, normed: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """See `WholeRows.feed`."""
        return self.kept("feed_forward", compute(normed))

    def kept(self, name: str, added: Tensor) -> Tensor:
        """Keep the background rows of `added` if they are wanted, and hand it back."""
        if name in self._wanted:
            self._keep(name, self.foreground.background(added))
        return added


class MergedRows(WholeRows):
    """A follower: foreground rows are computed, background rows are the newest key step's.

    Args:
        foreground: The level's foreground.
        rule: Which operations are restricted.
        read: Gives the rows (rows, background cells, C) that the key step kept, by name, and counts; also where there
            are none, so that what is counted does not depend on the picture.
    """

    def __init__(self, foreground: Foreground, rule: ForegroundRule, read: Callable[[str], Tensor]) -> None:
        self.foreground, self._rule, self._read = foreground, rule, read

    @property
    def everything(self) -> bool:
        """Whether nothing lies outside: the computation is then the unrestricted one, bit for bit."""
        return self.foreground.outside.numel() == 0

    def read_all(self) -> None:
        """Count the reads of a module that has nothing to merge, because nothing lies outside."""
        for name in self._rule.operations:
            self._read(name)

    def attend(self, normed: Tensor, compute: Compute) -> Tensor:
        """See `WholeRows.attend`."""
        background, cells = self._read("attention"), self.foreground
        if self.everything:
            return compute(normed, None)
        if not cells.inside.numel():
            return background
        if self._rule.projections:
            return cells.merge(compute(cells.select(normed), None), background)
        return cells.merge(cells.select(compute(normed, cells)), background)

    def feed(self, normed: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """See `WholeRows.feed`."""
        if not self._rule.feed_forward:
            return compute(normed)
        background, cells = self._read("feed_forward"), self.foreground
        if self.everything:
            return compute(normed)
        if not cells.inside.numel():
            return background
        return cells.merge(compute(cells.select(normed)), background)

    def keys(self, tokens: Tensor) -> Tensor:
        """See `WholeRows.keys`."""
        if self.everything or not self._rule.reference_keys:
            return tokens
        return self.foreground.select(tokens)
