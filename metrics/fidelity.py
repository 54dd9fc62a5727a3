"""How far a video is from another one frame by frame: PSNR, SSIM and LPIPS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrics import pixels
from metrics.cache import Arrays
from metrics.errors import MetricError, VideoGap
from metrics.frames import read_frames
from metrics.metric import ClipMetric
from metrics.nets.lpips import Lpips
from metrics.protocol import FidelityProtocol
from metrics.score import Direction
from metrics.weights import Loaded


class Fidelity(ClipMetric):
    """Frame-by-frame distance of aligned videos; the files of a clip are (video, the video it is compared with).

    Against the model's own unaccelerated output it measures what acceleration changed. Without a network LPIPS is left
    out, and the protocol says so.

    Args:
        net: LPIPS, or None.
        protocol: what the other video is.
        batch: frames at a time; does not change numbers.
    """

    def __init__(
        self, net: Loaded[Lpips] | None = None, protocol: FidelityProtocol | None = None, batch: int = 8
    ) -> None:
        self.net = net
        settings = protocol or FidelityProtocol()
        self.settings = settings if net is None else settings.with_backbones(net.identity)
        self.protocol = self.settings
        self.batch = batch
        suffix = f"_vs_{self.settings.against.replace(' ', '_')}"
        kinds: dict[str, tuple[str, Direction]] = {"psnr": ("dB", "higher"), "ssim": ("1", "higher")}
        if net is not None:
            kinds["lpips"] = ("1", "lower")
        self.quantities = {name + suffix: kind for name, kind in kinds.items()}

    def extract(self, files: Sequence[Path]) -> Arrays:
        """`psnr` (dB), `ssim` and, with a network, `lpips`: float64 (frames,).

        Raises:
            VideoGap: undecodable, another frame rate, videos that differ in frames or size, or smaller than SSIM's
                window.
            MetricError: not two files.
        """
        if len(files) != 2:
            raise MetricError(f"fidelity compares two videos per clip, got {len(files)} files")
        first, second = (read_frames(path, self.settings.fps) for path in files)
        if len(first) != len(second):
            raise VideoGap(
                f"{files[0].name} has {len(first)} frames, {files[1]} has {len(second)}; one frame of shift makes "
                "every number meaningless",
                reason="frames differ",
            )
        if first.shape != second.shape:
            raise VideoGap(
                f"{files[0].name} is {first.shape[2]} x {first.shape[1]}, {files[1]} is {second.shape[2]} x "
                f"{second.shape[1]} pixels",
                reason="sizes differ",
            )
        if min(first.shape[1:3]) < len(pixels.WINDOW):
            raise VideoGap(
                f"{files[0].name} is {first.shape[2]} x {first.shape[1]} pixels, SSIM's window needs "
                f"{len(pixels.WINDOW)} x {len(pixels.WINDOW)}",
                reason="too small",
            )
        parts = [self._part(first[i : i + self.batch], second[i : i + self.batch]) for i in _starts(first, self.batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @torch.inference_mode()
    def _part(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Arrays:
        found: Arrays = {
            "psnr": pixels.psnr(first, second),
            "ssim": pixels.ssim(first, second, border=self.settings.border),
        }
        if self.net is not None:
            device = next(self.net.module.parameters()).device
            distance = self.net.module(_lpips_input(first).to(device), _lpips_input(second).to(device))
            found["lpips"] = distance.double().cpu().numpy()
        return found

    def values(self, features: Arrays) -> dict[str, float]:
        """Means over the frames of one clip."""
        return {name: float(features[name.partition("_vs_")[0]].mean()) for name in self.quantities}


def _starts(frames: NDArray[np.uint8], batch: int) -> range:
    return range(0, len(frames), batch)


def _lpips_input(frames: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
