"""What a run will compute, known without weights, data or a GPU: groups, scopes, TFLOPs, bounds, cache size.

Two counts of work stand side by side and are never mixed, see `lcp_bench.measure.flops`. A clip here is one segment, as
in the published tables: 16 frames for Hallo.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from lcp_bench.accel.schedule import Plan
from lcp_bench.accel.scope import Scope, full_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.config import RunConfig, build_strategy
from lcp_bench.measure.flops import FLOP_PER_MAC, StepShape, count_macs, published_scope_macs
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.hallo import Hallo, build_modules, size_of, unet_configs
from lcp_bench.models.topology import Topology

TERA = 1e12


@dataclass(frozen=True, slots=True)
class ScopeCost:
    """Work of one step under a scope, in multiply-accumulates."""

    scope: Scope
    reads: tuple[str, ...]
    published_macs: int
    executed_macs: int


@dataclass(frozen=True, slots=True)
class CostReport:
    """The plan of a run with its costs.

    Attributes:
        plan: Groups of steps.
        scopes: Cost of every scope that occurs, by name; `full` is always there.
        scope_of: Scope name of every step.
        prepare_macs: Constants of a segment that we compute once (projected reference, image, audio and motion tokens).
        around_macs: Work around the denoising loop per segment: `reference`, `encode`, `decode`.
        cache_bytes: Size of the features kept between a key step and its followers.
    """

    plan: Plan
    scopes: dict[str, ScopeCost]
    scope_of: dict[int, str]
    prepare_macs: int
    around_macs: dict[str, int]
    cache_bytes: int

    @property
    def loop_tflops(self) -> float:
        """TFLOP of one segment's denoising loop as we execute it, without the constants prepared before it."""
        return self.tflops("executed") - FLOP_PER_MAC * self.prepare_macs / TERA

    def tflops(self, convention: str, num_steps: int | None = None) -> float:
        """TFLOP of one segment's denoising; `num_steps` gives the unaccelerated run of that many steps instead."""
        names = ["full"] * num_steps if num_steps else list(self.scope_of.values())
        costs = [self.scopes[name] for name in names]
        if convention == "as_published":
            return FLOP_PER_MAC * sum(cost.published_macs for cost in costs) / TERA
        return FLOP_PER_MAC * (sum(cost.executed_macs for cost in costs) + self.prepare_macs) / TERA


def cost_report(config: RunConfig) -> CostReport:
    """Trace the run's scopes on the meta device.

    Raises:
        ConfigError: The strategy does not fit the model or the sampler.
    """
    tracer = _Tracer(config)
    strategy = build_strategy(config)
    topology = tracer.model.unet.topology
    plan = strategy.check(topology, num_steps=config.sampler.steps, eta=config.sampler.eta)
    scope_of, scopes = _scopes(strategy, plan, full_scope(topology), tracer)
    reads = tuple(dict.fromkeys(name for cost in scopes.values() for name in cost.reads))
    return CostReport(
        plan, scopes, scope_of, tracer.prepare_macs, tracer.around_macs(), tracer.cache_bytes(reads) if reads else 0
    )


def _scopes(
    strategy: Strategy, plan: Plan, full: Scope, tracer: _Tracer
) -> tuple[dict[int, str], dict[str, ScopeCost]]:
    costs = {full.name: tracer.cost(full)}
    scope_of: dict[int, str] = {}
    for group in plan.groups:
        scope_of[group.key] = full.name
        for step in group.followers:
            scope = strategy.follower_scope(step, plan, tracer.model.unet.topology)
            scope_of[step] = scope.name
            if scope.name not in costs:
                costs[scope.name] = tracer.cost(scope)
    return scope_of, costs


