"""The autoencoder of the mini model: what a frame looks like, given the portrait that it moves away from.

A latent holds motion only: where the portrait's pixels go, and what the warped portrait lacks (an opened mouth, a
closed eye). Identity and background come from the portrait itself, so a small network can learn to draw plausible
latents: the latent flow diffusion of Ni et al. 2023 (arXiv 2303.13744), with learned codes in place of the flow itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 8
"""Pixels per latent cell, each way."""
REACH = 0.5
"""Largest displacement of the warp, as a share of half the picture's side."""


class _Residual(nn.Module):
    """A residual pair of convolutions. No norm: it would take the colour out of the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels, h, w) to the same shape."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution that says nothing before training."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class MotionCodec(nn.Module):
    """Frames to motion latents and back, beside the portrait.

    Args:
        latent_channels: Channels of a motion latent.
        appearance_channels: Principal components kept per patch of 8 x 8 pixels: what a picture looks like, in closed
            form, for the networks that read portraits and motion frames.
        width: Channels at the stride of the latents.
    """

    patch_mean: Tensor
    analysis: Tensor
    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, latent_channels: int, appearance_channels: int, width: int = 96) -> None:
        super().__init__()
        size, half = 3 * STRIDE * STRIDE, width // 2
        self.register_buffer("patch_mean", torch.zeros(size))
        # Until it is fitted, appearance is evenly spread pixels.
        rows = torch.eye(size)[torch.linspace(0, size - 1, appearance_channels).long()]
        self.register_buffer("analysis", rows)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_scale", torch.ones(latent_channels))
        self.encoder = nn.Sequential(
            _conv(2 * 48, half),
            _Residual(half),
            nn.PixelUnshuffle(2),
            _conv(4 * half, width),
            _Residual(width),
            _Residual(width),
            _conv(width, latent_channels),
        )
        self.motion = nn.Sequential(
            _conv(latent_channels + appearance_channels, width),
            _Residual(width),
            _Residual(width),
            _Residual(width),
            _conv(width, 4 * half),
            nn.PixelShuffle(2),
            _Residual(half),
            _Residual(half),
        )
        self.flow = _zero(_conv(half, 2))
        self.fine = nn.Sequential(_conv(half, 4 * 24), nn.PixelShuffle(2), _Residual(24))
        self.fine_flow = _zero(_conv(24, 2))
        self.repair = nn.Sequential(
            _conv(12 + 12 + 24, half), _Residual(half), _Residual(half), _Residual(half), _zero(_conv(half, 12))
        )

    def appearance(self, pixels: Tensor) -> Tensor:
        """(rows, 3, H, W) in [-1, 1] to (rows, appearance_channels, H / 8, W / 8), about unit variance."""
        patches = F.pixel_unshuffle(pixels, STRIDE)
        return torch.einsum("cp,nphw->nchw", self.analysis, patches - self.patch_mean[:, None, None])

    def encode(self, pixels: Tensor, portrait: Tensor) -> Tensor:
        """Latents (rows, latent_channels, H / 8, W / 8) of frames, each beside its portrait, (rows, 3, H, W)."""
        both = torch.cat([F.pixel_unshuffle(pixels, 4), F.pixel_unshuffle(portrait, 4)], dim=1)
        packed: Tensor = self.encoder(both)
        return (packed - self.latent_mean[:, None, None]) / self.latent_scale[:, None, None]

    def decode(self, latents: Tensor, portrait: Tensor) -> Tensor:
        """Frames (rows, 3, H, W), about [-1, 1], from latents and portraits (rows, 3, H, W)."""
        return self.decode_with_flow(latents, portrait)[0]

    def decode_with_flow(self, latents: Tensor, portrait: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`decode`, with the warped portrait and the flow (rows, 2, H, W) behind it, in half pictures."""
        flow, details = self.flow_and_details(latents, portrait)
        warped = warp(portrait, flow)
        known = torch.cat([F.pixel_unshuffle(warped, 2), F.pixel_unshuffle(portrait, 2), details], dim=1)
        return warped + F.pixel_shuffle(self.repair(known), 2), warped, flow

    def flow_and_details(self, latents: Tensor, portrait: Tensor) -> tuple[Tensor, Tensor]:
        """Where the portrait's pixels go, see `decode_with_flow`, and what the repair is told beside the pictures."""
        packed = latents * self.latent_scale[:, None, None] + self.latent_mean[:, None, None]
        moved = self.motion(torch.cat([packed, self.appearance(portrait)], dim=1))
        details, size = self.fine(moved), portrait.shape[2:]
        flow = _enlarged(self.flow(moved), size) + 0.25 * _enlarged(self.fine_flow(details), size)
        return REACH * flow.tanh(), details

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Set the appearance code from examples (rows, 3, H, W) in [-1, 1]."""
        patches = F.pixel_unshuffle(pixels, STRIDE).transpose(0, 1).flatten(1).double()
        kept = self.analysis.shape[0]
        values, vectors = torch.linalg.eigh(torch.cov(patches))
        values, vectors = values.flip(0)[:kept].clamp(min=1e-6), vectors.flip(1)[:, :kept]
        # The sign of a component is arbitrary; fixed here, so that the code does not depend on the solver's choice.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        self.patch_mean.copy_(patches.mean(1))
        self.analysis.copy_((vectors / values.sqrt()).T)

    @torch.no_grad()
    def standardise(self, pixels: Tensor, portraits: Tensor) -> None:
        """Give every latent channel mean 0 and variance 1 over examples, both (rows, 3, H, W)."""
        latents = self.encode(pixels, portraits).transpose(0, 1).flatten(1)
        self.latent_mean.add_(latents.mean(1) * self.latent_scale)
        self.latent_scale.mul_(latents.std(1).clamp(min=1e-6))


def _enlarged(field: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(field, size=tuple(size), mode="bilinear", align_corners=False)


def warp(pictures: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Pictures (rows, C, H, W), every pixel fetched from where a flow (rows, 2, H, W) points, in half pictures.

    `mode` is how values between pixels are found, `bilinear` or `bicubic`.
    """
    rows, _, height, width = pictures.shape
    still = F.affine_grid(
        torch.eye(2, 3, device=flow.device, dtype=flow.dtype).expand(rows, 2, 3), [rows, 3, height, width],
        align_corners=False,
    )  # fmt: skip
    places = still + flow.permute(0, 2, 3, 1)
    return F.grid_sample(pictures, places, mode=mode, padding_mode="border", align_corners=False)
