"""EchoMimic's view of a portrait: what is cut, where the face then is, and its mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lcp_bench.data.framing import FramedPortrait, framed_portrait
from lcp_bench.data.locate import LocatedFace
from lcp_bench.model_config import FaceCropConfig

CROP = FaceCropConfig(dilation=0.5, mask_dilation=0.1)
SIZE = 64


def portrait(box: tuple[float, float, float, float]) -> FramedPortrait:
    """A dark picture of 200 x 120 pixels with a bright face."""
    image: NDArray[np.uint8] = np.zeros((120, 200, 3), dtype=np.uint8)
    x0, y0, x1, y1 = (int(value) for value in box)
    image[y0:y1, x0:x1] = 200
    points = np.array([[x0, y0], [x1, y0], [(x0 + x1) / 2, (y0 + y1) / 2], [x0, y1], [x1, y1]], dtype=np.float64)
    foreground = torch.from_numpy(image[..., 0] > 0).float()
    return FramedPortrait(image, LocatedFace(box, points, "given"), (x0, y1 - 4, x1, y1), foreground, None, {})


def test_the_square_around_the_face() -> None:
    """A face of 40 x 40 px, grown by half on each side: a square of 80 px, in which the face is the middle half."""
    taken = framed_portrait(portrait((80, 40, 120, 80)), CROP, SIZE)
    assert taken.notes["face_crop"] == [60, 20, 140, 100]
    assert taken.image.shape == (SIZE, SIZE, 3) and taken.foreground is not None and taken.foreground.shape == (80, 80)
    assert taken.face.box == pytest.approx((16, 16, 48, 48))
    np.testing.assert_allclose(taken.face.landmarks5[[0, 4]], [[16, 16], [48, 48]])
    np.testing.assert_allclose(np.asarray(taken.lip_box), [16, 48 - 3.2, 48, 48])
    bright = np.flatnonzero(taken.image[32, :, 0] > 100)
    assert (bright[0], bright[-1]) == (16, 47)


def test_the_mask_is_wider_than_the_face() -> None:
    """48 of 80 px on each side; the crop's edges are black."""
    region = framed_portrait(portrait((80, 40, 120, 80)), CROP, SIZE).region
    assert region is not None and region.shape == (3, SIZE, SIZE)
    assert torch.equal(region[0], region[2])
    assert float(region[0].mean()) == pytest.approx((48 / 80) ** 2, abs=0.03)
    assert region[0, 32, 32] == 1.0 and region[0, 0].max() == 0.0


def test_a_face_at_the_upper_edge_has_upstreams_empty_mask() -> None:
    """The widened box begins before the image; upstream's slice is then empty, and the record says so."""
    taken = framed_portrait(portrait((80, 1, 120, 41)), CROP, SIZE)
    assert taken.notes["face_mask_share"] == 0.0
    assert taken.face.box[1] == pytest.approx(1 * SIZE / taken_side(taken))


def taken_side(taken: FramedPortrait) -> int:
    x0, _, x1, _ = taken.notes["face_crop"]
    return int(x1 - x0)


def test_without_a_crop_the_portrait_is_itself() -> None:
    whole = portrait((80, 40, 120, 80))
    assert framed_portrait(whole, None, SIZE) is whole
