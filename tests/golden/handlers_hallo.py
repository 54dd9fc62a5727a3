"""How each component of Hallo's golden cases is computed with this project's modules, from the case's own config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from cases import Case
from handlers_data import audio_features, face_masks
from lcp_bench.accel.scope import shell_scope
from lcp_bench.accel.strategy import NoAcceleration
from lcp_bench.data.audio_features import window_frames
from lcp_bench.generate import ClipConstants, generate_segments
from lcp_bench.models.audio import AudioProjection
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import unet_config_from_diffusers
from lcp_bench.models.face import FaceLocator, ImageProjection
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.hallo import Hallo
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM

Outputs = dict[str, Tensor]
BRANCHES = ("full", "face", "lip")


def site_name(path: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0` to `down.1.0`."""
    block, *rest = path.split(".")
    return "mid" if block == "mid_block" else f"{block.removesuffix('_blocks')}.{rest[0]}.{rest[2]}"


def build(component: str, config: dict[str, Any]) -> nn.Module:
    """A component from upstream's constructor arguments."""
    if component == "denoising_unet":
        return UNet(unet_config_from_diffusers(config, three_dimensional=True))
    if component == "reference_unet":
        return UNet(unet_config_from_diffusers(config, three_dimensional=False))
    if component == "face_locator":
        return FaceLocator(
            config["conditioning_embedding_channels"], config["conditioning_channels"], config["block_out_channels"]
        )
    if component == "image_proj":
        return ImageProjection(
            config["cross_attention_dim"], config["clip_embeddings_dim"], config["clip_extra_context_tokens"]
        )
    if component == "audio_proj":
        keys = ("seq_len", "blocks", "channels", "intermediate_dim", "context_tokens", "output_dim")
        return AudioProjection(*(config[key] for key in keys))
    if component == "vae":
        return AutoencoderKL(**config)
    raise KeyError(component)


def seeded(case: Case, component: str | None = None) -> nn.Module:
    """A component with the case's weights; buffers that upstream computes are left as this project computes them."""
    name = component or case.meta["component"]
    config = case.meta["config"] if component is None else case.meta["config"][component]
    seed = case.meta["weights"]["seed"]
    prefix = "" if component is None else f"{component}:"
    buffers = [key.removeprefix(prefix) for key in case.meta["computed_buffers"] if key.startswith(prefix)]
    module = build(name, config).eval().requires_grad_(False)
    apply_seeded_v1(module, seed if component is None else seed[component], computed_buffers=buffers)
    return module


def masks(inputs: dict[str, Tensor]) -> list[Tensor]:
    """Per level, (3, rows, L, 1)."""
    levels = range(sum(name.startswith("lip_mask.") for name in inputs))
    return [torch.stack([inputs[f"{branch}_mask.{level}"] for branch in BRANCHES])[..., None] for level in levels]


def denoising_unet(case: Case) -> Outputs:
    """The denoising UNet alone, in full and again as LightningCP's follower on its own recorded feature."""
    unet, inputs = seeded(case), case.inputs
    assert isinstance(unet, UNet)
    sample = inputs["sample"]
    branches = sample.shape[0]
    frames = sample.shape[2]
    bank = {site_name(key.removeprefix("bank.")): value for key, value in inputs.items() if key.startswith("bank.")}
    sites = unet.site_conditions(
        bank or None,
        inputs["encoder_hidden_states"],
        inputs["audio_embedding"],
        branches=branches,
        frames=frames,
        row_rule="tiled",
    )
    if not bank:
        sites = _with_zero_motion(unet, sites, case.meta["call"]["n_motion_frames"], sample.shape[-2:])
    conditions = Conditions(
        branches,
        frames,
        sites,
        masks(inputs),
        inputs["mask_cond_fea"].transpose(1, 2),
        tuple(case.meta["call"]["motion_scale"] or (1.0, 1.0, 1.0)),
    )
    taps = _Taps(unet)
    last = unet.topology.names[-2]
    record = [f"{last}:in", "conv_in:out"]
    with FeatureCache() as cache:
        time = unet.embed_time([float(inputs["timestep"])])
        prediction = unet(sample[:, None], time, conditions, cache=cache, record=record)
        follower = unet(sample[:, None], time, conditions, cache=cache, scope=shell_scope(unet.topology, last))
        torch.testing.assert_close(follower, prediction, rtol=1e-5, atol=1e-5)
        fold = (branches, frames)
        outputs = {
            "sample": prediction[:, 0],
            "tap_in": cache.read(f"{last}:in").unflatten(0, fold).transpose(1, 2),
            "tap_skip": cache.read("conv_in:out").unflatten(0, fold).transpose(1, 2),
        }
    for name, hidden in taps.seen.items():
        outputs[name] = hidden.unflatten(0, fold).transpose(1, 2)
    outputs["intermediate.conv_in"] = outputs["tap_skip"] - inputs["mask_cond_fea"]
    return outputs


