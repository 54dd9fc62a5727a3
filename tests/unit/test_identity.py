"""What names a run: everything that can change a number, nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from lcp_bench import identity
from lcp_bench.assemble import WeightsLabel, describe_weights
from lcp_bench.config import RunConfig
from lcp_bench.identity import run_identity
from lcp_bench.preflight import load_run_config
from lcp_bench.store import run_id

MANIFEST = SimpleNamespace(sha256="a" * 64, dataset="demo", clips=())
CPU = torch.device("cpu")


@cache
def base(*words: str) -> RunConfig:
    """A run of LightningCP unless the words say otherwise."""
    accel = () if any(word.startswith("+accel") for word in words) else ("+accel=lcp",)
    return load_run_config(["+model=hallo", "model.size=tiny", "model.weights=seeded", *accel, *words])


def config(*words: str) -> RunConfig:
    """A run with groups chosen by a command and values set directly, which is quicker."""
    made = base(*(word for word in words if word.startswith("+")))
    for word in words:
        if not word.startswith("+"):
            path, _, text = word.partition("=")
            made = with_value(made, path.split("."), yaml.safe_load(text))
    return made


def with_value(node: Any, path: list[str], value: Any) -> Any:
    """A copy of nested dataclasses and dicts with one value replaced; the key must exist."""
    key, *rest = path
    inner = node[key] if isinstance(node, dict) else getattr(node, key)
    changed = with_value(inner, rest, value) if rest else value
    return {**node, key: changed} if isinstance(node, dict) else replace(node, **{key: changed})


def name(*words: str, manifest: Any = MANIFEST, weights: WeightsLabel | None = None) -> str:
    """The run's name."""
    asked = config(*words)
    return run_id(run_identity(asked, manifest, weights or describe_weights(asked, CPU), CPU))


@pytest.fixture(scope="module")
def usual() -> str:
    """The run that all others are compared with."""
    return name()


@pytest.mark.parametrize(
    "word",
    [
        "model.weights_seed=1", "model.frames_per_segment=8", "model.motion_frames=1", "model.fps=24",
        "model.motion_scale=[1.0,1.0,0.5]", "model.face_expand_ratio=1.3", "model.dtype=bfloat16",
        "model.reference_dtype=float32", "model.image_size=128", "+accel=none", "+accel=fewer_steps",
        "accel.schedule.key_steps=12", "accel.schedule.key_steps=[0,1,2]", "accel.schedule.placement=uniform",
        "accel.parallel=false", "accel.estimate=false", "accel.estimate_from_step=7", "accel.hold=output",
        "accel.site=up.3.1", "sampler.steps=30", "sampler.guidance_scale=2.0", "sampler.seed=7",
        "dataset.max_seconds=1.0", "dataset.face_detector=cascade", "run.limit=1", "measure.repeats=2",
        "measure.warmup_clips=0", "measure.pair=none",
    ],
)  # fmt: skip
def test_what_can_change_a_number_changes_the_name(word: str, usual: str) -> None:
    assert name(word) != usual


@pytest.mark.parametrize(
    "word",
    [
        "paths.runs=elsewhere", "paths.weights=there", "paths.data=here", "paths.cache=tmp", "dataset.root=moved",
        "dataset.insightface_root=mine", "run.format=json", "run.debug=true", "run.dry=true", "run.device=cpu",
        "+tracker=wandb", "tracker.project=other",
    ],
)  # fmt: skip
def test_what_cannot_keeps_it(word: str, usual: str) -> None:
    assert name(word) == usual


def test_a_value_spelt_out_is_the_default(usual: str) -> None:
    assert name("accel.schedule.key_steps=11", "sampler.steps=40", "sampler.seed=42", "accel.hold=noise") == usual


def test_clips_and_weights_change_the_name(usual: str) -> None:
    assert name(manifest=SimpleNamespace(**{**vars(MANIFEST), "sha256": "b" * 64})) != usual
    assert name(weights=WeightsLabel("public", "other hash")) != usual


def test_code_versions_device_and_threads_change_the_name(usual: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(attribute: str, value: Any) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(identity, attribute, value)
            return name()

    names = {
        usual,
        changed("source_hash", lambda: "0" * 64),
        changed("versions", lambda packages: {"torch": "0.0"}),
        changed("device_state", lambda device: {"label": "another GPU"}),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        names.add(name())
    finally:
        torch.set_num_threads(before)
    assert len(names) == 5


def test_identity_survives_json() -> None:
    asked = config("accel.schedule.key_steps=[0,1,5]")
    own = run_identity(asked, MANIFEST, describe_weights(asked, CPU), CPU)  # type: ignore[arg-type]
    assert run_id(json.loads(json.dumps(own))) == run_id(own)


def test_identity_holds_no_path() -> None:
    """Two users with the same files have the same run; no home folder leaks into a shared record."""
    asked = replace(config(), dataset=replace(config().dataset, root="/home/someone/faces"))
    own = run_identity(asked, MANIFEST, describe_weights(asked, CPU), CPU)  # type: ignore[arg-type]
    assert "/home/someone" not in json.dumps(own)


def test_weights_of_a_seed() -> None:
    first, second = (describe_weights(config(f"model.weights_seed={seed}"), CPU) for seed in (0, 1))
    assert first.label == second.label == "seeded"
    assert first.identity != second.identity
