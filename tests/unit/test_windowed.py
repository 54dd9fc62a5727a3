"""A network in moving windows: what it averages, what it keeps per frame, and what followers read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcp_bench.accel.gate import Fork
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import ScheduleConfig
from lcp_bench.accel.scope import delta_scope, shell_scope
from lcp_bench.errors import ConfigError, EngagementError
from lcp_bench.models.conditions import Conditions
from lcp_bench.models.config import TemporalConfig, UNetConfig
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.unet import UNet
from lcp_bench.models.weights.seeded import apply_seeded_v1
from lcp_bench.models.windowed import FrameMean, TokenSites, WindowedUNet, _FramesView, window_conditions
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM
from lcp_bench.windows import WindowSchedule

FRAMES, SIDE, TOKENS, DIM = 7, 8, 3, 16
CONFIG = UNetConfig(
    channels=(32, 64),
    attention_levels=(True, False),
    heads=2,
    norm_groups=8,
    image_token_dim=DIM,
    image_scale=3.0,
    temporal=TemporalConfig(heads=2),
)
LAST = "up.1.2"


@pytest.fixture(scope="module")
def unet() -> UNet:
    net = UNet(CONFIG).eval().requires_grad_(False)
    apply_seeded_v1(net, 3, computed_buffers=[name for name, _ in net.named_buffers() if name.endswith(".pe")])
    return net


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def video(unet: UNet) -> Conditions:
    """Conditions of seven frames with guidance, different for every frame."""
    bank: dict[str, Tensor] = {}
    for number, name in enumerate(unet.attention_sites()):
        level = unet.topology[name].level
        side = SIDE // 2**level
        bank[name] = draw(10 + number, 1, side * side, CONFIG.channels[level]).expand(2, -1, -1)
    tokens = draw(1, 2, FRAMES, TOKENS, DIM)
    references = unet.site_conditions(bank, None, None, branches=2, frames=FRAMES, row_rule="branch")
    return Conditions(2, FRAMES, TokenSites(unet, references, tokens), pixel_feature=draw(2, 2, 1, 32, SIDE, SIDE))


LATENTS = draw(5, 1, 1, 4, FRAMES, SIDE, SIDE)


@torch.inference_mode()
def test_one_still_window_is_the_network_itself(unet: UNet, video: Conditions) -> None:
    windowed = WindowedUNet(unet, WindowSchedule(size=8, shift=0))
    time = unet.embed_time([700.0])
    assert torch.equal(windowed(LATENTS, time, video, steps=(3,)), unet(LATENTS, time, video, steps=(3,)))


@torch.inference_mode()
def test_windows_are_averaged_where_they_overlap(unet: UNet, video: Conditions) -> None:
    schedule, time = WindowSchedule(size=4, overlap=1), unet.embed_time([700.0])
    got = WindowedUNet(unet, schedule)(LATENTS, time, video, steps=(2,))
    heard: list[list[Tensor]] = [[] for _ in range(FRAMES)]
    for window in schedule.at(2, FRAMES):
        index = torch.tensor(window)
        part = unet(LATENTS[:, :, :, index], time, window_conditions(video, index))
        for place, frame in enumerate(window):
            heard[frame].append(part[:, :, :, place])
    assert max(len(each) for each in heard) > 1
    wanted = torch.stack([torch.stack(each).mean(0) for each in heard], dim=3)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_followers_gather_features_of_their_own_frames(unet: UNet, video: Conditions) -> None:
    """The key step sees frames 0..6 in order, the follower 2..6, 0, 1: its rows must be those frames' rows."""
    windowed, key_time, time = (
        WindowedUNet(unet, WindowSchedule(size=FRAMES, overlap=0)),
        unet.embed_time([700.0]),
        unet.embed_time([600.0]),
    )
    shell = shell_scope(unet.topology, LAST)
    moved = torch.tensor(windowed.schedule.at(1, FRAMES)[0])
    assert moved.tolist() == [2, 3, 4, 5, 6, 0, 1]
    with FeatureCache() as cache, FeatureCache() as turned:
        windowed(LATENTS, key_time, video, steps=(0,), cache=cache, record=[f"{LAST}:in"])
        got = windowed(LATENTS, time, video, steps=(1,), cache=cache, scope=shell)
        rows = cache.read(f"{LAST}:in").unflatten(0, (2, FRAMES))
        turned.replace({f"{LAST}:in": rows[:, moved].flatten(0, 1)})
        own = window_conditions(video, moved)
        wanted = unet(LATENTS[:, :, :, moved], time, own, steps=(1,), cache=turned, scope=shell)
    torch.testing.assert_close(got[:, :, :, moved], wanted, rtol=0, atol=0)


