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
from lcp_bench.models.conditions import Conditions, SiteConditions
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.topology import Topology
from lcp_bench.models.unet import UNet
from lcp_bench.windows import Window, WindowSchedule


class WindowedUNet:
    """A `UNet` whose frames are denoised window by window.

    Followers of a parallel group are evaluated one after another: their windows cover different frames. A decision that
    is made inside the network is made by the first window of the step, from its own frames, and the other windows do
    the same: a decision over all frames would have to hold every window half-way, or to evaluate its beginning twice.

    Args:
        unet: The network, which sees one window at a time.
        schedule: The windows of every step.
    """

    def __init__(self, unet: UNet, schedule: WindowSchedule) -> None:
        self.unet, self.schedule = unet, schedule
        self._windows: dict[tuple[int, int], tuple[tuple[Window, Tensor], ...]] = {}

    @property
    def topology(self) -> Topology:
        """See `UNet`."""
        return self.unet.topology

    def embed_time(self, timesteps: Sequence[float]) -> Tensor:
        """See `UNet.embed_time`."""
        return self.unet.embed_time(timesteps)

    def windows(self, step: int, frames: int) -> tuple[tuple[Window, Tensor], ...]:
        """Windows of a step: their frame numbers on the host, and on the network's device; moved there once."""
        if (step, frames) not in self._windows:
            device = self.unet.conv_in.weight.device
            windows = self.schedule.at(step, frames)
            self._windows[step, frames] = tuple((window, torch.tensor(window, device=device)) for window in windows)
        return self._windows[step, frames]

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
            EngagementError: The windows of a step did not do the same.
        """
        members = []
        for place, step in enumerate(steps):
            own = slice(place, place + 1)
            view = None if cache is None else _FramesView(cache, conditions.branches, conditions.frames)
            mean, seen = FrameMean(conditions.frames, dim=3), []
            for window, index in self.windows(step, conditions.frames):
                if view is not None:
                    view.look(window, index)
                seen.append(Engagement())
                part = self.unet(
                    latents[:, own].index_select(3, index),
                    time[own],
                    window_conditions(conditions, index),
                    steps=(step,),
                    scope=scope,
                    cache=view,
                    record=record,
                    engagement=seen[-1],
                    fork=fork if len(seen) == 1 else None,
                )
                mean.add(part.float(), window, index)
                if fork is not None and fork.reused:
                    scope, record = fork.scope, ()
            _merge_equal(seen, engagement)
            members.append(mean.total)
            if view is not None:
                view.commit(step)
        return torch.cat(members, dim=1)


class FrameMean:
    """Mean of what windows say about each frame, made as they come: never more than the video's own size is held.

    Args:
        frames: Frames of the video.
        dim: The axis of frames.
    """

    def __init__(self, frames: int, dim: int) -> None:
        self._frames, self._dim = frames, dim
        self._seen = [0] * frames
        self._total: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The mean, in the type of what was added; defined once windows have covered every frame."""
        if self._total is None or 0 in self._seen:
            raise EngagementError(f"windows covered {self._frames - self._seen.count(0)} of {self._frames} frames")
        return self._total

    def add(self, part: Tensor, window: Window, index: Tensor) -> None:
        """Take a window into the mean; the arithmetic is float32.

        Args:
            part: What it says, `dim` running over its frames.
            window: Its frame numbers.
            index: The same numbers on the device of `part`.
        """
        if self._total is None:
            shape = list(part.shape)
            shape[self._dim] = self._frames
            self._total = part.new_zeros(shape)
        counts = [self._seen[frame] for frame in window]
        if any(counts):
            before = self._total.index_select(self._dim, index).float()
            weights = torch.tensor(counts, device=part.device, dtype=torch.float32)
            weights = weights.view(-1, *[1] * (part.ndim - self._dim - 1))
            part = ((before * weights + part.float()) / (weights + 1)).to(part.dtype)
        self._total.index_copy_(self._dim, index, part)
        for frame in window:
            self._seen[frame] += 1


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

    def __init__(self, whole: FeatureCache, branches: int, frames: int) -> None:
        super().__init__(whole.rule)
        self._whole, self._branches, self._frames = whole, branches, frames
        self._means: dict[str, FrameMean] = {}
        self._window: Window = ()
        self._index = torch.empty(0)

    def look(self, window: Window, index: Tensor) -> None:
        """See the frames of this window from now on."""
        self._window, self._index = window, index

    def make_room(self) -> None:
        """See `FeatureCache.make_room`; called by the first window of a step that decided to compute."""
        self._whole.make_room()

    def read(self, name: str, steps: Sequence[int] = ()) -> Tensor:
        """The rows of the current window."""
        whole = self._whole.read(name, steps).unflatten(0, (self._branches, self._frames))
        return whole.index_select(1, self._index).flatten(0, 1)

    def replace(self, features: Mapping[str, Tensor], step: int = 0) -> None:
        """Take what the current window recorded into the means."""
        del step
        for name, rows in features.items():
            mean = self._means.setdefault(name, FrameMean(self._frames, dim=1))
            mean.add(rows.unflatten(0, (self._branches, -1)), self._window, self._index)

    def commit(self, step: int) -> None:
        """Hand the video's features over, if the windows recorded any."""
        if self._means:
            self._whole.replace({name: mean.total.flatten(0, 1) for name, mean in self._means.items()}, step)


