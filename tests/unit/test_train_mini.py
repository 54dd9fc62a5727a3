"""`python -m lcp_bench.train +model=mini`: the command, its stages, and that a seed says everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lcp_bench.errors import ConfigError
from lcp_bench.models.mini import COMPONENTS, build_modules
from lcp_bench.models.shipped import load_shipped
from lcp_bench.train.__main__ import main, parse
from lcp_bench.train.mini import MiniTraining
from lcp_bench.train.mini_data import ClipsConfig, load_clips

SMALL = (
    "+model=mini", "clips.people=2", "clips.frames=24", "clips.references=2", "clips.moving_share=0",
    "codec.steps=3", "codec.batch=2", "frames.steps=3", "frames.batch=1",
    "sequences.steps=2", "sequences.batch=1", "frames_options.frames=2", "sequences_options.frames=3",
    "codec.log_every=1", "frames.log_every=1", "sequences.log_every=1", "repair.steps=3", "repair.batch=1",
    "repair.log_every=1",
)  # fmt: skip


def train(folder: Path, *words: str) -> dict[str, list[float]]:
    """Run the command; returns the logged losses by stage."""
    assert main([*SMALL, f"folder={folder}", f"export={folder / 'out'}", *words]) == 0
    logs = sorted(folder.glob("*.log.jsonl"))
    return {
        log.name.partition(".")[0]: [json.loads(line)["loss"] for line in log.read_text().splitlines()] for log in logs
    }


@pytest.mark.slow
def test_a_training_goes_through_its_stages_and_a_seed_says_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path / "whole")
    stages = {"codec": 3, "frames": 3, "sequences": 2, "repair": 3}
    assert {stage: len(losses) for stage, losses in whole.items()} == stages
    assert "finished; wrote" in capsys.readouterr().out
    first, second = (
        torch.load(tmp_path / "whole" / f"{stage}.checkpoint.pt", weights_only=True) for stage in ("codec", "repair")
    )
    assert all(name.startswith("repair.") for name in second["average"]), "nothing else learns in its second round"
    kept = {name: tensor for name, tensor in first["average"].items() if not name.startswith("repair.")}
    assert kept and all(torch.equal(second["module"][name], tensor) for name, tensor in kept.items())

    pieces = tmp_path / "pieces"
    stopped = (
        "codec: 2 of 3 steps done; the same command goes on",
        "frames: 2 of 3 steps done",
        "repair: 2 of 3 steps done",
    )
    for state in (*stopped, "finished; wrote"):
        assert main([*SMALL, f"folder={pieces}", f"export={pieces / 'out'}", "max_steps=2"]) == 0
        assert state in capsys.readouterr().out
    assert train(pieces) == whole

    assert train(tmp_path / "other", "seed=1")["frames"] != whole["frames"]
    modules = build_modules()
    load_shipped(modules, tmp_path / "whole" / "out", torch.device("cpu"), torch.float32)
    assert sorted(path.stem for path in (tmp_path / "whole" / "out").glob("*.safetensors")) == sorted(COMPONENTS)
    assert json.loads((tmp_path / "whole" / "out" / "training.json").read_text())["clips"]["people"] == 2


def test_clips_are_rendered_once_and_again_the_same(tmp_path: Path) -> None:
    config = ClipsConfig(people=2, frames=24, references=2)
    first = {name: array.copy() for name, array in load_clips(config, tmp_path / "a").items()}
    again = load_clips(config, tmp_path / "b")
    for name, array in first.items():
        assert (array == again[name]).all() and array.any(), name
    for path in (tmp_path / "a").glob("*/pixels.npy"):
        path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    assert not (load_clips(config, tmp_path / "a")["pixels"] == first["pixels"]).all(), "was rendered again"


def test_the_shipped_recipe_composes() -> None:
    config = parse(["+model=mini", "max_minutes=5"])
    assert isinstance(config, MiniTraining)
    assert config.max_minutes == 5 and config.sequences_options.consecutive and not config.frames_options.consecutive


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got nothing"),
        (["+model=hallo"], "got model=hallo"),
        (["+model=mini", "+metric=mini"], "expected one of"),
        (["+model=mini", "frames.stepz=3"], "stepz"),
        (["+model=mini", "frames.steps=0"], "steps must be 1 or more"),
        (["+model=mini", "max_minutes=0"], "max_minutes must be more than 0"),
        (["+model=mini", "clips.frames=8"], "clips.frames must be 24 or more"),
        (["+model=mini", "frames=["], "cannot be composed"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        parse(words)
    if words:
        assert main(words) == 2
        assert message in capsys.readouterr().err
