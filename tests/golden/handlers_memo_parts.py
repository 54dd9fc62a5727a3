"""MEMO's single modules and preparations in the golden cases, and how a component is built from a case's config."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from cases import Case
from handlers_hallo import build as build_shared
from lcp_bench.data import insight
from lcp_bench.data.audio_features import wav2vec_features, window_frames
from lcp_bench.data.inputs import portrait_tensor
from lcp_bench.models.attention import ReferenceContext, SpatialTransformer
from lcp_bench.models.conditions import Layout, reference_rows
from lcp_bench.models.config import JointAudioConfig, TemporalConfig
from lcp_bench.models.emotion import EMOTIONS, EmotionClassifier, emotion_labels
from lcp_bench.models.joint_audio import EmotionNorm, JointAudioTransformer
from lcp_bench.models.layers import ResnetBlock
from lcp_bench.models.memo_networks import unet_configs
from lcp_bench.models.memory import Memory, MemoryAttention, MemoryModule
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1

Outputs = dict[str, Any]


def build(component: str, config: dict[str, Any]) -> nn.Module:
    """A component from upstream's constructor arguments."""
    if component == "diffusion_net":
        return UNet(unet_configs(config)[0])
    if component == "reference_net":
        return UNet(unet_configs(config)[1])
    if component == "emotion_classifier":
        return EmotionClassifier(config["num_classifier_layers"], config["num_classifier_channels"])
    if component == "emo_ada_layer_norm":
        return EmotionNorm(config["embedding_dim"], config["num_classes"] + 1)
    if component == "audio_module":
        return JointAudioTransformer(
            config["in_channels"],
            config["num_attention_heads"] * config["attention_head_dim"],
            config["num_attention_heads"],
            config["norm_num_groups"],
            JointAudioConfig(token_dim=config["cross_attention_dim"]),
            final=config["is_final_block"],
        )
    if component == "spatial_module":
        return SpatialTransformer(
            config["in_channels"],
            config["num_attention_heads"],
            config["norm_num_groups"],
            config["cross_attention_dim"],
        )
    if component == "temporal_module":
        return MemoryModule(config["in_channels"], TemporalConfig(memory=True))
    if component == "memory_linear_attention":
        return MemoryAttention(config["query_dim"], config["heads"], config["temporal_position_encoding_max_len"])
    if component == "resnet3d":
        return ResnetBlock(
            config["in_channels"],
            config["out_channels"],
            config["temb_channels"],
            groups=config["groups"],
            eps=config["eps"],
        )
    return build_shared(component, config)


def seeded(case: Case, component: str | None = None) -> Any:
    """A component with the case's weights; buffers that upstream computes are left as this project computes them."""
    name = component or case.meta["component"]
    config = case.meta["config"] if component is None else case.meta["config"][component]
    seed = case.meta["weights"]["seed"]
    prefix = "" if component is None else f"{component}:"
    buffers = [key.removeprefix(prefix) for key in case.meta["computed_buffers"] if key.startswith(prefix)]
    module = build(name, config).eval().requires_grad_(False)
    apply_seeded_v1(module, seed if component is None else seed[component], computed_buffers=buffers)
    return module


def fold(maps: Tensor) -> Tensor:
    """(b, C, frames, h, w) to rows (b * frames, C, h, w)."""
    return maps.transpose(1, 2).flatten(0, 1)


def unfold(rows: Tensor, samples: int) -> Tensor:
    """The way back."""
    return rows.unflatten(0, (samples, -1)).transpose(1, 2)


def state_of(memory: Memory) -> Outputs:
    """Upstream's names and shapes of a memory, heads fastest on the first axis."""
    return {"KV": memory.values.flatten(0, 2), "Z": memory.weights.flatten(0, 2)}


def memory_linear_attention(case: Case) -> Outputs:
    """The attention alone over several calls."""
    attention, inputs, outputs = seeded(case), case.inputs, {}
    memory: Memory | None = None
    for number, call in enumerate(case.meta["call"]["calls"]):
        past = inputs[f"{number}.motion_frames"].unflatten(0, (-1, call["n_motion_frames"]))
        if call["is_new_audio"] or call["update_past_memory"]:
            memory = attention.remember(past).after(None if call["is_new_audio"] else memory)
        assert memory is not None
        frames = call["video_length"]
        tokens = inputs[f"{number}.hidden_states"].unflatten(0, (-1, frames)).transpose(1, 2)
        found = attention.recall(tokens.flatten(0, 1) + attention.pos_encoder.pe[:, :frames], memory)
        outputs[f"{number}.out"] = found.unflatten(0, tokens.shape[:2]).transpose(1, 2).flatten(0, 1)
        outputs |= {f"{number}.{kind}": value for kind, value in state_of(memory).items()}
    return outputs


def temporal_module(case: Case) -> Outputs:
    """The module over several calls."""
    module, inputs, outputs = seeded(case), case.inputs, {}
    last: tuple[Memory | None, ...] = (None, None)
    for number, call in enumerate(case.meta["call"]["calls"]):
        hidden, past = (inputs[f"{number}.{name}"] for name in ("hidden_states", "motion_frames"))
        if call["is_new_audio"] or call["update_past_memory"]:
            before = (None, None) if call["is_new_audio"] else last
            fresh = module.remember(past.flatten(3).permute(0, 2, 3, 1))
            last = tuple(memory.after(earlier) for memory, earlier in zip(fresh, before, strict=True))
        rows = module(fold(hidden), call["video_length"], last)
        outputs[f"{number}.out"] = unfold(rows, hidden.shape[0])
    return outputs


