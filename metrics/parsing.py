"""From a photograph to a foreground token mask: face parsing labels and their reduction (LightningCP, 2509.00052, DFA).

The paper shrinks the parsing of the reference image to the 64 x 64 latent grid; class set, filter and threshold are not
published. What is used is therefore named in the configuration and the record.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from metrics.errors import MetricError
from metrics.nets.bisenet import MEAN, STD, BiSeNet

Reduction = Literal["area", "bilinear", "nearest"]
PARSER_SIDE = 512
TOKEN_SIDE = 64

CLASS_NAMES = (
    *("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r"),
    *("nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat"),
)
CLASS_SETS: dict[str, tuple[int, ...]] = {
    "face_hair_neck": (*range(1, 16), 17, 18),
    "not_background": tuple(range(1, 19)),
    "face_only": (*range(1, 7), *range(10, 14)),
}


@torch.inference_mode()
def parse(parser: BiSeNet, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Label map of a photograph.

    Args:
        parser: in eval mode.
        image: uint8 (H, W, 3), RGB; the crop that the generating model sees.

    Returns:
        uint8 (512, 512), indices of `CLASS_NAMES`.

    Raises:
        MetricError: the image is not uint8 RGB.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise MetricError(f"expected a uint8 RGB image (height, width, 3), got {image.dtype} {image.shape}")
    resized = Image.fromarray(image).resize((PARSER_SIDE, PARSER_SIDE), Image.Resampling.BILINEAR)
    logits = parser(parser_input(np.asarray(resized)))
    return np.asarray(logits[0].argmax(dim=0).cpu().numpy(), dtype=np.uint8)


def parser_input(image: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (H, W, 3) RGB to float32 (1, 3, H, W) with ImageNet's mean and scale taken out."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255.0
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def foreground(
    labels: Any, classes: Collection[int], reduction: Reduction = "area", size: int = TOKEN_SIDE
) -> NDArray[np.float32]:
    """Share of foreground per token.

    Args:
        labels: integer (H, W), H and W multiples of `size`.
        classes: labels that count as foreground; see `CLASS_SETS`.
        reduction: `area` averages each block, `bilinear` samples its centre, `nearest` its first pixel.
        size: tokens per side.

    Returns:
        float32 (size, size) in [0, 1].

    Raises:
        MetricError: the label map is not a multiple of `size`, or the reduction is unknown.
    """
    chosen = np.isin(np.asarray(labels), list(classes)).astype(np.float32)
    if chosen.ndim != 2 or chosen.shape[0] % size or chosen.shape[1] % size:
        raise MetricError(f"expected a label map whose sides are multiples of {size}, got {chosen.shape}")
    pixels = torch.from_numpy(chosen)[None, None]
    if reduction == "area":
        reduced = F.avg_pool2d(pixels, (chosen.shape[0] // size, chosen.shape[1] // size))
    elif reduction == "bilinear":
        reduced = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    elif reduction == "nearest":
        reduced = F.interpolate(pixels, (size, size), mode="nearest")
    else:
        raise MetricError(f"expected a reduction of area, bilinear, nearest, got {reduction!r}")
    return np.asarray(reduced[0, 0].numpy(), dtype=np.float32)


def tokens(share: NDArray[np.float32], rule: Literal["any", "half"] = "any") -> NDArray[np.uint8]:
    """Token mask 0/1 from foreground shares: any pixel of the token, or at least half of them."""
    return (share > 0 if rule == "any" else share >= 0.5).astype(np.uint8)
