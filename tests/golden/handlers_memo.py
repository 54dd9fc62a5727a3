"""How MEMO's networks and whole segments of its golden cases are computed with this project's modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cases import Case
from handlers_hallo import site_name
from handlers_memo_parts import HANDLERS as PARTS
from handlers_memo_parts import Outputs, fold, seeded, state_of, unfold
from lcp_bench.accel.scope import shell_scope
from lcp_bench.accel.strategy import NoAcceleration
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.emotion import segment_emotion
from lcp_bench.models.features import FeatureCache
from lcp_bench.models.memo import (
    LATENT_SCALE,
    branch_audio,
    branch_emotions,
    segment_conditions,
    write_reference,
)
from lcp_bench.models.talking_head import Past
from lcp_bench.models.unet import UNet
from lcp_bench.models.walk import stream_of
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import FlowMatching


def read_bank(inputs: dict[str, Tensor], prefix: str = "ref") -> dict[str, Tensor]:
    """Reference features by layer; maps become tokens, `mid.0` is `mid`."""
    bank = {}
    for key, value in inputs.items():
        if key.startswith(f"{prefix}."):
            name = key.removeprefix(f"{prefix}.")
            bank["mid" if name == "mid.0" else name] = value if value.ndim == 3 else value.flatten(2).transpose(1, 2)
    return bank


def memories(conditions: Conditions, wanted: Any, prefix: str = "memory.") -> Outputs:
    """The memories that a case asks for, by upstream's names and in its shapes."""
    found = {}
    for key in wanted:
        if key.startswith(prefix):
            path = key.removeprefix(prefix)
            *_, number, kind = path.split(".")
            found[key] = state_of(conditions.sites[site_name(path)].memory[int(number)])[kind]
    return found


def past_of(last: Conditions | None) -> Past:
    """What a segment leaves to the next one."""
    return {} if last is None else {name: site.memory for name, site in last.sites.items()}


class Remembering:
    """Calls of one network in a row, with upstream's flags: its memory lives in the network and persists."""

    def __init__(self, unet: UNet) -> None:
        self.unet = unet
        self.last: Conditions | None = None

    def conditions(self, call: dict[str, Any], bank: dict[str, Tensor], *inputs: Tensor) -> Conditions:
        """Conditions of a call: built from nothing, built on the last call's memory, or with that memory as it is."""
        last = None if call["is_new_audio"] else self.last
        updates = call["is_new_audio"] or call["update_past_memory"]
        found = segment_conditions(self.unet, bank, *inputs, past=past_of(last) if updates else None)
        if not updates:
            assert last is not None
            kept = {name: replace(site, memory=last.sites[name].memory) for name, site in found.sites.items()}
            found = replace(found, sites=kept)
        self.last = found
        return found


def diffusion_net(case: Case) -> Outputs:
    """The denoising UNet alone, in one or several calls; and again as LightningCP's follower on its own features."""
    unet, inputs = seeded(case), case.inputs
    net, outputs = Remembering(unet), {}
    last = unet.topology.names[-2]
    for call in case.meta["call"]["calls"]:
        given = {
            name: inputs[call.get("prefix", "") + name]
            for name in ("encoder_hidden_states", "audio_embedding", "audio_emotion")
        }
        conditions = net.conditions(call, read_bank(inputs, call.get("ref_prefix", "ref")), *given.values())
        sample = inputs[call.get("prefix", "") + "sample"][:, None]
        time = unet.embed_time([float(inputs[call.get("prefix", "") + "timestep"])])
        with FeatureCache() as cache:
            prediction = unet(sample, time, conditions, cache=cache, record=[f"{last}:in"])
            follower = unet(sample, time, conditions, cache=cache, scope=shell_scope(unet.topology, last))
        torch.testing.assert_close(follower, prediction, rtol=1e-5, atol=1e-5)
        name = call.get("out_prefix", "")
        outputs[f"{name}sample"] = prediction[:, 0]
        outputs |= memories(conditions, case.outputs, f"{name}memory.")
    return outputs


def reference_net(case: Case) -> Outputs:
    """Features of every layer, in upstream's shapes."""
    inputs = case.inputs
    bank, _ = seeded(case).write_features(inputs["sample"], inputs["encoder_hidden_states"])
    return as_written(bank, case.outputs)


