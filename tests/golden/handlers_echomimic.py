"""How each component of EchoMimic's golden cases is computed with this project's modules, from the case's config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cases import Case
from handlers_hallo import _Taps, site_name
from lcp_bench.accel.scope import shell_scope
from lcp_bench.accel.strategy import NoAcceleration
from lcp_bench.data.echomimic_crop import face_crop as crop_of
from lcp_bench.data.echomimic_crop import face_mask
from lcp_bench.data.whisper_features import frame_states, frame_tokens, log_mel, whisper_features
from lcp_bench.models.attention import ReferenceContext, SpatialTransformer
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import TemporalConfig, UNetConfig, unet_config_from_diffusers
from lcp_bench.models.echomimic import SOUND_SCALE, EchoMimic
from lcp_bench.models.face import FaceLocator
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.temporal import TemporalModule
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1
from lcp_bench.models.whisper import WhisperEncoder
from lcp_bench.models.windowed import WindowedUNet
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM, draw_noise
from lcp_bench.windows import WindowSchedule, shifted, uniform_windows

Outputs = dict[str, Any]


def unet_config(component: str, options: dict[str, Any]) -> UNetConfig:
    """The family's configuration of one of the two UNets."""
    three_dimensional = component == "denoising_unet"
    config = unet_config_from_diffusers(options, three_dimensional=three_dimensional)
    if three_dimensional:
        return replace(config, image_scale=SOUND_SCALE)
    return replace(config, image_token_dim=None)  # whatever upstream's base configuration says


def build(component: str, config: dict[str, Any]) -> nn.Module:
    """A component from upstream's constructor arguments."""
    if component in ("denoising_unet", "reference_unet"):
        return UNet(unet_config(component, config))
    if component == "face_locator":
        return FaceLocator(
            config["conditioning_embedding_channels"], config["conditioning_channels"], config["block_out_channels"]
        )
    if component == "motion_module":
        temporal = TemporalConfig(
            heads=config["num_attention_heads"],
            attentions=len(config["attention_block_types"]),
            max_frames=config["temporal_position_encoding_max_len"],
        )
        return TemporalModule(config["in_channels"], temporal)
    if component == "spatial_transformer":
        heads, groups = config["num_attention_heads"], config["norm_num_groups"]
        return SpatialTransformer(config["in_channels"], heads, groups, config["cross_attention_dim"], SOUND_SCALE)
    if component == "whisper_features":
        return WhisperEncoder(
            config["n_audio_state"],
            config["n_audio_head"],
            config["n_audio_layer"],
            config["n_mels"],
            config["n_audio_ctx"],
        )
    raise KeyError(component)


def seeded(case: Case, component: str | None = None, prefix: str = "") -> Any:
    """A component with the case's weights; buffers that upstream computes are left as this project computes them."""
    name = component or case.meta["component"]
    config = case.meta["config"] if component is None else case.meta["config"][component]
    seed = case.meta["weights"]["seed"]
    owner = prefix if component is None else f"{component}/"
    buffers = [key.removeprefix(owner) for key in case.meta["computed_buffers"] if key.startswith(owner)]
    module = build(name, config).eval().requires_grad_(False)
    apply_seeded_v1(module, seed if component is None else seed[component], computed_buffers=buffers, prefix=prefix)
    return module


def denoising_unet(case: Case) -> Outputs:
    """The denoising UNet alone, in full and again as LightningCP's follower on its own recorded feature."""
    unet, inputs = seeded(case), case.inputs
    sample, audio = inputs["sample"], inputs["audio_cond_fea"]
    branches, frames = sample.shape[0], sample.shape[2]
    bank = {site_name(key.removeprefix("bank.")): value for key, value in inputs.items() if key.startswith("bank.")}
    sites = unet.site_conditions(bank or None, audio, None, branches=branches, frames=frames, row_rule="branch")
    conditions = Conditions(branches, frames, sites, pixel_feature=inputs["face_musk_fea"].transpose(1, 2))
    return evaluated(unet, conditions, sample[:, None], case.meta["call"]["timestep"])


def evaluated(unet: UNet, conditions: Conditions, latents: Tensor, timestep: float) -> Outputs:
    """Prediction and taps of a full pass; a follower on its features must predict the same."""
    taps, last = _Taps(unet), unet.topology.names[-2]
    time, fold = unet.embed_time([float(timestep)]), (conditions.branches, conditions.frames)
    with FeatureCache() as cache:
        record = [f"{last}:in", "conv_in:out"]
        prediction = unet(latents, time, conditions, cache=cache, record=record)
        follower = unet(latents, time, conditions, cache=cache, scope=shell_scope(unet.topology, last))
        torch.testing.assert_close(follower, prediction, rtol=1e-5, atol=1e-5)
        seen = {
            "tap_in": cache.read(f"{last}:in"),
            "tap_skip": cache.read("conv_in:out"),
            "tap_out": taps.seen["tap_out"],
        }
    return {"sample": prediction[:, 0]} | {
        name: hidden.unflatten(0, fold).transpose(1, 2) for name, hidden in seen.items()
    }


