"""What a run will compute, known without weights, data or a GPU: groups, scopes, TFLOPs, bounds, cache size.

Two counts of work stand side by side and are never mixed, see `lcp_bench.measure.flops`. A clip here is one segment, as
in the published tables: 16 frames for Hallo.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.console import Console
from torch import nn

from lcp_bench.accel.recording import recording_of
from lcp_bench.accel.reference import unread_references
from lcp_bench.accel.schedule import Plan
from lcp_bench.accel.scope import Scope, full_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.config import RunConfig, build_strategy
from lcp_bench.measure.flops import (
    FLOP_PER_MAC,
    StepShape,
    count_macs,
    foreground_tokens,
    published_scope_macs,
    uncounted_scope_macs,
)
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.foreground import Foreground
from lcp_bench.models.registry import assemble, kind_of
from lcp_bench.models.talking_head import TalkingHead
from lcp_bench.models.topology import Topology
from lcp_bench.models.walk import stream_of
from lcp_bench.open_plans import open_document
from lcp_bench.plan_report_text import print_plan

TERA = 1e12


@dataclass(frozen=True, slots=True)
class ScopeCost:
    """Work of one step under a scope, in multiply-accumulates; `uncounted_macs` is left out of the published work."""

    scope: Scope
    reads: tuple[str, ...]
    published_macs: int
    executed_macs: int
    uncounted_macs: int = 0


@dataclass(frozen=True, slots=True)
class CostReport:
    """The plan of a run with its costs.

    Attributes:
        plan: Groups of steps.
        scopes: Cost of every scope that occurs, by name; `full` is always there.
        scope_of: Scope name of every step; of an open plan in its cheapest case.
        prepare_macs: Constants of a segment that we compute once (projected reference, image, audio and motion tokens).
        around_macs: Work around the denoising loop per segment: `reference`, `encode`, `decode`.
        cache_bytes: Largest size of the features kept between a key step and its followers.
        foreground_ratio: Foreground's share of every map that the counts assume; None if no attention is restricted.
        full_prepare_macs: The same constants for the unaccelerated run, which reads every reference; None: no less.
        if_reused: Scope name of every step that an open plan lets reuse features.
        decided: The plans that came out of an open one, one per segment; work is then their mean.
    """

    plan: Plan
    scopes: dict[str, ScopeCost]
    scope_of: dict[int, str]
    prepare_macs: int
    around_macs: dict[str, int]
    cache_bytes: int
    foreground_ratio: float | None = None
    full_prepare_macs: int | None = None
    if_reused: dict[int, str] = field(default_factory=dict)
    decided: tuple[Plan, ...] = ()

    @property
    def key_steps_per_segment(self) -> float:
        """Number of key steps; the mean over segments where it was decided at run time."""
        plans = self.decided or (self.plan,)
        return sum(len(plan.key_steps) for plan in plans) / len(plans)

    @property
    def loop_tflops(self) -> float:
        """TFLOP of one segment's denoising loop as we execute it, without the constants prepared before it."""
        return self.tflops("executed") - FLOP_PER_MAC * self.prepare_macs / TERA

    def tflops(self, convention: str, num_steps: int | None = None) -> float:
        """TFLOP of one segment's denoising; `num_steps` gives the unaccelerated run of that many steps instead."""
        whole = num_steps and self.full_prepare_macs is not None
        prepare = (self.full_prepare_macs if whole else self.prepare_macs) or 0
        if num_steps:
            return self._tflops(convention, ["full"] * num_steps, prepare)
        runs = [self._names(plan) for plan in self.decided] or [list(self.scope_of.values())]
        return sum(self._tflops(convention, names, prepare) for names in runs) / len(runs)

    def dearest_tflops(self, convention: str) -> float:
        """TFLOP of one segment if an open plan never reuses anything."""
        return self._tflops(convention, [self.scope_of[0]] * self.plan.num_steps, self.prepare_macs)

    def _names(self, plan: Plan) -> list[str]:
        keys = set(plan.key_steps)
        return [self.scope_of[0] if step in keys else self.if_reused[step] for step in range(plan.num_steps)]

    def _tflops(self, convention: str, names: Sequence[str], prepare: int) -> float:
        costs = [self.scopes[name] for name in names]
        if convention != "executed":
            uncounted = sum(cost.uncounted_macs for cost in costs) if convention == "as_coded" else 0
            return FLOP_PER_MAC * (sum(cost.published_macs for cost in costs) + uncounted) / TERA
        return FLOP_PER_MAC * (sum(cost.executed_macs for cost in costs) + prepare) / TERA


