"""Golden cases of acceleration methods: their own code's schedules, decisions and final latents, by our strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from baselines.adacache import gap_for, motion, motion_factor, relative_change
from baselines.dbcache import step_mask
from baselines.deepcache import DeepCache, quad_center_keys, quad_keys
from baselines.faster_diffusion import FasterDiffusion, key_steps
from baselines.taylorseer import TaylorForecast, every_keys
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.strategy import NoAcceleration, Strategy
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM

# DDIM as the golden's versions of diffusers have it by default, where the case says nothing else
PLAIN: dict[str, object] = {"rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
FULL = ScheduleConfig(key_steps=1)
"""Stands in for the shared schedule where a method uses its own."""


class Bench:
    """The case's tiny Stable Diffusion UNet, inputs and sampler."""

    def __init__(self, case: Any) -> None:
        meta, options = case.meta, case.meta["unet_config"]
        config = UNetConfig(
            channels=tuple(options["block_out_channels"]),
            heads=options["attention_head_dim"],
            norm_groups=options["norm_num_groups"],
            image_token_dim=options["cross_attention_dim"],
        )
        self.unet = UNet(config).eval().requires_grad_(False)
        apply_seeded_v1(self.unet, meta["weights"]["seed"])
        self.steps, self.scale = meta["scheduler"]["num_inference_steps"], meta["guidance"]["scale"]
        self._scheduler = {**PLAIN, **meta["scheduler"]["config"]}
        self.latents = case.inputs["latents"][:, :, None]
        tokens = torch.cat([case.inputs["uncond"], case.inputs["cond"]])
        sites = self.unet.site_conditions(None, tokens, None, branches=2, frames=1, row_rule="tiled")
        self.conditions = Conditions(2, 1, {name: replace(site, reference=None) for name, site in sites.items()})

    def run(self, strategy: Strategy) -> Tensor:
        """Latents after every step, (steps, 1, C, h, w)."""
        plan = strategy.check(self.unet.topology, num_steps=self.steps, eta=0.0)
        sampler = Sampler(self.unet, strategy, plan, DDIM(self.steps, **self._scheduler), self.scale)
        states: list[Tensor] = []
        sampler.denoise(self.latents, self.conditions, lambda _step, state: states.append(state[:, :, 0]))
        return torch.stack(states)


def deepcache_sd_tiny(case: Any) -> dict[str, Tensor]:
    """The helper's branches at uniform intervals."""
    bench = Bench(case)
    states = {"full": bench.run(NoAcceleration())}
    for run in case.meta["runs"]:
        interval, branch = run["cache_interval"], run["cache_branch_id"]
        options = DeepCache.Config(timing="uniform", schedule=FULL, interval=interval, branch=branch)
        states[f"i{interval}_b{branch}"] = bench.run(DeepCache(options))
    return {f"final_{name}": each[-1] for name, each in states.items()} | {
        f"per_step_{name}": each for name, each in states.items()
    }


def deepcache_paper_tiny(case: Any) -> dict[str, Tensor]:
    """The paper's code, whose layer (l, j) is branch 3 l + j + 1."""
    bench = Bench(case)
    found = {"final_full": bench.run(NoAcceleration())[-1]}
    for run in case.meta["runs"]:
        schedule = run["schedule"]
        own: dict[str, Any] = {"timing": "uniform", "interval": schedule["interval"]}
        if not schedule.get("uniform", True):
            own |= {"timing": "quad_center", "power": schedule["pow"], "center": schedule["center"]}
        branch = 3 * run["cache_layer_id"] + run["cache_block_id"] + 1
        strategy = DeepCache(DeepCache.Config(schedule=FULL, branch=branch, **own))
        if list(strategy.plan(bench.steps).key_steps) != run["key_steps"]:
            raise AssertionError(f"key steps {strategy.plan(bench.steps).key_steps}, expected {run['key_steps']}")
        found[run["output"]] = bench.run(strategy)[-1]
    return found


def deepcache_schedules(case: Any) -> dict[str, Tensor]:
    """Uniform, quad_center, quad."""
    found: dict[str, Any] = {}
    for number, entry in enumerate(case.meta["entries"]):
        steps, interval = entry["num_steps"], entry["interval"]
        if entry["mode"] == "quad_center":
            keys, power = quad_center_keys(steps, interval, entry["pow"], entry["center"])
            found[f"{number}.final_pow"] = power
        elif entry["mode"] == "quad":
            keys = quad_keys(steps, interval, entry["pow"])
        else:
            options = DeepCache.Config(timing="uniform", schedule=FULL, interval=interval)
            keys = DeepCache(options).plan(steps).key_steps
        found[f"{number}.key_steps"] = keys
    return tensors(found)


