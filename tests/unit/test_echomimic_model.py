"""EchoMimic assembled at its tiny size: what its constants are, and a clip of one window from end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.data.inputs import ClipInputs
from lcp_bench.data.manifest import Clip
from lcp_bench.data.whisper_features import log_mel
from lcp_bench.errors import ConfigError
from lcp_bench.generate import generate_segments
from lcp_bench.models import echomimic
from lcp_bench.models.echomimic import EchoMimic
from lcp_bench.models.weights.seeded import apply_seeded_v1, draw_on_device
from lcp_bench.models.whisper import WhisperEncoder, position_table
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM

FRAMES, FPS = 12, 24.0


@pytest.fixture(scope="module")
def model() -> EchoMimic:
    modules = echomimic.build_modules("tiny", "cpu")
    for number, module in enumerate(modules.values()):
        tables = [key for key, _ in module.named_buffers() if key.endswith((".pe", "positional_embedding"))]
        apply_seeded_v1(module, number, computed_buffers=tables)
    return EchoMimic(modules)


@pytest.fixture(scope="module")
def inputs() -> ClipInputs:
    generator = torch.Generator().manual_seed(0)
    noise = np.random.default_rng(0).standard_normal(6700).astype(np.float32)
    region = torch.zeros(3, 64, 64)
    region[:, 16:48, 16:48] = 1.0
    return ClipInputs(
        clip=Clip.__new__(Clip),
        portrait=torch.rand((3, 64, 64), generator=generator) * 2 - 1,
        face_embedding=None,
        face_region=region,
        masks={name: tuple(torch.ones(1, side * side) for side in (8, 4, 2, 1)) for name in ("full", "face", "lip")},
        waveform=0.1 * noise,
        frame_count=FRAMES,
        foreground=region[0],
    )


@torch.inference_mode()
def test_constants_have_the_shapes_that_the_plan_assumes(model: EchoMimic, inputs: ClipInputs) -> None:
    constants, assumed = model.prepare(inputs, guided=True, fps=FPS), model.meta_constants(64, 2)
    assert constants.audio_tokens.shape == assumed.audio_tokens.shape == (FRAMES, 10 * 3, 32)
    assert model.cross_tokens(constants) == (30, 0)
    assert constants.face_feature.shape == assumed.face_feature.shape == (1, 32, 8, 8)
    assert constants.branches == assumed.branches == 2 and constants.image_tokens is None


@torch.inference_mode()
def test_the_unconditional_branch_sees_and_hears_nothing(model: EchoMimic, inputs: ClipInputs) -> None:
    """Another portrait, face and sound change the conditional prediction only."""
    first, time = model.prepare(inputs, guided=True, fps=FPS), model.unet.embed_time([500.0])
    latents = torch.randn(1, 1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(1))
    predictions = []
    for scale in (1.0, -2.0):
        bank = model.write_reference(first, scale * torch.ones(1, 4, 8, 8))
        tokens, feature = scale * first.audio_tokens, scale * first.face_feature
        predictions.append(model.unet(latents, time, model.conditions(bank, tokens, feature, branches=2)))
    assert torch.equal(predictions[0][0], predictions[1][0])
    assert (predictions[0][1] - predictions[1][1]).abs().max() > 0.1
    single = model.unet(latents, time, model.conditions(bank, tokens, feature, branches=1))
    torch.testing.assert_close(single[0], predictions[1][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("steps", "keys", "guidance"), [(30, 8, 2.5), (6, 4, 1.0)], ids=["normal", "accelerated"])
def test_a_clip_of_one_window(model: EchoMimic, inputs: ClipInputs, steps: int, keys: int, guidance: float) -> None:
    """Sound and portrait to frames, with LightningCP on a window that moves."""
    strategy = LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=keys)))
    plan = strategy.check(model.unet.topology, num_steps=steps, eta=0.0)
    with torch.inference_mode():
        constants = model.prepare(inputs, guided=guidance > 1, fps=FPS)
    loop = Sampler(model.denoiser, strategy, plan, DDIM(steps), guidance)
    generator = torch.Generator().manual_seed(420)
    (segment,) = generate_segments(model, loop, constants, lambda shape: torch.randn(shape, generator=generator))
    assert segment.frames.shape == (FRAMES, 3, 64, 64)
    assert segment.latents.isfinite().all() and segment.frames.std() > 0.01
    assert segment.engagement.per_layer()["computed"]["mid"] == keys


def test_a_long_video_is_one_segment_decoded_in_pieces(
    model: EchoMimic, inputs: ClipInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.1 s: upstream's 28 frames, closed to a loop of four windows, of which no more than 12 lie there decoded."""
    noise = np.random.default_rng(1).standard_normal(17600).astype(np.float32)
    strategy = LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=1)))
    loop = Sampler(model.denoiser, strategy, strategy.check(model.unet.topology, num_steps=2, eta=0.0), DDIM(2), 1.0)
    with torch.inference_mode():
        constants = model.prepare(replace(inputs, waveform=0.1 * noise), guided=False, fps=FPS)
    assert model.spans(constants) == [range(28)] and model.passes(constants) == 4
    pieces: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(420)
    (segment,) = generate_segments(
        model, loop, constants, lambda shape: torch.randn(shape, generator=generator), on_frames=pieces.append
    )
    assert [len(piece) for piece in pieces] == [12, 12, 4]
    assert segment.latents.shape[2] == 28 and len(segment.frames) == 0
    monkeypatch.setattr(model, "max_frames", 20)
    with torch.inference_mode():
        assert len(model.prepare(replace(inputs, waveform=0.1 * noise), guided=False, fps=FPS).audio_tokens) == 20


def test_seeded_weights_keep_the_positions_of_the_speech_encoder() -> None:
    with torch.device("meta"):
        encoder = WhisperEncoder(width=32, heads=4, blocks=1, context=20)
    draw_on_device(encoder, 0, "cpu", torch.float32)
    table = encoder.positional_embedding
    assert torch.equal(table, position_table(20, 32))
    assert table[:, 0].tolist() == pytest.approx(np.sin(np.arange(20)).tolist(), abs=1e-6)
    assert table[:, 16].tolist() == pytest.approx(np.cos(np.arange(20)).tolist(), abs=1e-6)


def test_noise_is_clamped(model: EchoMimic) -> None:
    noise = model.initial_noise(lambda shape: torch.linspace(-4, 4, shape[-1]).expand(shape), (1, 1, 1, 1, 9))
    assert noise.flatten().tolist() == [-1.5, -1.5, -1.5, -1.0, 0.0, 1.0, 1.5, 1.5, 1.5]


def test_unknown_sizes_and_useless_sound_are_refused() -> None:
    with pytest.raises(ConfigError, match="full, tiny"):
        echomimic.size_of("huge")
    for waveform in (np.zeros(200, np.float32), np.zeros((2, 400), np.float32)):
        with pytest.raises(ValueError, match="mono waveform of more than 200 samples"):
            log_mel(waveform)