def cost_report(config: RunConfig, foreground_ratio: float | None = None) -> CostReport:
    """Trace the run's scopes on the meta device.

    Args:
        config: The run's configuration.
        foreground_ratio: Foreground's share of every map, 0 to 1; None takes what the strategy assumes.

    Raises:
        ConfigError: The strategy does not fit the model or the sampler.
    """
    tracer = _Tracer(config, foreground_ratio)
    strategy = build_strategy(config)
    topology = tracer.model.unet.topology
    plan = strategy.check(topology, num_steps=config.sampler.steps, eta=config.sampler.eta)
    recording = recording_of(strategy, plan, topology)
    recorded = tuple(dict.fromkeys(name for step in range(plan.num_steps) for name in recording.at(step)))
    sizes = tracer.sizes(recorded)  # in front of the scopes: they find there what they read
    scope_of, if_reused, scopes = _scopes(strategy, plan, full_scope(topology), tracer)
    used = [scopes[name].scope for name in dict.fromkeys((*scope_of.values(), *if_reused.values()))]
    unread = unread_references(used, topology)
    restricted = any(scope.foreground is not None for scope in used)
    return CostReport(
        plan,
        scopes,
        scope_of,
        tracer.prepare_macs_without(unread) if unread else tracer.prepare_macs,
        tracer.around_macs(unread),
        recording.peak_bytes(sizes),
        foreground_ratio=tracer.shape.foreground_ratio if restricted else None,
        full_prepare_macs=tracer.prepare_macs,
        if_reused=if_reused,
    )


def _scopes(
    strategy: Strategy, plan: Plan, full: Scope, tracer: _Tracer
) -> tuple[dict[int, str], dict[int, str], dict[str, ScopeCost]]:
    """Scope of every step, of every step that an open plan lets reuse, and the cost of each scope by its own name."""
    topology = tracer.model.unet.topology
    key = strategy.key_scope(topology) or full
    followers = {step: strategy.follower_scope(step, plan, topology) for step in strategy.may_follow(plan)}
    names: dict[Scope, str] = {}
    for scope in dict.fromkeys((full, key, *followers.values())):
        same = sum(other.name == scope.name for other in names)
        names[scope] = f"{scope.name} #{same + 1}" if same else scope.name
    keys = set(plan.key_steps)
    scope_of = {step: names[key if step in keys else followers[step]] for step in range(plan.num_steps)}
    if_reused = {step: names[scope] for step, scope in followers.items()} if plan.open else {}
    return scope_of, if_reused, {name: tracer.cost(scope) for scope, name in names.items()}


def _or(given: float | None, default: float) -> float:
    return default if given is None else given


