"""Runs whose foreground comes from a face parser on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lcp_bench.errors import ConfigError
from lcp_bench.runner import plan_run
from metrics.nets.bisenet import BiSeNet
from runs import Bench


def weights_with_parser(folder: Path) -> str:
    """A parser with random weights, in the public layout; the word that names the folder of all weights."""
    torch.manual_seed(3)
    state = BiSeNet("yakhyo", "resnet18").state_dict()
    (folder / "metrics").mkdir(parents=True)
    torch.save(state, folder / "metrics" / "resnet18.pt")
    return f"paths.weights={folder}"


@pytest.mark.slow
def test_the_parsers_mask_is_used_and_told(bench: Bench, tmp_path: Path) -> None:
    weights = weights_with_parser(tmp_path / "weights")
    done = bench.run("+accel=lcp_dfa", weights, "dataset.foreground_classes=face_only", "run.limit=1")
    (row,) = done.rows
    assert row["inputs"]["foreground_source"] == "bisenet_yakhyo_resnet18"
    assert 0 < row["inputs"]["foreground_ratio"][0] < 1, "these weights see several classes"
    identity = done.record["identity"]["foreground"]
    assert (identity["parser"], identity["classes"]) == ("bisenet_yakhyo_resnet18", "face_only")
    assert done.record["engagement"]["equals_plan"]
    boxes = bench.run("+accel=lcp_dfa", "run.limit=1")
    assert boxes.rows[0]["inputs"]["foreground_source"] == "face region"
    assert boxes.folder != done.folder and boxes.hashes != done.hashes


def test_a_parser_changes_only_the_runs_that_ask_for_it(bench: Bench, tmp_path: Path) -> None:
    weights = weights_with_parser(tmp_path / "weights")

    def run_id(*words: str) -> str:
        return plan_run(bench.config(*words)).store.run_id

    assert run_id("+accel=lcp", weights) == run_id("+accel=lcp")
    dfa = run_id("+accel=lcp_dfa", weights)
    assert dfa != run_id("+accel=lcp_dfa")
    assert run_id("+accel=lcp_dfa", weights, "dataset.face_parser=none") == run_id("+accel=lcp_dfa")
    assert run_id("+accel=lcp_dfa", weights, "dataset.face_parser=bisenet_yakhyo_resnet18") == dfa
    assert run_id("+accel=lcp_dfa", weights, "dataset.foreground_classes=face_only") != dfa
    with pytest.raises(ConfigError, match=r"dataset.face_parser=bisenet: .*79999_iter.pth"):
        run_id("+accel=lcp_dfa", weights, "dataset.face_parser=bisenet")