def faster_diffusion_schedules(case: Any) -> dict[str, Tensor]:
    """Named lists and intervals."""
    found = {}
    for number, entry in enumerate(case.meta["entries"]):
        timing, interval = (entry["mod"], 1) if isinstance(entry["mod"], str) else ("every", entry["mod"])
        found[f"{number}.key_steps"] = key_steps(timing, entry["num_steps"], interval)
    return tensors(found)


def faster_diffusion_sd_tiny(case: Any) -> dict[str, Tensor]:
    """Parallel and sequential, with prior noise."""
    bench = Bench(case)
    found = {"final_full": bench.run(NoAcceleration())[-1]}
    for run in case.meta["runs"]:
        own = {"timing": run["mod"]} if isinstance(run["mod"], str) else {"timing": "every", "interval": run["mod"]}
        weight = case.meta["prior_noise_injection"]["alpha"]
        options = FasterDiffusion.Config(schedule=FULL, parallel=run["mode"] == "parallel", prior_noise=weight, **own)
        found[run["output"]] = bench.run(FasterDiffusion(options))[-1]
    return found


def taylorseer_series(case: Any) -> dict[str, Tensor]:
    """The feature cache with forecasts, fed with a given series of features."""
    series, found = case.inputs["series"], {}
    for run in case.meta["runs"]:
        options = run["config"]
        keys = every_keys(
            len(series),
            options["disable_cache_before_step"],
            options["cache_interval"],
            options.get("disable_cache_after_step"),
        )
        if list(keys) != run["compute_steps"]:
            raise AssertionError(f"key steps {keys}, expected {run['compute_steps']}")
        outputs = []
        with FeatureCache(TaylorForecast(options["max_order"])) as cache:
            for step, value in enumerate(series):
                if step in keys:
                    cache.replace({"feature": value}, step)
                outputs.append(cache.read("feature", (step,)))
        found[run["output"]] = torch.stack(outputs)
    return found


def cachedit_step_masks(case: Any) -> dict[str, Tensor]:
    """Named masks, and masks of given runs."""
    found = {}
    for number, entry in enumerate(case.meta["entries"]):
        policy = entry.get("mask_policy") or interleave(entry["compute_bins"], entry["cache_bins"])
        found[f"{number}.mask"] = step_mask(policy, entry["total_steps"])
    return tensors({name: [int(bit) for bit in mask] for name, mask in found.items()})


def interleave(computed: list[int], reused: list[int]) -> list[int]:
    """Runs in order: computed, reused, computed, ..."""
    runs = [0] * (len(computed) + len(reused))
    runs[::2], runs[1::2] = computed, reused
    # the library forces the last step, which its bins leave out
    return [*runs, 1] if len(computed) == len(reused) else runs


def adacache_rates(case: Any) -> dict[str, Tensor]:
    """Change, motion factor and next gap of a residual (1, T S, C)."""
    found: dict[str, Any] = {}
    for number, run in enumerate(case.meta["runs"]):
        last, now = (case.inputs[f"{name}{number}"] for name in ("cache", "res"))
        change = relative_change(now, last) / run["prev_rate"]
        found[f"{number}.diff_before_moreg"] = change
        moved, (low, high) = 1.0, run["moreg_steps"]
        if run["moreg"] and low <= run["step"] <= high:
            moved = motion(now.unflatten(1, (run["T"], run["S"])))
        if run["moreg"]:
            change *= motion_factor(moved, run["prev_moreg"], run["prev_rate"])
        found[f"{number}.moreg_after"] = moved
        found[f"{number}.new_rate"] = gap_for(change, [(below, gap) for below, gap in run["codebook"]])
    return tensors(found)


def tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Numbers and lists as tensors."""
    return {name: torch.as_tensor(value) for name, value in found.items()}


HANDLERS: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    "deepcache_sd_tiny": deepcache_sd_tiny,
    "deepcache_paper_tiny": deepcache_paper_tiny,
    "deepcache_schedules": deepcache_schedules,
    "faster_diffusion_schedules": faster_diffusion_schedules,
    "faster_diffusion_sd_tiny": faster_diffusion_sd_tiny,
    "taylorseer_series": taylorseer_series,
    "cachedit_step_masks": cachedit_step_masks,
    "adacache_rates": adacache_rates,
}

ELSEWHERE = frozenset({("accel", "lcp_input_estimation")})
"""Checked by tests/unit/test_estimate.py, run by run."""
