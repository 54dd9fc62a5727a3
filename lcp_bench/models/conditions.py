"""What a denoising UNet is told besides latents: everything here is constant over a segment and computed once.

Rows of a batch are ordered (branch, member, frame): guidance branches outermost (unconditional first), then the members
of a parallel group, then frames. So a group of followers is [uncond of all, cond of all], as the reference attention
needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcp_bench.errors import ConfigError
from lcp_bench.models.attention import KeysValues, ReferenceContext
from lcp_bench.models.foreground import Foreground

if TYPE_CHECKING:
    from lcp_bench.models.joint_audio import Style
    from lcp_bench.models.memory import Memory

ReferenceBank = Mapping[str, Tensor]
"""Site to the reference network's normed tokens, (branches * images, L, C); image 0 is the portrait, then motion."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a batch are arranged.

    Attributes:
        branches: 2 with classifier-free guidance (unconditional first), else 1.
        members: Steps evaluated together.
        frames: Frames per sample.
        guided: Whether the first of two branches is guidance's unconditional one; False for independent samples.
    """

    branches: int
    members: int
    frames: int
    guided: bool = True

    @property
    def samples(self) -> int:
        """Sequences of frames in the batch."""
        return self.branches * self.members

    @property
    def rows(self) -> int:
        """Rows of a folded map."""
        return self.samples * self.frames

    @property
    def plain_rows(self) -> int:
        """Leading rows that do not read the reference: the unconditional half under guidance."""
        return self.rows // 2 if self.guided and self.branches == 2 else 0

    def spread(self, per_branch: Tensor) -> Tensor:
        """(branches, ...) to (branches * members, ...): the same for every member; a view where there is one member."""
        if self.members == 1:
            return per_branch
        spread = per_branch[:, None].expand(-1, self.members, *per_branch.shape[1:])
        return spread.flatten(0, 1)

    def spread_frames(self, per_frame: Tensor) -> Tensor:
        """(branches * frames, ...) to (rows, ...): the same for every member."""
        if self.members == 1:
            return per_frame
        return self.spread(per_frame.unflatten(0, (self.branches, -1))).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class SiteConditions:
    """Constants of one layer.

    Attributes:
        reference: Keys and values of the reference rows that conditional rows cycle through, or None.
        image: Projected image tokens of every (branch, frame) row, or None.
        audio: Projected audio tokens of every (branch, frame) row, one pair per masked branch.
        motion: Projected motion frames (branches, motion frames, L, C), or None.
        memory: What earlier frames left, one per temporal attention; serves every member as it is.
        styles: What the emotion of every (branch, frame) row does to the audio module's norms.
    """

    reference: KeysValues | None = None
    image: KeysValues | None = None
    audio: tuple[KeysValues, ...] = ()
    motion: Tensor | None = None
    memory: tuple[Memory, ...] = ()
    styles: tuple[Style, ...] = ()

    def spread(self, layout: Layout) -> SiteConditions:
        """The same conditions for every member of a group, made once per group size instead of per layer call."""
        if layout.members == 1:
            return self
        return SiteConditions(
            self.reference,
            self.image and KeysValues(*(layout.spread_frames(tensor) for tensor in self.image)),
            tuple(KeysValues(*(layout.spread_frames(tensor) for tensor in pair)) for pair in self.audio),
            None if self.motion is None else layout.spread(self.motion),
            self.memory,
            tuple(type(style)(*(layout.spread_frames(tensor) for tensor in style)) for style in self.styles),
        )

    def reference_context(self, layout: Layout) -> ReferenceContext | None:
        """The reference as the spatial attention reads it."""
        return None if self.reference is None else ReferenceContext(self.reference, layout.plain_rows)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Constants of one segment.

    Attributes:
        branches: Guidance branches, 1 or 2.
        frames: Frames per sample.
        sites: Constants of each layer with attention.
        masks: Per level, (audio branches, 1 or branches * frames, L, 1) in [0, 1].
        pixel_feature: Added after `conv_in`, (branches, 1 or frames, C, h, w), or None.
        motion_scale: Weight of each audio branch.
        foreground: The foreground's cells, one entry per level; None where no strategy asks for it.
        audio_stream: Audio tokens that every pass starts with and changes on its way, (branches * frames, tokens, dim),
            or None.
    """

    branches: int
    frames: int
    sites: Mapping[str, SiteConditions]
    masks: Sequence[Tensor] = ()
    pixel_feature: Tensor | None = None
    motion_scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    foreground: Sequence[Foreground] | None = None
    audio_stream: Tensor | None = None
    _by_members: dict[int, Conditions] = field(default_factory=dict, compare=False, repr=False)

    def for_members(self, members: int) -> Conditions:
        """These conditions, repeated for a group of `members` followers; kept for the segment, built once per size."""
        if members == 1:
            return self
        if members not in self._by_members:
            layout = Layout(self.branches, members, self.frames)
            self._by_members[members] = Conditions(
                self.branches,
                self.frames,
                _LazySites(self.sites, layout),
                [layout_mask(mask, layout) for mask in self.masks],
                self.pixel_feature,
                self.motion_scale,
                self.foreground,
                None if self.audio_stream is None else layout.spread_frames(self.audio_stream),
            )
        return self._by_members[members]


class _LazySites(dict[str, SiteConditions]):
    """Spread sites on first use: a follower needs the constants of a layer or two, not of all sixteen."""

    def __init__(self, sites: Mapping[str, SiteConditions], layout: Layout) -> None:
        super().__init__()
        self._sites, self._layout = sites, layout

    def __missing__(self, site: str) -> SiteConditions:
        self[site] = self._sites[site].spread(self._layout)
        return self[site]


def layout_mask(mask: Tensor, layout: Layout) -> Tensor:
    """(audio branches, 1 or branches * frames, L, 1) to (audio branches, 1 or rows, L, 1)."""
    if mask.shape[1] == 1 or layout.members == 1:
        return mask
    return torch.stack([layout.spread_frames(branch) for branch in mask])


def split_bank(bank: ReferenceBank, branches: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Per site: the portrait's features (branches, L, C) and the motion frames' (branches, images - 1, L, C)."""
    split: dict[str, tuple[Tensor, Tensor]] = {}
    for site, features in bank.items():
        if features.shape[0] % branches:
            raise ConfigError(
                f"reference features of {site} have {features.shape[0]} rows, not a multiple of {branches} branches"
            )
        grouped = features.unflatten(0, (branches, -1))
        split[site] = (grouped[:, 0], grouped[:, 1:])
    return split


def reference_rows(portrait: Tensor, branches: int, frames: int, rule: str) -> Tensor:
    """The reference features that conditional rows cycle through: (period, L, C), `frames` a multiple of the period.

    Args:
        portrait: (branches, L, C), unconditional first.
        branches: Guidance branches.
        frames: Frames per sample.
        rule: `tiled` as Hallo and MEMO do it: batch row i reads branch i mod branches, so that under guidance even and
            odd frames read different branches. `branch`: conditional rows read the conditional branch. `own`: every row
            reads its own branch, for independent samples.
    """
    if rule == "own":
        return portrait.repeat_interleave(frames, 0)
    if rule == "branch" or branches == 1:
        return portrait[-1:]
    if rule != "tiled":
        raise ConfigError(f"reference row rule must be 'tiled', 'branch' or 'own', got {rule!r}")
    if frames % branches == 0:
        return portrait
    first_conditional_row = (branches - 1) * frames
    rows = [(first_conditional_row + frame) % branches for frame in range(frames)]
    return portrait[rows]
