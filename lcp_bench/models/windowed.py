"""A denoising UNet over a whole video in overlapping windows that move from step to step.

To the sampler it is one network: latents of all frames in, the average of the windows' predictions out. Features of a
key step are kept per frame of the video, averaged where windows overlap, and followers gather them for their own
windows, which are elsewhere; so the movement stays as published. What a feature has seen along time is the key step's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lcp_bench.accel.gate import Fork
from lcp_bench.accel.scope import Scope
from lcp_bench.errors import ConfigError, EngagementError
from lcp_bench.models.attention import KeysValues
from lcp_bench.models.conditions import Conditions, SiteConditions
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.topology import Topology
from lcp_bench.models.unet import UNet
from lcp_bench.windows import WindowSchedule


class WindowedUNet:
    """A `UNet` whose frames are denoised window by window.

    Followers of a parallel group are evaluated one after another: their windows cover different frames.

    Args:
        unet: The network, which sees one window at a time.
        schedule: The windows of every step.
    """

    def __init__(self, unet: UNet, schedule: WindowSchedule) -> None:
        self.unet, self.schedule = unet, schedule
        self._indices: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    @property
    def topology(self) -> Topology:
        """See `UNet`."""
        return self.unet.topology

    def embed_time(self, timesteps: Sequence[float]) -> Tensor:
        """See `UNet.embed_time`."""
        return self.unet.embed_time(timesteps)

    def windows(self, step: int, frames: int) -> tuple[Tensor, ...]:
        """Frame numbers of the windows of a step, on the network's device; moved there once."""
        if (step, frames) not in self._indices:
            device = self.unet.conv_in.weight.device
            windows = self.schedule.at(step, frames)
            self._indices[step, frames] = tuple(torch.tensor(window, device=device) for window in windows)
        return self._indices[step, frames]

    def __call__(
        self,
        latents: Tensor,
        time: Tensor,
        conditions: Conditions,
        *,
        steps: Sequence[int] = (0,),
        scope: Scope | None = None,
        cache: FeatureCache | None = None,
        record: Sequence[str] = (),
        engagement: Engagement | None = None,
        fork: Fork | None = None,
    ) -> Tensor:
        """See `UNet.forward`; the conditions are the whole video's.

        Raises:
            ConfigError: A decision at run time is asked for: windows could decide differently.
            EngagementError: The windows of a step did not do the same.
        """
        if fork is not None:
            raise ConfigError(
                "a strategy that decides inside the network cannot run on moving windows, which could decide "
                "differently; choose one with a fixed plan"
            )
        members = []
        for place, step in enumerate(steps):
            view = None if cache is None else _FramesView(cache, conditions.branches, conditions.frames)
            member = latents[:, place : place + 1]
            parts, seen = [], []
            for index in self.windows(step, conditions.frames):
                if view is not None:
                    view.index = index
                counters = Engagement()
                part = self.unet(
                    member.index_select(3, index),
                    time[place : place + 1],
                    window_conditions(conditions, index),
                    steps=(step,),
                    scope=scope,
                    cache=view,
                    record=record,
                    engagement=counters,
                )
                parts.append(part)
                seen.append(counters)
            _merge_equal(seen, engagement)
            members.append(self.average(parts, step, conditions.frames))
            if view is not None:
                view.commit(step)
        return torch.cat(members, dim=1)

    def average(self, parts: Sequence[Tensor], step: int, frames: int) -> Tensor:
        """Mean over windows; (branches, 1, C, window, h, w) each, to (branches, 1, C, frames, h, w), float32."""
        return scatter_mean(parts, self.windows(step, frames), frames, dim=3)


def scatter_mean(parts: Sequence[Tensor], windows: Sequence[Tensor], frames: int, dim: int) -> Tensor:
    """Mean, in float32, of what windows say about each frame.

    Args:
        parts: One tensor per window; `dim` runs over its frames.
        windows: Their frame numbers; together they cover all frames.
        frames: Frames of the video.
        dim: The axis of frames.
    """
    shape = list(parts[0].shape)
    shape[dim] = frames
    total = torch.zeros(shape, device=parts[0].device, dtype=torch.float32)
    counts = torch.zeros(frames, device=parts[0].device)
    for part, index in zip(parts, windows, strict=True):
        total.index_add_(dim, index, part.float())
        counts.index_add_(0, index, torch.ones_like(index, dtype=counts.dtype))
    return total / counts.view(-1, *[1] * (len(shape) - dim - 1))


