"""EchoMimic on the command line: upstream's defaults, the published operating points, and what is refused."""

from __future__ import annotations

import json

import pytest

from lcp_bench.config import build_strategy
from lcp_bench.errors import ConfigError
from lcp_bench.preflight import load_run_config


@pytest.mark.parametrize(
    ("model", "steps", "guidance", "keys", "equal"), [("echomimic", 30, 2.5, 8, 10), ("echomimic_acc", 6, 1.0, 4, 4)]
)
def test_defaults_are_upstreams(model: str, steps: int, guidance: float, keys: int, equal: int) -> None:
    config = load_run_config([f"+model={model}", "+accel=lcp"])
    own, window, crop = config.model, config.model.window, config.model.face_crop
    assert window is not None and crop is not None
    assert (config.sampler.steps, config.sampler.guidance_scale, config.sampler.seed) == (steps, guidance, 420)
    assert (own.fps, own.image_size, own.dtype, own.frames_per_segment, own.motion_frames) == (
        24,
        512,
        "float16",
        12,
        0,
    )
    assert (window.overlap, window.shift, window.max_frames) == (3, 2, 1200)
    assert (crop.dilation, crop.mask_dilation) == (0.5, 0.1)
    assert len(build_strategy(config).plan(steps).key_steps) == keys
    assert load_run_config([f"+model={model}", "+accel=fewer_steps"]).accel["steps"] == equal


def test_other_models_keep_their_seed() -> None:
    assert load_run_config(["+model=hallo", "+accel=none"]).sampler.seed == 42
    assert load_run_config(["+model=echomimic", "+accel=none", "sampler.seed=7"]).sampler.seed == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.window.overlap=12",), "model.window.overlap must be in 0..11"),
        (("model.motion_frames=2",), "model.motion_frames must be 0 with model.window"),
        (("model.window.max_frames=1",), "model.window.max_frames must be in 2"),
        (("model.face_crop.dilation=-1",), "model.face_crop.dilation must be in 0"),
        (("model.window.overlp=2",), "model.window.overlap"),
    ],
)
def test_wrong_windows_and_crops_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run_config(["+model=echomimic", "+accel=none", *words])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "plain", "lcp", "deepcache"),
    [("echomimic", 965.19, 319.26, 437.97), ("echomimic_acc", 90.27, 62.69, 67.49)],
)
def test_plan_counts_as_published(model: str, plain: float, lcp: float, deepcache: float) -> None:
    """TFLOP per window of 12 frames, table 2 of arXiv 2509.00052, from the plan that a user sees."""
    from lcp_bench.plan_report import as_document, cost_report

    for accel, wanted in (("lcp", lcp), ("deepcache", deepcache)):
        config = load_run_config([f"+model={model}", f"+accel={accel}", "run.action=plan"])
        document = as_document(config, cost_report(config))
        assert document["tflops_per_clip"]["as_published"] == pytest.approx(wanted, rel=1e-3)
        assert document["tflops_per_clip_unaccelerated"]["as_published"] == pytest.approx(plain, rel=1e-3)
        assert document["tflops_per_clip"]["executed"] < document["tflops_per_clip"]["as_published"]
        assert document["frames_per_clip"] == 12
        json.dumps(document, allow_nan=False)