def reference_unet(case: Case) -> Outputs:
    """Features before the half-precision cast, and the last hidden map."""
    unet, inputs = seeded(case), case.inputs
    bank, hidden = unet.write_features(inputs["sample"], None, whole=True)
    short, _ = unet.write_features(inputs["sample"], None)
    for site, features in short.items():
        torch.testing.assert_close(features, bank[site], rtol=0, atol=0)
    names = {site_name(key.removeprefix("bank.")): key for key in case.outputs if key.startswith("bank.")}
    return {"sample": hidden, **{names[site]: features for site, features in bank.items()}}


def motion_module(case: Case) -> Outputs:
    """One temporal module."""
    maps = case.inputs["hidden_states"]
    samples, frames = maps.shape[0], maps.shape[2]
    rows = seeded(case)(maps.transpose(1, 2).flatten(0, 1), frames, None)
    return {"hidden_states": rows.unflatten(0, (samples, frames)).transpose(1, 2)}


def spatial_transformer(case: Case) -> Outputs:
    """One spatial transformer that reads a bank and hears the sound."""
    transformer, inputs = seeded(case), case.inputs
    maps = inputs["hidden_states"]
    samples, frames = maps.shape[0], maps.shape[2]
    sound = transformer.block.attn2.project(inputs["audio_cond_fea"].flatten(0, 1))
    plain = frames if case.meta["call"]["do_classifier_free_guidance"] else 0
    reference = ReferenceContext(transformer.block.attn1.project(inputs["bank"][-1:]), plain)
    rows = transformer(maps.transpose(1, 2).flatten(0, 1), reference, sound)
    return {"hidden_states": rows.unflatten(0, (samples, frames)).transpose(1, 2)}


def face_locator(case: Case) -> Outputs:
    """Per frame, as the network is two-dimensional."""
    region = case.inputs["conditioning"]
    rows = seeded(case)(region.transpose(1, 2).flatten(0, 1))
    return {"embedding": rows.unflatten(0, (region.shape[0], -1)).transpose(1, 2)}


def assembled(case: Case, frames: int) -> tuple[EchoMimic, Conditions, Tensor]:
    """The model of a multi-component case, the conditions of its first frames, and the face feature."""
    call, inputs = case.meta["call"], case.inputs
    names = ("denoising_unet", "reference_unet", "face_locator")
    kept = None if call["bank_dtype"] == "float32" else getattr(torch, call["bank_dtype"])
    model = EchoMimic({name: seeded(case, name) for name in names}, reference_dtype=kept)
    feature = model.face_feature(inputs["face_mask"][0, :, 0])
    bank = model.reference_bank(inputs["ref_latents"])
    branches = 2 if call["guidance_scale"] > 1 else 1
    return model, model.conditions(bank, inputs["audio"][0, :frames], feature, branches=branches), feature


def denoise_step(case: Case) -> Outputs:
    """Reference features to a guided prediction."""
    latents, scale = case.inputs["latents"], case.meta["call"]["guidance_scale"]
    model, conditions, feature = assembled(case, latents.shape[2])
    found = evaluated(model.unet, conditions, latents[:, None], case.meta["call"]["timestep"])
    branches = found.pop("sample")
    found |= {"face_feature": feature[:, :, None], "noise_pred": branches}
    if len(branches) == 2:
        first, second = branches.split(1)
        guided = first + scale * (second - first)
        found |= {"noise_pred_uncond": first, "noise_pred_cond": second, "noise_pred": guided}
    return found


class _Summed(WindowedUNet):
    """The normal pipeline without guidance: predictions of windows that overlap are added, not averaged."""

    def __call__(self, latents: Tensor, time: Tensor, conditions: Conditions, **told: Any) -> Tensor:
        (step,) = told["steps"]
        counts = torch.tensor(self.schedule.counts(step, conditions.frames))
        return super().__call__(latents, time, conditions, **told) * counts[:, None, None]


