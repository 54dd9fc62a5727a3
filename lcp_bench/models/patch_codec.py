"""The autoencoder of the mini model: a linear code of picture patches, and a decoder that repairs their seams.

The encoder is the principal components of 8 x 8 patches: known in closed form, it needs no training, and encoding costs
next to nothing. The decoder is its transpose followed by a small convolutional network that sees neighbouring
patches. At this size that beats a learned encoder that is trained for an hour on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SOFTENING = 0.7
"""Latents are components divided by this power of their spread: 1 would give the faintest detail the same weight as the
mean colour, 0 would leave detail without any weight."""


class _Repair(nn.Module):
    """A residual pair of convolutions. No norm: it would take the colour out of the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels, h, w) to the same shape."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class PatchCodec(nn.Module):
    """Pictures to latents and back.

    Args:
        latent_channels: Components kept per patch.
        stride: Side of a patch, px.
        width: Channels of the repairing network.
        depth: Its residual blocks.
    """

    mean: Tensor
    analysis: Tensor
    synthesis: Tensor

    def __init__(self, latent_channels: int = 32, stride: int = 8, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("mean", torch.zeros(3 * stride * stride))
        self.register_buffer("analysis", torch.zeros(latent_channels, 3 * stride * stride))
        self.register_buffer("synthesis", torch.zeros(3 * stride * stride, latent_channels))
        self.conv_in = nn.Conv2d(12, width, 3, padding=1)
        self.context = nn.Conv2d(latent_channels, width, 1)
        self.blocks = nn.ModuleList(_Repair(width) for _ in range(depth))
        self.conv_out = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # before training the decoder is the plain transpose
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)

    def encode(self, pixels: Tensor) -> Tensor:
        """(rows, 3, H, W) in [-1, 1] to latents (rows, latent_channels, H / stride, W / stride)."""
        patches = F.pixel_unshuffle(pixels, self.stride)
        return torch.einsum("cp,nphw->nchw", self.analysis, patches - self.mean[:, None, None])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels (rows, 3, H, W), about [-1, 1]."""
        patches = torch.einsum("pc,nchw->nphw", self.synthesis, latents) + self.mean[:, None, None]
        rough = F.pixel_unshuffle(F.pixel_shuffle(patches, self.stride), 2)
        hidden = self.conv_in(rough) + F.interpolate(self.context(latents), size=rough.shape[2:], mode="nearest")
        for block in self.blocks:
            hidden = block(hidden)
        return F.pixel_shuffle(rough + self.conv_out(hidden), 2)

    @property
    def pixel_gain(self) -> Tensor:
        """(latent_channels,): how far the picture moves when a channel moves by 1."""
        return self.synthesis.norm(dim=0)

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Set the linear code from examples; latents then have mean 0 and variance 1 on average over channels.

        Args:
            pixels: (rows, 3, H, W) in [-1, 1].
        """
        patches = F.pixel_unshuffle(pixels, self.stride).transpose(0, 1).flatten(1).double()
        mean = patches.mean(1)
        values, vectors = torch.linalg.eigh(torch.cov(patches))
        kept = self.analysis.shape[0]
        values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
        # The sign of a component is arbitrary; fixed here, so that the code does not depend on the solver's choice.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        scale = values.sqrt() ** SOFTENING
        scale = scale * (values / scale.square()).mean().sqrt()
        self.mean.copy_(mean)
        self.analysis.copy_((vectors / scale).T)
        self.synthesis.copy_(vectors * scale)
