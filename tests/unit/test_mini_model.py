"""The mini model: structure, shipped weights, and that training sees what generation sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lcp_bench.errors import WeightsError
from lcp_bench.models.mini import COMPONENTS, SIZE, Mini, build_modules, share_noise
from lcp_bench.models.motion_codec import MotionCodec
from lcp_bench.models.shipped import load_shipped, read_shipped, shipped_hash, write_shipped
from lcp_bench.models.talking_head import ClipConstants
from lcp_bench.train.mini import denoiser_networks
from lcp_bench.train.mini_denoiser import Batch, DenoiserLoss, DenoiserOptions

FRAMES, MOTION = 3, 2


@pytest.fixture(scope="module")
def networks() -> nn.ModuleDict:
    """Untrained networks whose temporal modules do something."""
    made = denoiser_networks(3, temporal=True)
    for name, parameter in made.named_parameters():
        if "proj_out" in name or "conv_out" in name:
            nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


def fake_arrays(people: int = 3, frames: int = 24) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "pixels": generator.integers(0, 255, (people, frames, 64, 64, 3), dtype=np.uint8),
        "mel": generator.standard_normal((people, frames, 4, 26)).astype(np.float16),
        "masks": generator.random((people, 2, 3, 85)).astype(np.float16),
        "region": generator.integers(0, 255, (people, 2, 64, 64), dtype=np.uint8),
    }


def loss_of(networks: nn.ModuleDict, consecutive: bool = True, batch: int = 2, **options: float) -> DenoiserLoss:
    chosen = DenoiserOptions(frames=FRAMES, consecutive=consecutive, motion_frames=MOTION, **options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    codec = MotionCodec(SIZE.latent_channels, SIZE.appearance_channels, 16).eval().requires_grad_(False)
    return DenoiserLoss(dict(networks.items()), codec, fake_arrays(), np.array([0, 12]), batch, chosen)


def generated(networks: nn.ModuleDict, batch: Batch, sample: int, branches: int) -> Tensor:
    """The velocity for one sample by the way that generation takes, all branches."""
    model = Mini(dict(networks.items()), frames=FRAMES, motion_frames=MOTION)
    sizes = [64, 16, 4, 1]
    portrait = batch.reference[sample : sample + 1, 0]
    constants = ClipConstants(
        portrait=torch.zeros(3, 64, 64),
        image_tokens=None,
        audio_tokens=networks["audio_proj"](batch.mel[sample]),
        masks=[level[:, None, :, None] for level in batch.masks[sample].split(sizes, dim=1)],
        face_feature=networks["portrait_guide"](portrait, batch.region[sample : sample + 1]),
        branches=branches,
    )
    conditions = model.segment_conditions(constants, model.write_reference(constants, batch.reference[sample]), 0)
    time = model.unet.embed_time([float(batch.timesteps[sample])])
    outputs: Tensor = model.unet(batch.noise[sample][None, None], time, conditions)[:, 0]
    return outputs


@pytest.mark.parametrize("branches", [1, 2])
def test_training_sees_what_generation_sees(networks: nn.ModuleDict, branches: int) -> None:
    loss = loss_of(networks)
    batch = loss.draw(np.random.default_rng(1))
    with torch.inference_mode():
        trained = loss.predict(batch.noise, replace(batch, dropped=False))
        withheld = loss.predict(batch.noise, replace(batch, dropped=True))
        for sample in range(2):
            by_generation = generated(networks, batch, sample, branches)
            assert torch.allclose(by_generation[-1], trained[sample], atol=1e-4)
            if branches == 2:
                assert torch.allclose(by_generation[0], withheld[sample], atol=1e-4)
    assert not torch.allclose(trained, withheld, atol=1e-2)


def test_every_input_of_a_sample_changes_its_prediction_and_no_other(networks: nn.ModuleDict) -> None:
    loss = loss_of(networks)
    batch = replace(loss.draw(np.random.default_rng(1)), dropped=False)
    with torch.inference_mode():
        before = loss.predict(batch.noise, batch)
        for name in ("mel", "reference", "masks", "region", "timesteps"):
            changed = getattr(batch, name).clone()
            changed[0] = changed[0].flip(-1) if changed[0].ndim else changed[0] // 2
            after = loss.predict(batch.noise, replace(batch, **{name: changed}))
            assert not torch.allclose(after[0], before[0], atol=1e-4), name
            assert torch.allclose(after[1], before[1], atol=1e-5), name


def test_a_temporal_module_starts_as_the_identity() -> None:
    still, moving = denoiser_networks(3, temporal=False), denoiser_networks(3, temporal=True)
    nn.init.normal_(still["denoising_unet"].conv_out.weight)
    moving.load_state_dict(still.state_dict(), strict=False)
    batch = loss_of(moving).draw(np.random.default_rng(2))
    with torch.inference_mode():
        with_temporal = loss_of(moving).predict(batch.noise, batch)
        without = loss_of(still).predict(batch.noise, batch)
    assert torch.allclose(with_temporal, without, atol=1e-5)


def test_sequences_follow_the_portrait_or_the_takes_own_frames(networks: nn.ModuleDict) -> None:
    loss = loss_of(networks, batch=64)
    portraits = np.zeros(64, dtype=np.int64) + 12
    times, motion = loss._times(np.random.default_rng(0), portraits)
    first = motion[:, 0] == motion[:, 1]
    assert 16 < first.sum() < 48
    assert (times[first, 0] == 12).all() and (motion[first] == 12).all()
    assert (times[~first, :1] - motion[~first] == [2, 1]).all()
    assert (np.diff(times, axis=1) == 1).all() and times.max() < 24


def test_scattered_frames_have_no_motion_frames(networks: nn.ModuleDict) -> None:
    batch = loss_of(networks, consecutive=False).draw(np.random.default_rng(0))
    assert batch.reference.shape == (2, 1, SIZE.appearance_channels, 8, 8)


def test_the_loss_reaches_every_weight_that_is_trained() -> None:
    networks = denoiser_networks(3, temporal=True)
    for name, parameter in networks.named_parameters():
        if ("motion_modules" in name and "proj_out" in name) or "conv_out" in name:
            nn.init.normal_(parameter, std=0.1)
    loss = loss_of(networks, drop=0.0)
    loss(np.random.default_rng(0)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in networks.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_weights_are_written_and_read_back(tmp_path: Path) -> None:
    modules = build_modules(device="cpu")
    for component, module in modules.items():
        write_shipped(tmp_path, component, module.state_dict())
    again = build_modules()
    load_shipped(again, tmp_path, torch.device("cpu"), torch.float32)
    for component in COMPONENTS:
        read = again[component].state_dict()
        for key, tensor in modules[component].state_dict().items():
            assert torch.equal(read[key], tensor.half().float())


def test_small_files_round_each_row_by_its_own_step(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([1e-3, 1.0, 30.0, 0.0])
    tensors = {
        "weight": torch.randn(4, 6, 3, 3, generator=generator) * spread[:, None, None, None],
        "bias": torch.randn(4, generator=generator),
        "count": torch.tensor([[3, 4]]),
    }
    read = read_shipped(write_shipped(tmp_path, "x", tensors, small=True))
    assert set(read) == set(tensors) and torch.equal(read["count"], tensors["count"])
    assert torch.equal(read["bias"], tensors["bias"].half())
    largest = tensors["weight"].abs().flatten(1).amax(1)
    error = (read["weight"] - tensors["weight"]).abs().flatten(1).amax(1)
    assert (error <= 0.51 / 127 * largest + 1e-12).all()
    assert (error[:3] > 0.1 / 127 * largest[:3]).all(), "it is rounded"


def test_missing_damaged_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    modules = {"audio_proj": build_modules()["audio_proj"]}
    with pytest.raises(WeightsError, match="train it with python -m"):
        load_shipped(modules, tmp_path, torch.device("cpu"), torch.float32)
    path = write_shipped(tmp_path, "audio_proj", {"proj1.weight": torch.zeros(2, 2)})
    with pytest.raises(WeightsError, match="does not fit the audio_proj"):
        load_shipped(modules, tmp_path, torch.device("cpu"), torch.float32)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(WeightsError, match="does not fit the audio_proj"):
        load_shipped(modules, tmp_path, torch.device("cpu"), torch.float32)
    assert shipped_hash(tmp_path, "audio_proj")[1] != shipped_hash_of(b"")


def shipped_hash_of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_frames_of_a_segment_share_half_of_their_noise() -> None:
    drawn = torch.randn(4, 48, FRAMES + 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shared = share_noise(drawn)
    assert shared.shape == (4, 48, FRAMES, 8, 8)
    flat = shared.transpose(0, 2).flatten(1)
    correlation = torch.corrcoef(flat)
    assert flat.std(dim=1).allclose(torch.ones(FRAMES), atol=0.03)
    assert correlation[~torch.eye(FRAMES, dtype=torch.bool)].allclose(torch.tensor(0.5), atol=0.03)