class _Watched(DDIM):
    """A scheduler that keeps what it is handed."""

    def apply(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        self.predictions.append(prediction)
        return super().apply(latents, prediction, step)

    def __init__(self, num_steps: int, **options: object) -> None:
        super().__init__(num_steps, **options)
        self.predictions: list[Tensor] = []


def mini_rollout(case: Case) -> Outputs:
    """A whole video in moving windows through the real sampler; the accelerated variant is the same loop."""
    call, inputs = case.meta["call"], case.inputs
    frames = min(call["video_length"], inputs["audio"].shape[1])
    model, conditions, _ = assembled(case, frames)
    windows = WindowSchedule(size=call["context_frames"], overlap=call["context_overlap"])
    summed = call["variant"] == "normal" and call["guidance_scale"] <= 1
    unet = (_Summed if summed else WindowedUNet)(model.unet, windows)
    scheduler = _Watched(call["num_inference_steps"], **case.meta["config"]["scheduler"])
    strategy, steps = NoAcceleration(), []
    plan = strategy.plan(call["num_inference_steps"])
    sampler = Sampler(unet, strategy, plan, scheduler, call["guidance_scale"])
    result = sampler.denoise(inputs["latents"][:, :, :frames], conditions, lambda _step, state: steps.append(state))
    return {
        "timesteps": torch.tensor(scheduler.timesteps),
        "latents_final": result.latents,
        "latents_steps": torch.stack(steps),
        "noise_pred_steps": torch.stack(scheduler.predictions),
    }


def scheduler(case: Case) -> Outputs:
    """The scheduler alone; every stored prediction must follow from our own latents, by the case's formula."""
    call, latents = case.meta["call"], case.inputs["sample"]
    ddim = DDIM(call["num_inference_steps"], **case.meta["config"])
    found: dict[str, list[Tensor]] = {"model_output": [], "prev_sample": [], "pred_original_sample": []}
    for step, timestep in enumerate(ddim.timesteps):
        prediction = call["a"] * latents + call["b"] * (timestep / 1000) + call["c"]
        alpha = ddim.alphas_cumprod[int(timestep)]
        found["model_output"].append(prediction)
        found["pred_original_sample"].append(alpha.sqrt() * latents - (1 - alpha).sqrt() * prediction)
        latents = ddim.apply(latents, prediction, step)
        found["prev_sample"].append(latents)
    return {
        "timesteps": torch.tensor(ddim.timesteps),
        "alphas_cumprod": ddim.alphas_cumprod,
        "final_alpha_cumprod": torch.tensor([ddim._last_alpha]),
        "init_noise_sigma": torch.ones(1),
        **{name: torch.stack(each) for name, each in found.items()},
    }


def context_windows(case: Case) -> Outputs:
    """Index lists, and the same at a later step."""
    found = {}
    for number, query in enumerate(case.meta["call"]["queries"]):
        size, overlap, stride = (query[f"context_{name}"] for name in ("size", "overlap", "stride"))
        frames = query["num_frames"]
        windows = uniform_windows(frames, size=size, overlap=overlap, stride=stride, step=query["step"])
        found[f"windows_{number}"] = windows
        found[f"shifted_{number}"] = shifted(windows, 2 * query["t_i"], frames)
        if stride == 1 and query["step"] == 0:
            assert WindowSchedule(size=size, overlap=overlap).at(query["t_i"], frames) == found[f"shifted_{number}"]
    return found


def whisper(case: Case) -> Outputs:
    """Waveform to spectrogram and states."""
    waveform = case.inputs["waveform_int16"].numpy().astype(np.float32) / 32768
    encoder = seeded(case, prefix="encoder.")
    return {"log_mel": log_mel(waveform), "features": whisper_features(encoder, waveform)}


def audio_chunks(case: Case) -> Outputs:
    """States to tokens per frame, and the indices behind them."""
    call = case.meta["call"]
    queries = enumerate(call["queries"])
    indices = {f"indices_{number}": frame_states(query["num_features"], query["fps"]) for number, query in queries}
    return {"chunks": frame_tokens(case.inputs["features"], call["fps"]), **indices}


def initial_noise(case: Case) -> Outputs:
    """Clamped noise from torch's CPU generator."""
    call, found = case.meta["call"], {}
    model = EchoMimic({})
    for name in call["dtypes"]:
        generator, dtype = torch.Generator().manual_seed(call["seed"]), getattr(torch, name)
        draw = partial(draw_noise, generator=generator, dtype=dtype)
        found[f"latents_{name}"] = model.initial_noise(draw, tuple(call["shape"]))
    return found


def face_crop(case: Case) -> Outputs:
    """Rectangles, and where the mask lies in the crop."""
    found: Outputs = {}
    for number, query in enumerate(case.meta["call"]["queries"]):
        box, (height, width) = query["bbox_xyxy"], query["image_hw"]
        crop = crop_of(box, height, width, query["facecrop_dilation_ratio"])
        x0, y0, x1, y1 = crop.taken
        mask = face_mask(box, height, width, query["facemusk_dilation_ratio"])[y0:y1, x0:x1]
        rows, columns = np.nonzero(mask)
        white = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if mask.any() else (0, 0, 0, 0)
        found |= {
            f"crop_rect_{number}": crop.widened,
            f"final_rect_xyxy_{number}": crop.taken,
            f"cropped_hw_{number}": mask.shape,
            f"mask_rect_in_crop_xyxy_{number}": white,
        }
    return found


HANDLERS: dict[str, Callable[[Case], Outputs]] = {
    "denoising_unet": denoising_unet,
    "reference_unet": reference_unet,
    "motion_module": motion_module,
    "spatial_transformer": spatial_transformer,
    "face_locator": face_locator,
    "denoise_step": denoise_step,
    "mini_rollout": mini_rollout,
    "scheduler": scheduler,
    "context_windows": context_windows,
    "whisper_features": whisper,
    "audio_chunks": audio_chunks,
    "initial_noise": initial_noise,
    "face_crop": face_crop,
}
