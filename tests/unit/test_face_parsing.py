"""The foreground of portraits from a face parser: which one, what it says, and what a run's name knows of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from lcp_bench.assemble import describe_parser
from lcp_bench.config import DatasetConfig
from lcp_bench.data.face_parsing import PARSERS, find_parser
from lcp_bench.errors import ConfigError, WeightsError
from lcp_bench.preflight import load_run_config
from metrics.nets.bisenet import BiSeNet
from metrics.parsing import CLASS_NAMES, CLASS_SETS
from metrics.weights import BACKBONES

Made = Callable[..., Path]
CLIP: Any = SimpleNamespace(foreground=None)
GIVEN: Any = SimpleNamespace(foreground="mask.png")
PICTURE = np.zeros((48, 64, 3), dtype=np.uint8)


@pytest.fixture
def parser_file(tmp_path: Path) -> Made:
    """Writes a parser that sees one class everywhere, in the public layout (resnet18, yakhyo's key names)."""

    def make(label: str) -> Path:
        torch.manual_seed(0)
        network = BiSeNet("yakhyo", "resnet18")
        state = network.state_dict()
        state["conv_out.conv.weight"] = torch.zeros_like(state["conv_out.conv.weight"])
        state["conv_out.conv.weight"][CLASS_NAMES.index(label)] = 1.0  # its inputs went through a ReLU
        torch.save(state, tmp_path / "resnet18.pt")
        return tmp_path

    return make


def test_auto_takes_the_papers_parser_first(tmp_path: Path) -> None:
    assert find_parser("auto", "face_only", tmp_path) is None
    for name in reversed(PARSERS):
        (tmp_path / BACKBONES[name].file.names[0]).write_bytes(name.encode())
        found = find_parser("auto", "face_only", tmp_path)
        assert found is not None and found.name == name
    assert find_parser("none", "face_only", tmp_path) is None
    named = find_parser("bisenet", "face_only", tmp_path)
    assert named is not None and named.identity["classes"] == "face_only"
    assert found is not None and found.identity["sha256"] != named.identity["sha256"]


def test_nothing_is_parsed_that_nobody_needs(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "resnet18.pt").write_bytes(b"parser")
    words = ["+model=hallo", "model.weights=seeded", f"paths.weights={tmp_path}"]
    dfa, plain = (load_run_config([*words, f"+accel={name}"]) for name in ("lcp_dfa", "lcp"))
    assert describe_parser(dfa, [GIVEN, CLIP]) is not None
    assert describe_parser(dfa, [GIVEN]) is None, "all clips bring a foreground"
    assert describe_parser(plain, [CLIP]) is None, "nothing is restricted to a foreground"


def test_a_parser_without_its_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset.face_parser=bisenet: .*79999_iter.pth.*found none"):
        find_parser("bisenet", "face_only", tmp_path)


def test_a_wrong_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "79999_iter.pth").write_bytes(b"not it")
    parser = find_parser("auto", "face_only", tmp_path)
    assert parser is not None
    with pytest.raises(WeightsError, match="dataset.face_parser=none"):
        parser.foreground(PICTURE)


@pytest.mark.parametrize(
    ("label", "classes", "share", "source"),
    [
        ("hair", "face_hair_neck", 1.0, "bisenet_yakhyo_resnet18"),
        ("cloth", "not_background", 1.0, "bisenet_yakhyo_resnet18"),
        ("cloth", "face_hair_neck", 1.0, "bisenet_yakhyo_resnet18 found none: everything"),
    ],
)
def test_classes_are_chosen(parser_file: Made, label: str, classes: str, share: float, source: str) -> None:
    parser = find_parser("auto", classes, parser_file(label))
    assert parser is not None
    mask, said = parser.foreground(PICTURE)
    assert (mask.shape, float(mask.mean()), said) == ((512, 512), share, source)


def test_the_mask_is_the_networks(parser_file: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not everything or nothing: labels of a picture become ones where they are of the set."""
    folder = parser_file("skin")
    labels = np.zeros((512, 512), dtype=np.uint8)
    labels[100:200, 50:80], labels[300:310] = CLASS_NAMES.index("nose"), CLASS_NAMES.index("cloth")
    monkeypatch.setattr("lcp_bench.data.face_parsing.parse", lambda *_: labels)
    parser = find_parser("auto", "face_hair_neck", folder)
    assert parser is not None
    mask, _ = parser.foreground(PICTURE)
    assert mask.sum() == 100 * 30 and mask[100:200, 50:80].all()


def test_options_name_what_there_is() -> None:
    hints = get_type_hints(DatasetConfig)
    assert set(get_args(hints["face_parser"])) == {"auto", "none", *PARSERS}
    assert set(get_args(hints["foreground_classes"])) == set(CLASS_SETS)
    assert set(PARSERS) <= set(BACKBONES)