def window_conditions(conditions: Conditions, index: Tensor) -> Conditions:
    """A video's conditions, seen by the frames `index` of one window."""
    sites = conditions.sites
    if not isinstance(sites, TokenSites):
        raise ConfigError(f"windows need TokenSites, got {type(sites).__name__}; make the conditions with them")
    return replace(
        conditions,
        frames=index.shape[0],
        sites=sites.window(index),
        masks=[_rows_of(mask, conditions.branches, index) for mask in conditions.masks],
        pixel_feature=_frames_of(conditions.pixel_feature, index),
        _by_members={},
    )


class TokenSites(dict[str, SiteConditions]):
    """Layers' constants of a video or a window, whose frames' own tokens are projected on first use.

    Keys and values of all frames and layers would take more memory than anything else that grows with the video, and
    projecting a window's costs less than a thousandth of its evaluation.

    Args:
        unet: The network.
        references: Constants of each layer that are the same for all frames: one reference row, no tokens.
        tokens: Tokens of the cross-attention, (branches, frames, tokens, dim).

    Raises:
        ConfigError: Reference features differ between frames.
    """

    def __init__(self, unet: UNet, references: Mapping[str, SiteConditions], tokens: Tensor) -> None:
        super().__init__()
        for name, site in references.items():
            if site.reference is not None and site.reference.keys.shape[0] != 1:
                raise ConfigError(
                    f"windows need reference features that are the same for all frames, {name} has "
                    f"{site.reference.keys.shape[0]} rows; project them with row_rule='branch'"
                )
        self._unet, self._references, self._tokens = unet, references, tokens

    def __missing__(self, name: str) -> SiteConditions:
        transformer = self._unet.attention_sites()[name]
        self[name] = replace(self._references[name], image=transformer.block.attn2.project(self._tokens.flatten(0, 1)))
        return self[name]

    def window(self, index: Tensor) -> TokenSites:
        """The sites of the frames `index`."""
        return TokenSites(self._unet, self._references, self._tokens.index_select(1, index))


def _rows_of(mask: Tensor, branches: int, index: Tensor) -> Tensor:
    """The window's of (audio branches, branches * frames, L, 1) rows; one row serves all frames."""
    if mask.shape[1] == 1:
        return mask
    return mask.unflatten(1, (branches, -1)).index_select(2, index).flatten(1, 2)


def _frames_of(maps: Tensor | None, index: Tensor) -> Tensor | None:
    """The window's of (branches, 1 or frames, C, h, w)."""
    return maps if maps is None or maps.shape[1] == 1 else maps.index_select(1, index)