class _Tracer:
    """Meta-device model and inputs of one segment."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        size = size_of(config.model.size)
        dtype = getattr(torch, config.model.dtype)
        # nn.Module.to, because the autoencoder's own `to` warns about options that it does not use
        modules = {name: nn.Module.to(module, dtype) for name, module in build_modules(config.model.size).items()}
        self.model = Hallo(modules, frames=config.model.frames_per_segment, motion_frames=config.model.motion_frames)
        self.latent_size = config.model.image_size // 8
        self.branches = 2 if config.sampler.guidance_scale > 1 else 1
        self.shape = StepShape(
            branches=self.branches,
            frames=config.model.frames_per_segment,
            motion_frames=config.model.motion_frames,
            latent_size=self.latent_size,
            image_tokens=modules["image_proj"].tokens,  # type: ignore[arg-type]
            audio_tokens=size.audio_tokens,
        )
        self._token_dim = size.token_dim
        # every pass is traced once: counted while it makes what the next one needs
        self._reference_macs = count_macs(self._make_bank)
        self.prepare_macs = count_macs(self._make_conditions)
        self._recordings: dict[tuple[str, ...], FeatureCache] = {}

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=self.model.dtype)

    def _reference_latents(self) -> torch.Tensor:
        return self._empty(1 + self.shape.motion_frames, 4, self.latent_size, self.latent_size)

    def _image_tokens(self) -> torch.Tensor:
        return self._empty(self.branches, self.shape.image_tokens, self._token_dim)

    def _make_bank(self) -> None:
        self.bank = self.model.reference_bank(self._reference_latents(), self._image_tokens())

    def _make_conditions(self) -> None:
        levels = [(self.latent_size // 2**level) ** 2 for level in range(len(self.model.unet.config.channels))]
        self.conditions: Conditions = self.model.conditions(
            self.bank,
            self._image_tokens(),
            self._empty(self.shape.frames, self.shape.audio_tokens, self._token_dim),
            [self._empty(3, 1, tokens, 1) for tokens in levels],
            self._empty(1, self.model.unet.config.channels[0], self.latent_size, self.latent_size),
        )

    def _evaluate(self, scope: Scope, cache: FeatureCache, record: tuple[str, ...] = ()) -> None:
        unet = self.model.unet
        latents = self._empty(1, 1, 4, self.shape.frames, self.latent_size, self.latent_size)
        with torch.no_grad():
            unet(latents, unet.embed_time([0.0]), self.conditions, scope=scope, cache=cache, record=record)

    def cost(self, scope: Scope) -> ScopeCost:
        """Both counts of one step."""
        unet = self.model.unet
        reads = scope.reads(unet.topology)
        cache = self._recorded(reads) if reads else FeatureCache()
        executed = count_macs(lambda: self._evaluate(scope, cache))
        return ScopeCost(scope, reads, published_scope_macs(unet.config, self.shape, scope), executed)

    def cache_bytes(self, reads: tuple[str, ...]) -> int:
        """Size of the features a key step keeps."""
        return self._recorded(reads).peak_bytes

    def _recorded(self, reads: tuple[str, ...]) -> FeatureCache:
        """What a key step keeps for followers that read `reads`; meta tensors, so keeping it costs nothing."""
        if reads not in self._recordings:
            cache = FeatureCache()
            self._evaluate(full_scope(self.model.unet.topology), cache, reads)
            self._recordings[reads] = cache
        return self._recordings[reads]

    def around_macs(self) -> dict[str, int]:
        """Reference network and autoencoder of a clip of one segment, whose motion frames are the portrait itself."""
        side = self.config.model.image_size
        latents = self._empty(1, 4, self.shape.frames, self.latent_size, self.latent_size)
        return {
            "reference": self._reference_macs,
            "encode": count_macs(lambda: self.model.encode(self._empty(1, 3, side, side))),
            "decode": count_macs(lambda: self.model.decode(latents)),
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
                "scope": costs.scope_of[group.followers[0]] if group.followers else None,
                "parallel": group.parallel,
            }
            for group in costs.plan.groups
        ],
        "scopes": {
            name: {
                "evaluated": [layer for layer in unet_topology(config).names if layer in cost.scope.evaluated],
                "reads": list(cost.reads),
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
        "speedup_bound_free_followers": steps / len(costs.plan.key_steps),
        "cache_bytes": costs.cache_bytes,
    }


def unet_topology(config: RunConfig) -> Topology:
    """Layer names of the configured model's denoising UNet."""
    return unet_configs(size_of(config.model.size))[0].topology


def report(config: RunConfig) -> None:
    """Print the plan as text, or as one JSON object with `run.format=json`."""
    document = as_document(config, cost_report(config))
    if config.run.format == "json":
        sys.stdout.write(json.dumps(document) + "\n")
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{document['model']} ({document['size']}) with {document['accel']}: {document['steps']} steps, "
        f"{len(document['key_steps'])} key"
    )
    console.print(_group_table(document))
    console.print(_scope_table(document))
    _print_totals(console, document)


def _group_table(document: dict[str, Any]) -> Table:
    table = Table("key step", "followers", "scope of the followers", "evaluated", title="groups")
    for group in document["groups"]:
        followers = group["followers"]
        shown = f"{followers[0]}..{followers[-1]}" if len(followers) > 1 else "".join(map(str, followers))
        how = ("as one batch" if group["parallel"] else "one by one") if followers else ""
        table.add_row(str(group["key"]), shown, group["scope"] or "", how)
    return table


def _scope_table(document: dict[str, Any]) -> Table:
    table = Table("scope", "evaluates", "reads", "TFLOP/step as published", "TFLOP/step executed", title="scopes")
    for name, scope in document["scopes"].items():
        work = scope["tflops_per_step"]
        layers = "all layers" if name == "full" else ", ".join(scope["evaluated"])
        table.add_row(name, layers, ", ".join(scope["reads"]), f"{work['as_published']:.3f}", f"{work['executed']:.3f}")
    return table


def _print_totals(console: Console, document: dict[str, Any]) -> None:
    first = f"per clip of {document['frames_per_clip']} frames"
    table = Table(first, "as published", "executed", title="work, TFLOP")
    for label, key in (("this plan", "tflops_per_clip"), ("unaccelerated", "tflops_per_clip_unaccelerated")):
        table.add_row(label, f"{document[key]['as_published']:.2f}", f"{document[key]['executed']:.2f}")
    console.print(table)
    around = ", ".join(f"{name} {work:.2f}" for name, work in document["tflops_around_per_clip"].items())
    console.print(f"around the denoising loop, TFLOP per clip (executed): {around}")
    console.print(
        f"speed-up bound: {document['speedup_bound']:.2f}x by executed work, "
        f"{document['speedup_bound_as_published']:.2f}x by published work, "
        f"{document['speedup_bound_free_followers']:.2f}x if followers were free"
    )
    console.print(f"feature cache: {document['cache_bytes'] / 1e6:.1f} MB")