class _Taps:
    """Outputs of blocks by upstream's names, seen by hooks."""

    def __init__(self, unet: UNet) -> None:
        self.seen: dict[str, Tensor] = {}
        last = len(unet.down_blocks) - 1
        for level in range(last):
            self._watch(unet.down_blocks[level].downsamplers[0], f"intermediate.down_blocks.{level}")
            self._watch(unet.up_blocks[level].upsamplers[0], f"intermediate.up_blocks.{level}")
        self._watch(unet.down_blocks[last].resnets[-1], f"intermediate.down_blocks.{last}")
        self._watch(unet.mid_block.resnets[1], "intermediate.mid_block")
        self._watch(unet.up_blocks[last].motion_modules[-1], "tap_out")

    def _watch(self, module: nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _m, _i, output: self.seen.__setitem__(name, output))


def _with_zero_motion(unet: UNet, sites: dict[str, Any], count: int, size: torch.Size) -> dict[str, Any]:
    """Upstream's behaviour without a bank: all-zero motion frames in every motion module that runs."""
    changed = {}
    for name, site in sites.items():
        level = unet.topology[name].level
        length = -(-size[0] // 2**level) * -(-size[1] // 2**level)
        block, layer, _ = unet._module(name)
        channels = unet.config.channels[level]
        zeros = torch.zeros(1, count, length, channels)
        changed[name] = replace(site, motion=block.motion_modules[layer].project_motion(zeros))
    return changed


def reference_unet(case: Case) -> Outputs:
    """Features before the half-precision cast, and the last hidden map."""
    unet, inputs = seeded(case), case.inputs
    assert isinstance(unet, UNet)
    bank, hidden = unet.write_features(inputs["sample"], inputs["encoder_hidden_states"], whole=True)
    short, _ = unet.write_features(inputs["sample"], inputs["encoder_hidden_states"])
    for site, features in short.items():
        torch.testing.assert_close(features, bank[site], rtol=0, atol=0)
    names = {site_name(key.removeprefix("bank.")): key for key in case.outputs if key.startswith("bank.")}
    assert hidden is not None
    return {"sample": hidden, **{names[site]: features for site, features in bank.items()}}


def hallo(case: Case, reference_dtype: torch.dtype | None) -> Hallo:
    """The assembled model of a multi-component case."""
    modules = {name: seeded(case, name) for name in case.meta["config"]}
    return Hallo(
        modules,
        frames=case.inputs["latents"].shape[2] if "latents" in case.inputs else case.meta["call"]["clip_length"],
        motion_frames=case.meta["call"]["n_motion_frames"],
        reference_dtype=reference_dtype,
        motion_scale=case.meta["call"]["motion_scale"],
    )


def _segment(model: Hallo, inputs: dict[str, Tensor]) -> tuple[Conditions, Outputs]:
    image = model.identity_tokens(inputs["face_emb"][0])
    audio = model.audio_tokens(inputs["audio_emb"][0])
    face = model.face_feature(inputs["face_region"][0])
    bank = model.reference_bank(inputs["ref_image_latents"], image)
    conditions = model.conditions(bank, image, audio, masks(inputs), face)
    frames = audio.shape[0]
    shown = {
        "encoder_hidden_states": image,
        "audio_tokens": torch.stack([torch.zeros_like(audio), audio]),
        "face_feature": face[:, :, None].expand(-1, -1, frames, -1, -1),
    }
    return conditions, shown


def denoise_step(case: Case) -> Outputs:
    """Reference features to a guided prediction, with and without rounding them."""
    outputs: Outputs = {}
    for suffix, dtype in (("", torch.float16), ("_bank_fp32", None)):
        model = hallo(case, dtype)
        conditions, shown = _segment(model, case.inputs)
        outputs.update(shown)
        time = model.unet.embed_time([float(case.meta["call"]["timestep"])])
        prediction = model.unet(case.inputs["latents"][:, None], time, conditions)[:, 0]
        scale = case.meta["call"]["guidance_scale"]
        outputs[f"noise_pred{suffix}"] = prediction
        outputs[f"guided{suffix}"] = prediction[:1] + scale * (prediction[1:] - prediction[:1])
    return outputs


def mini_rollout(case: Case) -> Outputs:
    """A short DDIM run through the real sampler."""
    outputs: Outputs = {}
    call = case.meta["call"]
    for suffix, dtype in (("", torch.float16), ("_bank_fp32", None)):
        model = hallo(case, dtype)
        conditions, shown = _segment(model, case.inputs)
        outputs.update(shown)
        scheduler = DDIM(call["num_inference_steps"], **call["scheduler"])
        strategy = NoAcceleration()
        plan = strategy.plan(call["num_inference_steps"])
        steps: list[Tensor] = []
        sampler = Sampler(model.unet, strategy, plan, scheduler, call["guidance_scale"])
        keep = steps.append
        result = sampler.denoise(case.inputs["latents"], conditions, lambda _step, latents, keep=keep: keep(latents))
        outputs[f"final_latents{suffix}"] = result.latents
        outputs[f"latents_per_step{suffix}"] = torch.stack(steps)
        outputs["timesteps"] = torch.tensor(scheduler.timesteps)
    return outputs


def pipeline_segments(case: Case) -> Outputs:
    """Two chained segments through the clip generator: motion frames travel from one to the next."""
    outputs: Outputs = {}
    call, inputs = case.meta["call"], case.inputs
    for suffix, dtype in (("", torch.float16), ("_bank_fp32", None)):
        model = hallo(case, dtype)
        strategy = NoAcceleration()
        sampler = Sampler(
            model.unet,
            strategy,
            strategy.plan(call["num_inference_steps"]),
            DDIM(call["num_inference_steps"], **call["scheduler"]),
            call["guidance_scale"],
        )
        constants = ClipConstants(
            portrait=inputs["source_image"],
            image_tokens=model.identity_tokens(inputs["face_emb"][0]),
            audio_tokens=model.audio_tokens(window_frames(inputs["audio_emb"])),
            masks=masks(inputs),
            face_feature=model.face_feature(inputs["face_region"]),
            branches=2,
        )
        noise = iter([inputs[f"initial_latents.{number}"] for number in range(call["segments"])]).__next__
        frames = []
        segments = generate_segments(model, sampler, constants, lambda _shape, noise=noise: noise())
        for number, segment in enumerate(segments):
            outputs[f"final_latents.{number}{suffix}"] = segment.latents
            frames.append(segment.frames)
        outputs[f"video{suffix}"] = torch.cat(frames).transpose(0, 1)[None]
    return outputs


def ddim(case: Case) -> Outputs:
    """The scheduler alone, driven by the case's artificial prediction."""
    call = case.meta["call"]
    scheduler = DDIM(call["num_inference_steps"], **case.meta["config"])
    latents = case.inputs["x"]
    trajectory = [latents]
    for step, timestep in enumerate(scheduler.timesteps):
        prediction = call["a"] * latents + call["b"] * (timestep / 1000)
        latents = scheduler.apply(latents, prediction, step)
        trajectory.append(latents)
    return {
        "timesteps": torch.tensor(scheduler.timesteps),
        "alphas_cumprod": scheduler.alphas_cumprod,
        "trajectory": torch.stack(trajectory),
    }


def face_locator(case: Case) -> Outputs:
    """Per frame, as the network is two-dimensional."""
    region = case.inputs["conditioning"]
    rows = seeded(case)(region.transpose(1, 2).flatten(0, 1))
    return {"embedding": rows.unflatten(0, (region.shape[0], -1)).transpose(1, 2)}


def image_proj(case: Case) -> Outputs:
    """Identity tokens."""
    return {"tokens": seeded(case)(case.inputs["image_embeds"])}


def audio_proj(case: Case) -> Outputs:
    """Windowing and projection."""
    windows = window_frames(case.inputs["audio_emb"])
    return {"windowed": windows[None], "tokens": seeded(case)(windows)[None]}


HANDLERS: dict[str, Callable[[Case], Outputs]] = {
    handler.__name__: handler
    for handler in (
        denoising_unet,
        reference_unet,
        denoise_step,
        mini_rollout,
        pipeline_segments,
        ddim,
        face_locator,
        image_proj,
        audio_proj,
        audio_features,
        face_masks,
    )
}
