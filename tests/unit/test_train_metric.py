"""Training of the mini metric networks: what a batch holds, that it can be stopped, and what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lcp_bench.data.synthetic.streams import SPLITS
from lcp_bench.errors import ConfigError
from lcp_bench.train.__main__ import parse
from lcp_bench.train.metric import Augmentation, ExpressionLoss, MetricTraining, SyncLoss, blurred, train_metrics
from lcp_bench.train.metric_data import MetricData, Stills, Talking, coded_clip, load_stills, load_talking
from metrics.mini import mini_metrics
from metrics.mini_frames import lower_face
from metrics.nets.mini import MFCC_COLUMNS, OUTPUTS, ExpressionNet, MiniSyncNet

PLAIN = Augmentation(gain=0, tint=0, noise=0, blur=0.2, jitter=0, loudness=0, mfcc_noise=0)


def config(folder: Path, *words: str) -> MetricTraining:
    small = ("data.stills=24", "data.people=3", "data.frames=32", "check_people=0", "windows=4",
             "expression.steps=3", "expression.batch=8", "sync.steps=2", "sync.batch=2")  # fmt: skip
    found = parse(["+metric=mini", f"folder={folder}", f"export={folder / 'out'}", *small, *words])
    assert isinstance(found, MetricTraining)
    return found


def test_the_configuration_is_the_one_of_the_shipped_weights(repository: Path) -> None:
    noted = json.loads((repository / "metrics/shipped/training.json").read_text(encoding="utf-8"))["training"]
    full = parse(["+metric=mini"])
    for part in ("data", "augmentation", "expression", "sync"):
        ours = {name: getattr(getattr(full, part), name) for name in noted[part]}
        assert ours == noted[part], part
    assert (full.seed, full.windows, full.pose_weight) == (noted["seed"], noted["windows"], noted["pose_weight"])


def test_nobody_of_the_data_sets_is_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data.root must be more than 2"):
        config(tmp_path, "data.root=2")
    assert parse(["+metric=mini"]).data.root > 2 and SPLITS["test"].start == 232


def test_training_goes_on_where_it_stopped_and_leaves_networks(tmp_path: Path) -> None:
    whole = train_metrics(config(tmp_path / "whole"))
    assert whole.startswith("finished; wrote")
    answers = [train_metrics(config(tmp_path / "pieces", "max_steps=2")) for _ in range(2)]
    assert "expression: 2 of 3 steps done" in answers[0] and answers[1].startswith("finished")
    for name in ("expression", "sync"):
        one, other = (load_file(tmp_path / each / "out" / f"{name}.safetensors") for each in ("whole", "pieces"))
        assert all(torch.equal(one[key], other[key]) for key in one) and one.keys() == other.keys()
        assert {tensor.dtype for tensor in one.values()} == {torch.float16}
    assert list(mini_metrics(["efid", "sync"], tmp_path / "whole" / "out")) == ["efid", "sync"]


def test_half_drawn_material_is_completed_and_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = MetricData(stills=12, people=2, frames=32)
    monkeypatch.setattr("lcp_bench.train.metric_data.PIECE", 4)
    whole = load_stills(data, tmp_path / "whole")
    load_stills(data, tmp_path / "pieces")
    note = next((tmp_path / "pieces").glob("stills-*/pieces_done"))
    assert note.read_text() == "3"
    note.write_text("1")
    again = load_stills(data, tmp_path / "pieces")
    assert np.array_equal(again.pictures, whole.pictures) and np.array_equal(again.values, whole.values)
    monkeypatch.setattr("lcp_bench.train.metric_data.draw_stills", None)
    assert np.array_equal(load_stills(data, tmp_path / "pieces").values, whole.values)


def test_a_mirrored_picture_has_a_mirrored_pose(tmp_path: Path) -> None:
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    pictures[:, :, :32] = 255
    stills = Stills(pictures, np.ones((1, 14), np.float32))
    loss = ExpressionLoss(ExpressionNet(), stills, replace(config(tmp_path), augmentation=PLAIN))
    images, values = loss.draw(np.random.default_rng(0))
    as_drawn = images[:, 0, 32, 5] > 0.5
    assert 0 < as_drawn.sum() < len(images)
    for left, row in zip(as_drawn, values, strict=True):
        turned = {name for name, value in zip(OUTPUTS, row, strict=True) if value < 0}
        assert turned == (set() if left else {"yaw", "roll", "x"})
    assert pictures[0, 0, 0, 0] == 255, "the material itself must stay as it is"


def test_lips_and_sound_of_a_row_are_of_one_moment(tmp_path: Path) -> None:
    frames = 40
    grey = np.broadcast_to(np.arange(frames, dtype=np.uint8)[None, :, None, None] * 5, (2, frames, 64, 64))
    sound = np.broadcast_to(np.arange(4 * frames - 1, dtype=np.float32)[None, :, None], (2, 4 * frames - 1, 13))
    loss = SyncLoss(
        MiniSyncNet(), Talking(np.array(grey), np.array(sound)), replace(config(tmp_path), augmentation=PLAIN)
    )
    lips, sounds = loss.draw(np.random.default_rng(0))
    assert lips.shape == (8, 1, 5, 32, 40) and sounds.shape == (8, 1, 13, MFCC_COLUMNS)
    first = (lips[:, 0, 0, 0, 0] / 5).round()
    assert torch.equal(sounds[:, 0, 3, 0], 4 * first)
    assert torch.equal(lips[:, 0, 4, 0, 0].div(5).round() - first, torch.full((8,), 4.0))


def test_training_takes_are_what_a_metric_reads(tmp_path: Path) -> None:
    from lcp_bench.data.synthetic.clip import make_clip

    talking = load_talking(MetricData(stills=2, people=1, frames=32), tmp_path)
    clip = make_clip("synth_hdtf", 2000, 0, 0, frames=32)
    pictures, sound = coded_clip(clip)
    assert sound.shape == (32 * 640,) and talking.mfcc.shape == (1, 127, 13)
    assert 0 < np.abs(pictures.astype(int) - clip.frames).mean() < 6
    assert lower_face(talking.grey[0]).shape == (32, 32, 40)


def test_blur_keeps_the_mean_and_spreads_a_point() -> None:
    point = torch.zeros(1, 3, 15, 15)
    point[:, :, 7, 7] = 1
    found = blurred(point, 0.8)
    torch.testing.assert_close(found.sum(), point.sum())
    assert float(found[0, 0, 7, 7]) < 0.3 and torch.equal(found, found.flip(3))