def as_written(bank: dict[str, Tensor], expected: dict[str, Tensor]) -> Outputs:
    """Features in upstream's shapes and by its names, those that are expected."""
    found = {}
    for key, value in expected.items():
        if key.startswith("ref."):
            features = bank[key.removeprefix("ref.").replace("mid.0", "mid")]
            found[key] = features if value.ndim == 3 else features.transpose(1, 2).reshape(value.shape)
    return found


class Bench:
    """The networks of a case of several components, and its steps around them."""

    def __init__(self, case: Case) -> None:
        parts = {name: seeded(case, name) for name in case.meta["config"]}
        self.unet, self.reference = parts["diffusion_net"], parts["reference_net"]
        self.image_proj, self.audio_proj, self.vae = parts["image_proj"], parts["audio_proj"], parts.get("vae")
        face = case.inputs["face_emb"]
        self.image = self.image_proj(torch.cat([torch.zeros_like(face), face]))

    def conditions(
        self, latents: Tensor, windows: Tensor, emotions: Tensor, previous: Conditions | None = None
    ) -> tuple[Conditions, dict[str, Tensor], Tensor]:
        """Conditions of a segment, the reference features and the audio tokens."""
        bank = write_reference(self.reference, latents, self.image)
        tokens = self.audio_proj(windows)
        labels = branch_emotions(segment_emotion(emotions), 2)
        found = segment_conditions(self.unet, bank, self.image, branch_audio(tokens, 2), labels, past_of(previous))
        return found, bank, tokens


def denoise_step(case: Case) -> Outputs:
    """Reference features to a guided step."""
    bench, inputs, call = Bench(case), case.inputs, case.meta["call"]
    conditions, bank, tokens = bench.conditions(inputs["ref_latents"], inputs["audio_emb"][0], inputs["audio_emotion"])
    scheduler = FlowMatching(call["num_inference_steps"])
    time = bench.unet.embed_time(scheduler.timesteps)[call["step"]][None]
    prediction = bench.unet(inputs["latents"][:, None], time, conditions)[:, 0]
    guided = prediction[:1] + call["guidance_scale"] * (prediction[1:] - prediction[:1])
    return {
        "noise_pred": prediction,
        "noise_pred_guided": guided,
        "latents_next": scheduler.apply(inputs["latents"], guided, call["step"]),
        "image_tokens": bench.image[1:],
        "image_tokens_uncond": bench.image[:1],
        "audio_tokens": tokens[None],
        **memories(conditions, case.outputs),
        **as_written(bank, case.outputs),
    }


def shallow_step(case: Case) -> Outputs:
    """A key step, its follower on the recorded map and audio stream, and the follower in full."""
    bench, inputs = Bench(case), case.inputs
    conditions, *_ = bench.conditions(inputs["ref_latents"], inputs["audio_emb"][0], inputs["audio_emotion"])
    unet, last = bench.unet, bench.unet.topology.names[-2]
    times = {name: unet.embed_time([float(inputs[f"timestep_{name}"])]) for name in "ab"}
    with FeatureCache() as cache:
        full = unet(inputs["latents_a"][:, None], times["a"], conditions, cache=cache, record=[f"{last}:in"])
        scope = shell_scope(unet.topology, last)
        shallow = unet(inputs["latents_b"][:, None], times["b"], conditions, cache=cache, scope=scope)
        probes = load_file(case.folder / "probes.safetensors")
        kept = (unfold(cache.read(f"{last}:in"), 2), cache.read(stream_of(f"{last}:in")))
        for probe, feature in zip(("cached_hidden", "cached_audio"), kept, strict=True):
            error = (feature - probes[probe]).abs().max() / probes[probe].abs().max()
            assert error < 1e-4, f"{probe}: {error}"
    again = unet(inputs["latents_b"][:, None], times["b"], conditions)
    return {"full_a": full[:, 0], "shallow_b": shallow[:, 0], "full_b": again[:, 0]}