def audio_module(case: Case) -> Outputs:
    """Both streams, or the map alone in the last module."""
    module, inputs = seeded(case), case.inputs
    audio, hidden = inputs["audio_embedding"], inputs["hidden_states"]
    styles = module.block.styles(inputs["emotion"].repeat_interleave(audio.shape[1]))
    seen, heard = module(fold(hidden), audio.flatten(0, 1), styles)
    return {"hidden": unfold(seen, hidden.shape[0]), "audio": heard}


def spatial_module(case: Case) -> Outputs:
    """Reference attention under guidance."""
    module, inputs = seeded(case), case.inputs
    hidden = inputs["hidden_states"]
    branches, frames = hidden.shape[0], hidden.shape[2]
    rows = reference_rows(inputs["ref_img_feature"], branches, frames, "tiled")
    plain = Layout(branches, 1, frames).plain_rows
    image = module.block.attn2.project(inputs["encoder_hidden_states"].repeat_interleave(frames, 0))
    out = module(fold(hidden), ReferenceContext(module.block.attn1.project(rows), plain), image)
    return {"out": unfold(out, branches)}


def resnet3d(case: Case) -> Outputs:
    """Norms per frame or pooled over frames."""
    hidden, time = case.inputs["hidden_states"], case.inputs["temb"]
    frames = hidden.shape[2]
    pooled = 1 if case.meta["config"]["use_inflated_groupnorm"] else frames
    rows = seeded(case)(fold(hidden), torch.nn.functional.silu(time).repeat_interleave(frames, 0), pooled)
    return {"out": unfold(rows, hidden.shape[0])}


def emo_ada_layer_norm(case: Case) -> Outputs:
    """Each label for all rows of its half."""
    norm, x, labels = seeded(case), case.inputs["x"], case.inputs["emotion"]
    return {"out": norm(x, norm.style(labels.repeat_interleave(x.shape[0] // labels.shape[0])))}


def emotion_classifier(case: Case) -> Outputs:
    """Probabilities and the likeliest."""
    probabilities = seeded(case)(case.inputs["x"])
    return {"probs": probabilities, "label": probabilities.argmax(dim=-1)}


def labels_of_sound(case: Case) -> Outputs:
    """Second by second, with upstream's stand-in for the speech encoder."""
    call, inputs = case.meta["call"], case.inputs
    frame, projection = call["encoder_stub"]["frame"], inputs["encoder_stub_projection"]

    def encoder(sound: Tensor) -> Tensor:
        return ((sound[: sound.shape[0] // frame * frame].unflatten(0, (-1, frame)) @ projection) ** 2).tanh()

    classifier = build("emotion_classifier", case.meta["config"]).eval()
    apply_seeded_v1(classifier, case.meta["weights"]["seed"])
    labels = emotion_labels(inputs["waveform"][0], call["sample_rate"], call["audio_length"], encoder, classifier)
    return {"labels": labels, "num_classes": torch.tensor([EMOTIONS])}


def image_proj(case: Case) -> Outputs:
    """Identity tokens."""
    return {"tokens": seeded(case)(case.inputs["face_emb"])}


def audio_proj(case: Case) -> Outputs:
    """Audio tokens of windows."""
    return {"tokens": seeded(case)(case.inputs["audio_emb"])}


def audio_features(case: Case) -> Outputs:
    """Waveform to windows of stacked wav2vec layers with a tiny seeded encoder."""
    encoder = Wav2Vec2Model(Wav2Vec2Config(**case.meta["config"])).eval()
    apply_seeded_v1(encoder, case.meta["weights"]["seed"], tuple(case.meta["computed_buffers"]))
    call = case.meta["call"]
    features, _ = wav2vec_features(
        encoder, case.inputs["waveform"].numpy(), call["fps"], call["num_generated_frames_per_clip"]
    )
    return {"audio_emb": window_frames(features), "audio_length": torch.tensor([features.shape[0]])}


def image_preprocess(case: Case) -> Outputs:
    """The portrait as the model sees it, and the embedding of the largest of the faces found."""
    inputs = case.inputs
    points = np.zeros((5, 2))
    faces = [
        SimpleNamespace(bbox=box, kps=points, det_score=1.0, embedding=embedding)
        for box, embedding in zip(inputs["bboxes"].numpy(), inputs["embeddings"].numpy(), strict=True)
    ]
    with patch.object(insight, "_analysis", lambda _root: SimpleNamespace(get=lambda _image: faces)):
        found = insight.detect_faces_insightface(inputs["image"].numpy(), None)
    pixels = portrait_tensor(inputs["image"].numpy(), case.meta["call"]["image_size"])
    return {"pixel_values": pixels[None], "face_emb": torch.as_tensor(found[0].embedding)[None]}


HANDLERS: dict[str, Callable[[Case], Outputs]] = {
    handler.__name__: handler
    for handler in (
        memory_linear_attention,
        temporal_module,
        audio_module,
        spatial_module,
        resnet3d,
        emo_ada_layer_norm,
        emotion_classifier,
        image_proj,
        audio_proj,
        audio_features,
        image_preprocess,
    )
} | {"emotion_labels": labels_of_sound}