def _merge_equal(seen: Sequence[Engagement], engagement: Engagement | None) -> None:
    """Count a step once, not once per window, after a check that every window did the same."""
    first = seen[0]
    for other in seen[1:]:
        if (other.computed, other.reused, other.dropped) != (first.computed, first.reused, first.dropped):
            raise EngagementError("the windows of a step evaluated or reused different layers; the numbers are void")
    if engagement is not None:
        engagement.merge(first)


class _FramesView(FeatureCache):
    """What one window sees of a cache whose features cover the whole video."""

    index: Tensor

    def __init__(self, whole: FeatureCache, branches: int, frames: int) -> None:
        super().__init__(whole.rule)
        self._whole, self._branches, self._frames = whole, branches, frames
        self._parts: dict[str, list[Tensor]] = {}
        self._windows: list[Tensor] = []

    def make_room(self) -> None:
        """Nothing: the sampler makes room in the whole cache."""

    def read(self, name: str, steps: Sequence[int] = ()) -> Tensor:
        """The rows of the current window."""
        whole = self._whole.read(name, steps).unflatten(0, (self._branches, self._frames))
        return whole.index_select(1, self.index).flatten(0, 1)

    def replace(self, features: Mapping[str, Tensor], step: int = 0) -> None:
        """Collect what the current window recorded."""
        del step
        for name, rows in features.items():
            self._parts.setdefault(name, []).append(rows.unflatten(0, (self._branches, -1)))
        self._windows.append(self.index)

    def commit(self, step: int) -> None:
        """Hand the video's features over, if the windows recorded any."""
        if not self._parts:
            return
        means = {name: scatter_mean(parts, self._windows, self._frames, dim=1) for name, parts in self._parts.items()}
        kept = {name: mean.to(self._parts[name][0].dtype).flatten(0, 1) for name, mean in means.items()}
        self._whole.replace(kept, step)


def window_conditions(conditions: Conditions, index: Tensor) -> Conditions:
    """A video's conditions, seen by the frames `index` of one window.

    Raises:
        ConfigError: Reference features differ between frames.
    """
    for name, site in conditions.sites.items():
        if site.reference is not None and site.reference.keys.shape[0] != 1:
            raise ConfigError(
                f"windows need reference features that are the same for all frames, {name} has "
                f"{site.reference.keys.shape[0]} rows; project them with row_rule='branch'"
            )
    return replace(
        conditions,
        frames=index.shape[0],
        sites=_WindowSites(conditions.sites, conditions.branches, index),
        masks=[_rows_of(mask, conditions.branches, index, dim=1) for mask in conditions.masks],
        pixel_feature=_frames_of(conditions.pixel_feature, index),
        _by_members={},
    )


class _WindowSites(dict[str, SiteConditions]):
    """Sites of a window on first use: a follower needs the constants of a layer or two, not of all sixteen."""

    def __init__(self, sites: Mapping[str, SiteConditions], branches: int, index: Tensor) -> None:
        super().__init__()
        self._sites, self._branches, self._index = sites, branches, index

    def __missing__(self, name: str) -> SiteConditions:
        site = self._sites[name]
        self[name] = replace(
            site, image=site.image and self._of(site.image), audio=tuple(self._of(pair) for pair in site.audio)
        )
        return self[name]

    def _of(self, pair: KeysValues) -> KeysValues:
        return KeysValues(*(_rows_of(rows, self._branches, self._index, dim=0) for rows in pair))


def _rows_of(rows: Tensor, branches: int, index: Tensor, dim: int) -> Tensor:
    """The window's of (..., branches * frames, ...) rows; one row serves all frames."""
    if rows.shape[dim] == 1:
        return rows
    return rows.unflatten(dim, (branches, -1)).index_select(dim + 1, index).flatten(dim, dim + 1)


def _frames_of(maps: Tensor | None, index: Tensor) -> Tensor | None:
    """The window's of (branches, 1 or frames, C, h, w)."""
    return maps if maps is None or maps.shape[1] == 1 else maps.index_select(1, index)