class _Watched(FlowMatching):
    """Keeps the predictions that it is given."""

    def __init__(self, num_steps: int) -> None:
        super().__init__(num_steps)
        self.seen: list[Tensor] = []

    def apply(self, latents: Tensor, prediction: Tensor, step: int) -> Tensor:
        self.seen.append(prediction)
        return super().apply(latents, prediction, step)


def sampler_of(bench: Bench, case: Case) -> tuple[Sampler, _Watched]:
    """The real sampler without acceleration."""
    call, strategy = case.meta["call"], NoAcceleration()
    scheduler = _Watched(call["num_inference_steps"])
    plan = strategy.plan(call["num_inference_steps"])
    return Sampler(bench.unet, strategy, plan, scheduler, call["guidance_scale"]), scheduler


def mini_rollout(case: Case) -> Outputs:
    """Two segments of latents, the second on the memory of the first."""
    bench, inputs, call = Bench(case), case.inputs, case.meta["call"]
    portrait = inputs["ref_latent"]
    past, previous, outputs = portrait.expand(call["num_init_past_frames"], -1, -1, -1), None, {}
    for number in range(call["num_clips"]):
        name = f"clip{number}"
        conditions, *_ = bench.conditions(
            torch.cat([portrait, past]),
            inputs[f"{name}.audio_emb"][0],
            inputs[f"{name}.audio_emotion"],
            previous,
        )
        (sampler, scheduler), steps = sampler_of(bench, case), []
        keep = steps.append
        result = sampler.denoise(
            inputs[f"{name}.latents_init"], conditions, lambda _step, latents, keep=keep: keep(latents)
        )
        outputs[f"{name}.latents_final"] = result.latents
        outputs[f"{name}.latents_per_step"] = torch.stack(steps)
        outputs[f"{name}.noise_pred_guided_per_step"] = torch.stack(scheduler.seen)
        past, previous = fold(result.latents)[-call["num_past_frames"] :], conditions
    assert previous is not None
    return outputs | memories(previous, case.outputs)


def mini_pipeline(case: Case) -> Outputs:
    """Two segments of pixels: decoded frames go back through the autoencoder."""
    bench, inputs, call = Bench(case), case.inputs, case.meta["call"]

    def encode(pixels: Tensor) -> Tensor:
        return torch.cat([bench.vae.encode(row[None]).latent_dist.mean for row in pixels]) * LATENT_SCALE

    portrait = encode(inputs["pixel_values"])
    past, previous, outputs = portrait.expand(call["num_init_past_frames"], -1, -1, -1), None, {}
    length = call["num_generated_frames_per_clip"]
    for number in range(call["num_clips"]):
        part = slice(number * length, (number + 1) * length)
        conditions, *_ = bench.conditions(
            torch.cat([portrait, past]), inputs["audio_emb"][part], inputs["audio_emotion"][part], previous
        )
        sampler, _ = sampler_of(bench, case)
        latents = sampler.denoise(inputs[f"clip{number}.latents_init"], conditions).latents
        frames = torch.cat([bench.vae.decode(row[None] / LATENT_SCALE).sample for row in fold(latents)])
        frames = (frames / 2 + 0.5).clamp(0, 1)
        outputs[f"clip{number}.latents_final"] = latents
        outputs[f"clip{number}.video"] = frames.transpose(0, 1)[None]
        past, previous = encode(frames[-call["num_past_frames"] :] * 2 - 1), conditions
    return outputs


def scheduler(case: Case) -> Outputs:
    """The scheduler alone, driven by the case's artificial prediction."""
    call, latents = case.meta["call"], case.inputs["sample"]
    flow = FlowMatching(call["num_inference_steps"], **case.meta["config"])
    trajectory = []
    for step, timestep in enumerate(flow.timesteps):
        prediction = call["model_output"]["a"] * latents + call["model_output"]["b"] * (timestep / 1000)
        latents = flow.apply(latents, prediction, step)
        trajectory.append(latents)
    return {
        "timesteps": torch.tensor(flow.timesteps),
        "sigmas": flow.sigmas,
        "trajectory": torch.stack(trajectory),
    }


HANDLERS: dict[str, Callable[[Case], Outputs]] = {
    handler.__name__: handler
    for handler in (diffusion_net, reference_net, denoise_step, shallow_step, mini_rollout, mini_pipeline, scheduler)
} | PARTS