def sampler(unet: UNet | WindowedUNet, *, parallel: bool) -> Sampler:
    strategy = LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=3), parallel=parallel, site=LAST))
    plan = strategy.check(CONFIG.topology, num_steps=6, eta=0.0)
    return Sampler(unet, strategy, plan, DDIM(6), 2.5)


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_a_strategy_on_one_still_window_is_as_without_windows(unet: UNet, video: Conditions, parallel: bool) -> None:
    windowed = WindowedUNet(unet, WindowSchedule(size=FRAMES, overlap=0, shift=0))
    plain, got = (sampler(each, parallel=parallel).denoise(LATENTS[0], video) for each in (unet, windowed))
    torch.testing.assert_close(got.latents, plain.latents, rtol=1e-5, atol=1e-5)
    assert got.cache_bytes == plain.cache_bytes
    assert got.engagement.per_layer() == plain.engagement.per_layer()


def test_a_strategy_on_moving_windows_is_counted_per_step(unet: UNet, video: Conditions) -> None:
    """The sampler's own check of the counters runs inside; a window more or less would fail it."""
    result = sampler(WindowedUNet(unet, WindowSchedule(size=4, overlap=1)), parallel=True).denoise(LATENTS[0], video)
    assert result.latents.isfinite().all()
    assert result.engagement.per_layer()["computed"]["mid"] == 3
    assert result.cache_bytes == 2 * FRAMES * 32 * SIDE * SIDE * 4


@pytest.mark.parametrize("reuse", [False, True])
@torch.inference_mode()
def test_the_first_window_decides_for_the_step(unet: UNet, video: Conditions, reuse: bool) -> None:
    """Asked once, on the first window's own frames; the other windows do what it did."""
    windowed, scope = (
        WindowedUNet(unet, WindowSchedule(size=4, overlap=1)),
        delta_scope(unet.topology, "down.0.1", "up.1.1"),
    )
    probe, asked = "down.0.0..down.0.0:delta", []
    record = [*scope.reads(unet.topology), probe]

    def decide(now: Tensor, then: Tensor) -> bool:
        asked.append((now, then))
        return reuse

    with FeatureCache() as cache:
        windowed(LATENTS, unet.embed_time([700.0]), video, steps=(0,), cache=cache, record=record)
        first = windowed.windows(1, FRAMES)[0][1]
        kept = cache.read(probe).unflatten(0, (2, FRAMES))[:, first].flatten(0, 1)
        counters, fork = Engagement(), Fork(probe, scope, decide)
        got = windowed(
            LATENTS, unet.embed_time([600.0]), video,
            steps=(1,), cache=cache, record=record, engagement=counters, fork=fork,
        )  # fmt: skip
    ((now, then),) = asked
    assert now.shape == then.shape == (2 * 4, 32, SIDE, SIDE) and torch.equal(then, kept)
    assert fork.reused is reuse
    assert counters.computed[1, "mid"] == (0 if reuse else 1) and counters.computed[1, "down.0.0"] == 1
    assert got.isfinite().all()


def test_a_window_indexed_cache_would_drift(unet: UNet, video: Conditions) -> None:
    """The feature of frame f at step s is that of frame f, however far the windows moved; by place it would not be."""
    windowed = WindowedUNet(unet, WindowSchedule(size=4, overlap=1))
    numbers = torch.arange(FRAMES).float().repeat(2)
    with FeatureCache() as cache:
        view = _FramesView(cache, 2, FRAMES)
        for window, index in windowed.windows(0, FRAMES):
            view.look(window, index)
            view.replace({"frame": numbers.view(2, FRAMES)[:, index].flatten()[:, None]})
        view.commit(0)
        moved = 0
        for step in range(1, 4):
            before = [window for window, _ in windowed.windows(0, FRAMES)]
            for place, (window, index) in enumerate(windowed.windows(step, FRAMES)):
                view.look(window, index)
                assert view.read("frame").view(2, 4)[1].tolist() == list(window)
                moved += window != before[place]
    assert moved == 3 * len(before)


@torch.inference_mode()
def test_means_are_made_as_windows_come() -> None:
    """Three windows over a frame weigh alike; half precision is kept, the arithmetic is float32."""
    mean = FrameMean(2, dim=1)
    for value in (1.0, 2.0, 6.0):
        mean.add(torch.full((1, 1), value, dtype=torch.float16), (0,), torch.tensor([0]))
    with pytest.raises(EngagementError, match="covered 1 of 2 frames"):
        mean.total  # noqa: B018
    mean.add(torch.full((1, 1), 5.0, dtype=torch.float16), (1,), torch.tensor([1]))
    assert mean.total.dtype is torch.float16 and mean.total.tolist() == [[3.0, 5.0]]


def test_what_windows_cannot_do_is_refused(unet: UNet) -> None:
    bank = {name: draw(4, 2, SIDE * SIDE >> 2 * unet.topology[name].level, 32) for name in ("up.1.2",)}
    tokens = draw(1, 2, 6, TOKENS, DIM)
    sites = unet.site_conditions(bank, tokens, None, branches=2, frames=6, row_rule="tiled")
    with pytest.raises(ConfigError, match=r"up\.1\.2 has 2 rows.*row_rule='branch'"):
        TokenSites(unet, sites, tokens)
    with pytest.raises(ConfigError, match="windows need TokenSites, got dict"):
        window_conditions(Conditions(2, 6, sites), torch.arange(4))
