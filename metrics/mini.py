"""The `mini` metrics: the same questions as the published ones, asked by small networks that ship with the repository.

They know drawn people only (`lcp_bench/data/synthetic`). Their numbers order videos of such people: a worse video gets
a worse number. They say nothing about real faces, and are on no published scale. `metrics/shipped/MODEL_CARD.md` says
how the networks were made and how far they can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metrics import pixels
from metrics.cache import Arrays
from metrics.errors import MetricError, VideoGap
from metrics.fidelity import Fidelity
from metrics.frechet import Array
from metrics.metric import FrechetMetric, Metric
from metrics.mini_frames import as_images, read_small, small
from metrics.mini_protocol import (
    MiniEfidProtocol,
    MiniFidelityProtocol,
    MiniFidProtocol,
    MiniFvdMotionProtocol,
    MiniFvdProtocol,
)
from metrics.mini_sync import MiniSync
from metrics.nets.mini import (
    MOUTH_AND_EXPRESSION,
    ExpressionNet,
    MiniSyncNet,
    RandomFrames,
    RandomVideo,
    weights_sha256,
)
from metrics.score import Direction
from metrics.weights import Loaded, assign, read_state

SHIPPED = Path(__file__).resolve().parent / "shipped"
LABEL = "mini"
TRAINED: dict[str, Callable[[], nn.Module]] = {"expression": ExpressionNet, "sync": MiniSyncNet}
"""Networks with a file, `NAME.safetensors`."""
NEEDED: dict[str, tuple[str, ...]] = {
    "fvd": (),
    "fid": ("expression",),
    "efid": ("expression",),
    "sync": ("sync",),
    "fidelity": ("expression",),
}
"""Which of them each metric needs."""


def mini_metrics(names: Sequence[str], folder: Path | None = None) -> dict[str, Metric]:
    """The named metrics with their networks, on the CPU.

    Args:
        names: of fvd, fid, efid, sync, fidelity.
        folder: where `expression.safetensors` and `sync.safetensors` lie; None takes the repository's own.

    Returns:
        Name to metric, in the order of `names`. `fvd` becomes two, `fvd_motion` and `fvd_frames`: either sees what the
        other cannot, and there is no sensible sum. `fidelity` compares with the unaccelerated video.

    Raises:
        MetricError: unknown name, or a file is missing, damaged or of another network.
    """
    unknown = [name for name in names if name not in NEEDED]
    if unknown:
        raise MetricError(f"expected metrics of {', '.join(NEEDED)}, got {unknown[0]!r}")
    place = SHIPPED if folder is None else Path(folder)
    wanted = sorted({each for name in names for each in NEEDED[name]})
    missing = [path for name in wanted if not (path := place / f"{name}.safetensors").is_file()]
    if missing:
        raise MetricError(
            f"the mini metrics need {', '.join(map(str, missing))}, found none; restore the repository's "
            "metrics/shipped, or train them (minutes): python -m lcp_bench.train +metric=mini"
        )
    nets = {name: load_mini(name, place) for name in wanted}
    found: dict[str, Metric] = {}
    for name in names:
        found |= _make(name, nets)
    return found


def load_mini(name: str, folder: Path) -> Loaded[Any]:
    """One of `TRAINED` from its file; its identity is the file's SHA-256.

    Raises:
        MetricError: unreadable, or keys and shapes that do not fit.
    """
    path = folder / f"{name}.safetensors"
    state, sha256 = read_state(path)
    with torch.device("meta"):
        module = TRAINED[name]()
    assign(module, state, str(path))
    return Loaded.of(module, f"mini_{name}", f"sha256:{sha256}", LABEL)


def fixed(module: nn.Module, name: str) -> Loaded[Any]:
    """A network of fixed random filters; its identity is the SHA-256 of their values."""
    return Loaded.of(module, f"mini_{name}", f"sha256:{weights_sha256(module)}", LABEL)


def _make(name: str, nets: dict[str, Loaded[Any]]) -> dict[str, Metric]:
    if name == "fvd":
        return {
            "fvd_motion": MiniFvd(fixed(RandomVideo(motion=True), "random_motion"), MiniFvdMotionProtocol()),
            "fvd_frames": MiniFvd(fixed(RandomVideo(motion=False), "random_video"), MiniFvdProtocol()),
        }
    if name == "sync":
        return {name: MiniSync(nets["sync"])}
    regressor = nets["expression"]
    if name == "fidelity":
        return {name: MiniFidelity(regressor)}
    if name == "efid":
        return {name: MiniFrames(lambda images: regressor.module(images)[:, :MOUTH_AND_EXPRESSION],
                                 MiniEfidProtocol().with_backbones(regressor.identity))}  # fmt: skip
    texture = fixed(RandomFrames(), "random_frames")
    return {name: MiniFrames(lambda images: torch.cat([regressor.module.features(images), texture.module(images)], 1),
                             MiniFidProtocol().with_backbones(regressor.identity, texture.identity))}  # fmt: skip


class MiniFvd(FrechetMetric):
    """Distance of random features of non-overlapping windows; both sets give the same windows of the same clips.

    Args:
        net: maps (B, 3, 16, 64, 64) in [0, 1] to (B, D).
        protocol: windows.
        batch: windows per forward pass; does not change numbers.
    """

    def __init__(self, net: Loaded[RandomVideo], protocol: MiniFvdProtocol, batch: int = 8) -> None:
        self.net = net
        self.settings = protocol.with_backbones(net.identity)
        self.protocol = self.settings
        self.unbiased = self.settings.covariance == "n-1"
        self.batch = batch

    @torch.inference_mode()
    def extract(self, files: Sequence[Path]) -> Arrays:
        """`features`: float32 (windows, D), in order of time.

        Raises:
            VideoGap: undecodable, another frame rate, too small, or shorter than a window.
        """
        settings = self.settings
        frames = read_small(files[0], settings.fps)
        starts = range(0, len(frames) - settings.window + 1, settings.stride)
        if not starts:
            raise VideoGap(
                f"{files[0].name} has {len(frames)} frames, a window needs {settings.window}", reason="too short"
            )
        found = []
        for begin in range(0, len(starts), self.batch):
            windows = [as_images(frames[at : at + settings.window]) for at in starts[begin : begin + self.batch]]
            found.append(self.net.module(torch.stack(windows).transpose(1, 2)))
        return {"features": torch.cat(found).numpy()}

    def rows(self, generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
        """The windows that both videos have."""
        return _common(generated, reference)


class MiniFrames(FrechetMetric):
    """Distance of frame features; both sets give the same frame numbers of the same clips.

    Args:
        features: maps images (B, 3, 64, 64) in [0, 1] to (B, D).
        protocol: what they are, with the networks behind them.
        batch: frames per forward pass; does not change numbers.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], protocol: MiniFidProtocol, batch: int = 64) -> None:
        self.compute, self.settings, self.batch = features, protocol, batch
        self.protocol = protocol
        self.unbiased = protocol.covariance == "n-1"

    @torch.inference_mode()
    def extract(self, files: Sequence[Path]) -> Arrays:
        """`features`: float32 (frames, D), in order of time.

        Raises:
            VideoGap: undecodable, another frame rate, or too small.
        """
        images = as_images(read_small(files[0], self.settings.fps)[:: self.settings.stride])
        return {"features": torch.cat([self.compute(part) for part in images.split(self.batch)]).numpy()}

    def rows(self, generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
        """The frames that both videos have."""
        return _common(generated, reference)


class MiniFidelity(Fidelity):
    """Frame-by-frame PSNR and SSIM, and in place of LPIPS a distance in the regressor's features.

    Args:
        net: the expression regressor.
        protocol: what the other video is.
        batch: frames at a time; does not change numbers.
    """

    net: Any  # the base class holds LPIPS here

    def __init__(
        self, net: Loaded[ExpressionNet], protocol: MiniFidelityProtocol | None = None, batch: int = 64
    ) -> None:
        super().__init__(None, (protocol or MiniFidelityProtocol()).with_backbones(net.identity), batch)
        self.net = net
        suffix = next(iter(self.quantities)).removeprefix("psnr")
        kind: tuple[str, Direction] = ("1", "lower")
        self.quantities[f"feature_distance{suffix}"] = kind

    @torch.inference_mode()
    def _part(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Arrays:
        distance = feature_distance(self.net.module, as_images(small(first)), as_images(small(second)))
        return {
            "psnr": pixels.psnr(first, second),
            "ssim": pixels.ssim(first, second, border=self.settings.border),
            "feature_distance": distance.double().numpy(),
        }


def feature_distance(net: ExpressionNet, first: Tensor, second: Tensor) -> Tensor:
    """How differently the regressor's four layers see two images: LPIPS without learnt weights.

    Args:
        net: the regressor.
        first: float (B, 3, 64, 64) in [0, 1].
        second: the same.

    Returns:
        (B,): squared difference of the unit channel vectors, mean over positions and layers; 0 for equal images.
    """
    layers = []
    for one, other in zip(net.maps(first), net.maps(second), strict=True):
        gap = nn.functional.normalize(one, dim=1) - nn.functional.normalize(other, dim=1)
        layers.append(gap.square().sum(dim=1).mean(dim=(1, 2)))
    return torch.stack(layers).mean(dim=0)


def _common(generated: Arrays, reference: Arrays) -> tuple[Array, Array]:
    count = min(len(generated["features"]), len(reference["features"]))
    left, right = (np.asarray(side["features"][:count], dtype=np.float64) for side in (generated, reference))
    return left, right
