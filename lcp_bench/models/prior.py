"""What is known of a clip before it is drawn: that it looks like its portrait.

The clean latents of a frame differ from the portrait's by about as much as a small network says it sees in the
portrait: hardly behind the head, much at its edge. From noisy latents alone, the best linear guess of the clean ones is
then a mixture of both (a Wiener filter); a network only has to say what that guess misses, in units of its own
uncertainty (the preconditioning of Karras et al. 2022, arXiv 2206.00364, section 5, around the portrait instead of
around zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PortraitPrior:
    """Normal prior of clean latents.

    Attributes:
        mean: The portrait's latents (samples, C, 1, h, w).
        variance: (samples, C, 1, h, w), of a frame's difference from its portrait.
    """

    mean: Tensor
    variance: Tensor

    def clean(self, latents: Tensor, output: Tensor, signal: Tensor | float) -> Tensor:
        """Clean latents from the network's output.

        Args:
            latents: Noisy latents (samples, C, frames, h, w).
            output: The network's output, as `latents`; 0 returns the linear guess itself.
            signal: Share of the signal's variance in `latents` (alpha bar), a number or (samples,).
        """
        share = torch.as_tensor(signal, dtype=torch.float32, device=latents.device).reshape(-1, 1, 1, 1, 1)
        variance = self.variance
        root, total = share.sqrt(), share * variance + (1 - share)
        guess = self.mean + root * variance / total * (latents - root * self.mean)
        return guess + (variance * (1 - share) / total).sqrt() * output
