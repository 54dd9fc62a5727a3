"""Speech features: frame counts, windows, padding, and the golden case through the golden handler."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lcp_bench.data.audio_features import count_frames, normalised, pad_to_segments, wav2vec_features, window_frames
from lcp_bench.models.weights.seeded import apply_seeded_v1

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model


@pytest.fixture(scope="module")
def encoder() -> Wav2Vec2Model:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    convolutions: dict[str, Any] = {
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    }
    model = Wav2Vec2Model(Wav2Vec2Config(**sizes, **convolutions, vocab_size=12))
    model.train(False)
    apply_seeded_v1(model, 5)
    return model


@pytest.mark.parametrize("name", ["audio_features", "face_masks"])
def test_golden_case(shared_dir: Path, repository: Path, name: str) -> None:
    sys.path.insert(0, str(repository / "tests/golden"))
    import handlers_data

    folder = shared_dir / "goldens/hallo" / name
    case = SimpleNamespace(
        meta=json.loads((folder / "meta.json").read_text()),
        inputs=load_file(folder / "inputs.safetensors"),
        outputs=load_file(folder / "outputs.safetensors"),
        folder=folder,
    )
    found = getattr(handlers_data, name)(case)
    assert found.keys() == case.outputs.keys()
    for key, expected in case.outputs.items():
        got = torch.as_tensor(found[key])
        assert got.shape == expected.shape, key
        torch.testing.assert_close(got.double(), expected.double(), rtol=case.meta["rtol"], atol=case.meta["atol"])


def test_golden_window(shared_dir: Path) -> None:
    folder = shared_dir / "goldens/hallo/audio_proj"
    features = load_file(folder / "inputs.safetensors")["audio_emb"]
    assert torch.equal(window_frames(features)[None], load_file(folder / "outputs.safetensors")["windowed"])


def test_frames_are_counted_as_upstream_counts_them() -> None:
    assert [count_frames(n, 25) for n in (1, 640, 641, 9000)] == [1, 1, 2, 15]
    assert count_frames(7 * 640, 25) == 8  # 7.000000000000001 in floating point, upstream's own slip
    assert count_frames(200 * 640, 25) == 200
    assert [pad_to_segments(n, 16) for n in (1, 16, 17)] == [16, 16, 32]


def test_sound_is_normalised_over_the_clip() -> None:
    sound = normalised((3 + 0.1 * np.random.default_rng(0).standard_normal(5000)).astype(np.float32))
    assert sound.dtype == np.float32
    assert abs(sound.mean()) < 1e-4 and sound.std() == pytest.approx(1, abs=1e-3)


def test_three_frames_are_padded_to_a_segment(encoder: Wav2Vec2Model) -> None:
    sound = np.random.default_rng(1).standard_normal(3 * 640).astype(np.float32)
    features, frames = wav2vec_features(encoder, sound, 25, 16)
    assert features.shape == (16, 2, 16) and frames == 3
    assert torch.isfinite(features).all() and features[:, 0].std() > 0


def test_whole_segments_are_not_padded(encoder: Wav2Vec2Model) -> None:
    sound = np.random.default_rng(1).standard_normal(8 * 640).astype(np.float32)
    with_rest = np.concatenate([sound, np.zeros(640, np.float32)])
    features, frames = wav2vec_features(encoder, sound, 25, 4)
    assert features.shape[0] == frames == 8
    assert wav2vec_features(encoder, with_rest, 25, 4)[0].shape[0] == 12


def test_loudness_does_not_matter(encoder: Wav2Vec2Model) -> None:
    sound = np.random.default_rng(1).standard_normal(4000).astype(np.float32)
    quiet, loud = (wav2vec_features(encoder, sound * gain, 25, 4)[0] for gain in (0.1, 0.8))
    torch.testing.assert_close(quiet, loud, rtol=1e-3, atol=1e-3)


def test_window_is_clamped_at_both_ends() -> None:
    windows = window_frames(torch.arange(4.0)[:, None, None])[:, :, 0, 0]
    assert windows.tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]
    assert window_frames(torch.zeros(6, 3, 7), radius=1).shape == (6, 3, 3, 7)


def test_misuse_is_refused(encoder: Wav2Vec2Model) -> None:
    for bad in (np.zeros(0, np.float32), np.zeros((2, 800), np.float32)):
        with pytest.raises(ValueError, match="mono waveform"):
            wav2vec_features(encoder, bad, 25, 4)
    encoder.train()
    try:
        with pytest.raises(ValueError, match="eval mode"):
            wav2vec_features(encoder, np.ones(800, np.float32), 25, 4)
    finally:
        encoder.train(False)