class _Tracer:
    """Meta-device model and inputs of one segment."""

    def __init__(self, config: RunConfig, foreground_ratio: float | None = None) -> None:
        self.config = config
        foreground = build_strategy(config).foreground()
        self.model = meta_model(config)
        self.latent_size = config.model.image_size // self.model.latent_stride
        self.channels = self.model.unet.config.latent_channels
        branches = 2 if config.sampler.guidance_scale > 1 else 1
        self.constants = self.model.meta_constants(config.model.image_size, branches)
        image_tokens, audio_tokens = self.model.cross_tokens(self.constants)
        self.shape = StepShape(
            branches=branches,
            frames=config.model.frames_per_segment,
            motion_frames=config.model.motion_frames,
            latent_size=self.latent_size,
            image_tokens=image_tokens,
            audio_tokens=audio_tokens,
            foreground_ratio=1.0 if foreground is None else _or(foreground_ratio, foreground.assumed_ratio),
        )
        # every pass is traced once: counted while it makes what the next one needs
        self._reference_macs = count_macs(self._make_bank)
        self.prepare_macs = count_macs(self._make_conditions)
        self._recordings: list[FeatureCache] = []
        self._full_macs: int | None = None

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=self.model.dtype)

    def _reference_latents(self) -> torch.Tensor:
        channels = self.model.reference_unet.config.latent_channels
        return self._empty(1 + self.shape.motion_frames, channels, self.latent_size, self.latent_size)

    def _make_bank(self) -> None:
        self.bank = self.model.write_reference(self.constants, self._reference_latents())

    def _make_conditions(self) -> None:
        conditions = self.model.segment_conditions(self.constants, self.bank, 0)
        self.conditions: Conditions = replace(conditions, foreground=self._foreground_levels())

    def _foreground_levels(self) -> list[Foreground]:
        """As many cells of every level as the strategy assumes; which ones does not matter here."""
        sides = [self.latent_size // 2**level for level in range(len(self.model.unet.config.channels))]
        counts = [(foreground_tokens(self.shape.foreground_ratio, side**2), side**2) for side in sides]
        empty = [torch.empty(count, dtype=torch.int64, device="meta") for pair in counts for count in pair]
        return [
            Foreground(inside, everything[inside.numel() :])
            for inside, everything in zip(empty[::2], empty[1::2], strict=True)
        ]

    def _reference_macs_without(self, unread: frozenset[str]) -> int:
        return count_macs(lambda: self.model.write_reference(self.constants, self._reference_latents(), unread))

    def prepare_macs_without(self, unread: frozenset[str]) -> int:
        """`prepare_macs` without the references that nobody reads."""
        return count_macs(lambda: self.model.segment_conditions(self.constants, self.bank, 0, unread))

    def _evaluate(self, scope: Scope, cache: FeatureCache, record: tuple[str, ...] = ()) -> None:
        unet = self.model.unet
        latents = self._empty(1, 1, self.channels, self.shape.frames, self.latent_size, self.latent_size)
        with torch.no_grad():
            unet(latents, unet.embed_time([0.0]), self.conditions, scope=scope, cache=cache, record=record)

    def cost(self, scope: Scope) -> ScopeCost:
        """Both counts of one step."""
        unet = self.model.unet
        reads = scope.reads(unet.topology)
        cache = self._recorded(reads) if reads else FeatureCache()
        known = self._full_macs if scope == full_scope(unet.topology) else None
        executed = count_macs(lambda: self._evaluate(scope, cache)) if known is None else known
        uncounted = uncounted_scope_macs(unet.config, self.shape, scope)
        return ScopeCost(scope, reads, published_scope_macs(unet.config, self.shape, scope), executed, uncounted)

    def cache_bytes(self, reads: tuple[str, ...]) -> int:
        """Size of the features a key step keeps."""
        return sum(size for name, size in self.sizes(reads).items() if name in reads)

    def sizes(self, features: tuple[str, ...]) -> dict[str, int]:
        """Bytes of each feature with the audio stream that is kept beside it, and perhaps of others."""
        held = self._recorded(features).sizes() if features else {}
        return {name: size + held.get(stream_of(name), 0) for name, size in held.items()}

    def _recorded(self, reads: tuple[str, ...]) -> FeatureCache:
        """What a key step keeps for followers that read `reads`; meta tensors, so keeping it costs nothing."""
        for cache in self._recordings:
            if cache.sizes().keys() >= set(reads):
                return cache
        cache = FeatureCache()
        self._full_macs = count_macs(lambda: self._evaluate(full_scope(self.model.unet.topology), cache, reads))
        self._recordings.append(cache)
        return cache

    def around_macs(self, unread: frozenset[str] = frozenset()) -> dict[str, int]:
        """Reference network and autoencoder of a clip of one segment, whose motion frames are the portrait itself."""
        side = self.config.model.image_size
        latents = self._empty(1, self.channels, self.shape.frames, self.latent_size, self.latent_size)
        return {
            "reference": self._reference_macs_without(unread) if unread else self._reference_macs,
            "encode": count_macs(lambda: self.model.encode(self._empty(1, 3, side, side))),
            "decode": count_macs(lambda: self.model.decode(latents, self.constants)),
        }


def as_document(config: RunConfig, costs: CostReport) -> dict[str, Any]:
    """The plan as one JSON object."""
    steps = config.sampler.steps
    baseline = {name: costs.tflops(name, steps) for name in ("as_published", "executed")}
    own = {name: costs.tflops(name) for name in ("as_published", "executed")}
    return {
        "model": config.model.name,
        "size": config.model.size,
        "accel": config.accel_name,
        "steps": costs.plan.num_steps,
        "reference_steps": steps,
        "key_steps": list(costs.plan.key_steps),
        "groups": [
            {
                "key": group.key,
                "followers": list(group.followers),
                "scope": ", ".join(dict.fromkeys(costs.scope_of[step] for step in group.followers)) or None,
                "parallel": group.parallel,
                "key_scope": name if (name := costs.scope_of[group.key]) != "full" else None,
            }
            for group in costs.plan.groups
        ],
        "largest_batch": build_strategy(config).largest_batch(),
        "scopes": {
            name: {
                "evaluated": [layer for layer in unet_topology(config).names if layer in cost.scope.evaluated],
                "reads": list(cost.reads),
                **_changes(cost.scope, unet_topology(config)),
                "tflops_per_step": {
                    "as_published": FLOP_PER_MAC * cost.published_macs / TERA,
                    "executed": FLOP_PER_MAC * cost.executed_macs / TERA,
                },
            }
            for name, cost in costs.scopes.items()
        },
        "frames_per_clip": config.model.frames_per_segment,
        "tflops_per_clip": own,
        "tflops_per_clip_unaccelerated": baseline,
        "tflops_around_per_clip": {name: FLOP_PER_MAC * macs / TERA for name, macs in costs.around_macs.items()},
        "speedup_bound": baseline["executed"] / own["executed"],
        "speedup_bound_as_published": baseline["as_published"] / own["as_published"],
        "speedup_bound_free_followers": steps / costs.key_steps_per_segment,
        "cache_bytes": costs.cache_bytes,
        **({} if costs.foreground_ratio is None else {"foreground_ratio_assumed": costs.foreground_ratio}),
        **_as_coded(costs, steps),
        **open_document(costs),
    }


def _as_coded(costs: CostReport, steps: int) -> dict[str, Any]:
    """All work of the published code, where the published totals leave some of it out."""
    if not any(cost.uncounted_macs for cost in costs.scopes.values()):
        return {}
    own, unaccelerated = costs.tflops("as_coded"), costs.tflops("as_coded", steps)
    work = {"tflops_per_clip": own, "tflops_per_clip_unaccelerated": unaccelerated}
    return {"as_coded": {**work, "speedup_bound": unaccelerated / own}}


def _changes(scope: Scope, topology: Topology) -> dict[str, Any]:
    """What a scope changes in the attention of its layers, where it does."""
    changes: dict[str, Any] = {}
    if scope.foreground is not None:
        layers = [layer for layer in topology.layers if layer.name in scope.evaluated]
        restricted = {layer.name: list(scope.foreground.parts_of(layer)) for layer in layers}
        changes["foreground"] = {name: parts for name, parts in restricted.items() if parts}
    if scope.without_reference:
        changes["without_reference"] = [name for name in topology.names if name in scope.without_reference]
    return changes


def unet_topology(config: RunConfig) -> Topology:
    """Layer names of the configured model's denoising UNet."""
    kind = kind_of(config.model.name, config.model.size)
    return kind.denoising_config(config.model.size).topology


def meta_model(config: RunConfig) -> TalkingHead:
    """The configured model without weights, in its own number format."""
    modules = kind_of(config.model.name, config.model.size).build_modules(config.model.size, "meta")
    dtype = getattr(torch, config.model.dtype)
    # nn.Module.to, because the autoencoder's own `to` warns about options that it does not use
    return assemble({name: nn.Module.to(module, dtype) for name, module in modules.items()}, config.model)


def report(config: RunConfig) -> None:
    """Print the plan as text, or as one JSON object with `run.format=json`."""
    document = as_document(config, cost_report(config))
    if config.run.format == "json":
        sys.stdout.write(json.dumps(document) + "\n")
        return
    print_plan(Console(soft_wrap=True, highlight=False), document)
