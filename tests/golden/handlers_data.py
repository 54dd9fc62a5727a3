"""Golden cases of the data path: what our code gives for a case's inputs, under the golden's own output names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lcp_bench.data.audio_features import wav2vec_features
from lcp_bench.data.masks import attention_levels, face_region, rectangles_from_landmarks, separate_masks


def face_masks(case: Any) -> dict[str, NDArray[Any]]:
    """Landmarks to rectangles, 64 x 64 images, four-level masks and face region."""
    config = case.meta["config"]
    width, height = config["image_width"], config["image_height"]
    rectangles = rectangles_from_landmarks(
        case.inputs["landmarks"].numpy(), width, height, config["face_expand_ratio"], config["lip_expand_ratio"]
    )
    images, side = separate_masks(rectangles), config["img_size"][0]
    found: dict[str, NDArray[Any]] = {
        "face_rect": np.array([getattr(rectangles.face, key) for key in ("y0", "y1", "x0", "x1")]),
        "lip_rect": np.array([getattr(rectangles.lip, key) for key in ("y0", "y1", "x0", "x1")]),
        "face_region": face_region(rectangles, side)[:1],
        "face_blur": images.face_blur.astype(np.float32),
        "sep_lip": images.lip.astype(np.float32),
        "sep_background": images.background.astype(np.float32),
        "sep_face": images.face.astype(np.float32),
    }
    for name, image in (("full", images.background), ("face", images.face), ("lip", images.lip)):
        for level, mask in enumerate(attention_levels(image, side // 8)):
            found[f"{name}_mask.{level}"] = mask
    return found


def audio_features(case: Any) -> dict[str, torch.Tensor]:
    """Waveform to stacked wav2vec layers with a tiny seeded encoder."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from lcp_bench.models.weights.seeded import apply_seeded_v1

    config, call = case.meta["config"], case.meta["call"]
    encoder = Wav2Vec2Model(Wav2Vec2Config(**config)).train(False)
    apply_seeded_v1(encoder, case.meta["weights"]["seed"], tuple(case.meta["computed_buffers"]))
    features, frames = wav2vec_features(encoder, case.inputs["waveform"].numpy(), call["fps"], call["clip_length"])
    if frames != call["audio_length"]:
        raise AssertionError(f"expected {call['audio_length']} frames before padding, got {frames}")
    return {"audio_emb": features}
