"""`python -m lcp_bench.score` on small folders of videos."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from metric_clips import picture_video
from torch import Tensor, nn

from lcp_bench import score
from lcp_bench.score import METRICS, find_videos, main, parse_metrics
from lcp_bench.score_run import NEEDED, SEEDED_WARNING
from lcp_bench.video import write_video
from metrics import pixels
from metrics.frames import read_frames
from metrics.fvd import Fvd
from metrics.weights import BACKBONES, Loaded

SIDE = 32
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command inside the temporary folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`made` (a, b, c, and d that is broken), `real` (a, b, c, e) and `plain` (a, b, c), 17 frames each."""
    for folder, clips, offset in (("made", "abc", 0), ("real", "abce", 50), ("plain", "abc", 90)):
        for number, clip in enumerate(clips):
            frames = picture_video(number + offset, 17, SIDE)
            write_video(tmp_path / folder / f"{clip}.mp4", frames, 25.0)
    (tmp_path / "made" / "d.mp4").write_bytes(b"this is no video")
    (tmp_path / "made" / ".hidden.mp4").write_bytes(b"")
    (tmp_path / "made" / "notes.txt").write_text("no video")
    return tmp_path


def scores_of(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["name"], each["of"]): each for each in json.loads(text)["scores"]}


def test_fidelity_needs_no_weight_file(run: Run, folders: Path) -> None:
    code, out, err = run("made", "--baseline", "plain", "--metrics", "fidelity", "--format", "json")
    assert code == 0, err
    document, found = json.loads(out), scores_of(out)
    assert found.keys() == {(f"{name}_vs_unaccelerated", "videos") for name in ("psnr", "ssim")}
    psnr = found["psnr_vs_unaccelerated", "videos"]
    expected = np.mean(
        [pixels.psnr(*(read_frames(folders / f / f"{c}.mp4", 25) for f in ("made", "plain"))).mean() for c in "abc"]
    )
    assert psnr["value"] == pytest.approx(expected, rel=1e-12)
    assert psnr["low"] < psnr["value"] < psnr["high"] and psnr["level"] == 0.95
    assert (psnr["n"], psnr["n_expected"], psnr["samples"]) == (3, 4, 51)
    assert (psnr["unit"], psnr["direction"], psnr["label"]) == ("dB", "higher", "no backbone")
    assert [(gap["clip"], gap["reason"]) for gap in psnr["gaps"]] == [("d", "missing")], "d has no partner"
    assert [each["metric"] for each in document["left_out"]] == ["lpips"]
    assert "alexnet-owt-7be5be79.pth" in document["left_out"][0]["reason"]


def test_the_document_says_where_its_numbers_come_from(run: Run, folders: Path) -> None:
    code, out, _ = run("made", "--baseline", "plain", "--metrics", "fidelity", "--format", "json")
    document = json.loads(out)
    assert code == 0
    assert set(document) == {
        *("schema_version", "created_utc", "command_line", "versions", "git", "clips", "warnings", "left_out"),
        *("protocols", "scores"),
    }
    assert document["created_utc"].endswith("Z") and document["versions"]["torchmetrics"]
    assert document["clips"] == {"videos": 4, "baseline": 3} and document["warnings"] == []
    for each in document["scores"]:
        assert document["protocols"][each["protocol"]]["metric"] == "fidelity"
        for key, value in each.items():
            assert value is not None or each[f"{key}_reason"], key
    assert str(folders) not in out, "no private path"


def test_both_partners_are_two_measurements(run: Run, folders: Path) -> None:
    arguments = ("made", "--baseline", "plain", "--reference", "real", "--metrics", "fidelity", "--format", "json")
    code, out, _ = run(*arguments)
    found = scores_of(out)
    assert code == 0
    own, truth = found["psnr_vs_unaccelerated", "videos"], found["psnr_vs_ground_truth", "videos"]
    assert own["protocol"] != truth["protocol"] and own["n_expected"] == truth["n_expected"] == 5
    assert {gap["clip"] for gap in truth["gaps"]} == {"d", "e"}
    other = found["psnr_vs_ground_truth", "baseline"]["value"]
    difference = found["psnr_vs_ground_truth_minus_baseline", "videos - baseline"]
    assert difference["value"] == pytest.approx(truth["value"] - other, rel=1e-9)
    assert difference["n"] == 3


def test_text_keeps_apart_what_differs(run: Run, folders: Path) -> None:
    (folders / "plain" / "c.mp4").unlink()
    arguments = ("made", "--baseline", "plain", "--reference", "real", "--metrics", "fidelity")
    code, out, err = run(*arguments, "--out", "scores.txt")
    assert (code, out) == (0, "8 scores written to scores.txt\n"), err
    text = (folders / "scores.txt").read_text()
    blocks = [part.splitlines() for part in text.split("\n\n")]
    headings = [lines[0] for lines in blocks if lines[0].startswith("psnr_vs_ground_truth (")]
    assert len(headings) == 2 and "n = 3" in headings[0] and "n = 2" in headings[1]
    assert "(dB; higher is better)" in headings[0] and "backbones: no backbone" in headings[0]
    assert "3 of 5 clips, 51 samples  PARTIAL" in text and "95 %" in text
    assert "d (undecodable)" in text or "d (missing)" in text
    assert "not computed\n  lpips: needs" in text and "WARNING" not in text


class Colours(nn.Module):
    """Stands in for I3D: mean colour of the quarters of a window."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, windows: Tensor) -> Tensor:
        return self.scale * F.adaptive_avg_pool2d(windows.mean(dim=2), 2).flatten(1)


@pytest.mark.usefixtures("folders")
def test_seeded_scores_run_the_whole_path_and_say_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Value, baseline, difference and floor; the second run reads all features."""
    monkeypatch.setitem(BACKBONES, "i3d_videogpt", replace(BACKBONES["i3d_videogpt"], build=Colours))
    arguments = ("made", "--reference", "real", "--baseline", "plain", "--metrics", "fvd", "--seeded")
    code, out, err = run(*arguments, "--cache", "features", "--format", "json")
    assert code == 0, err
    assert SEEDED_WARNING in caplog.text
    document, found = json.loads(out), scores_of(out)
    assert list(found) == [
        *(("fvd", "videos"), ("fvd", "baseline")),
        *(("fvd_minus_baseline", "videos - baseline"), ("fvd_floor", "reference")),
    ]
    assert document["warnings"] == [SEEDED_WARNING]
    assert all(each["label"] == "seeded-v1" and SEEDED_WARNING in each["notes"] for each in found.values())
    fvd, floor = found["fvd", "videos"], found["fvd_floor", "reference"]
    assert fvd["value"] > 0 and (fvd["n"], fvd["n_expected"], fvd["direction"]) == (3, 5, "lower")
    assert {gap["clip"]: gap["reason"] for gap in fvd["gaps"]} == {"d": "undecodable", "e": "missing"}
    difference = found["fvd_minus_baseline", "videos - baseline"]["value"]
    assert difference == pytest.approx(fvd["value"] - found["fvd", "baseline"]["value"], rel=1e-9)
    assert floor["value"] > 0 and (floor["n"], floor["n_expected"]) == (2, 2)
    assert any("real against real" in note for note in floor["notes"])
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")}
    assert len(stored) == 11, "3 + 4 + 3 clips, and why d has no features"
    code, text, _ = run(*arguments, "--cache", "features")
    assert code == 0 and text.startswith(f"WARNING: {SEEDED_WARNING}\n\nfvd (")
    assert text.count(SEEDED_WARNING) == 1 and "backbones: seeded-v1" in text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")} == stored


def test_without_weight_files_one_message_names_them_all(run: Run, folders: Path) -> None:
    code, out, err = run("made", "--reference", "real", "--backbones", "nets")
    assert (code, out) == (1, "")
    for name in {name for names in NEEDED.values() for name in names}:
        file = BACKBONES[name].file
        assert str(Path("nets") / file.names[0]) in err and file.source in err, name
        assert (file.sha256 or file.git_blob or "?") in err
    assert f"6 weight files are not in {folders / 'nets'}" in err
    assert "--seeded" in err and "Traceback" not in err


def test_a_wrong_weight_file_is_found_before_any_work(run: Run, folders: Path) -> None:
    (folders / "nets").mkdir()
    (folders / "nets" / "syncnet_v2.model").write_bytes(b"x")
    (folders / "nets" / "sfd_face.pth").write_bytes(b"x")
    code, _, err = run("made", "--metrics", "sync", "--backbones", "nets", "--cache", "features")
    assert code == 1 and "syncnet_v2.model cannot be read as plain tensors" in err
    assert not (folders / "features").exists()


def test_what_cannot_be_computed_is_said(run: Run, folders: Path) -> None:
    class Options:
        videos, reference, baseline, backbones = str(folders / "made"), None, None, None
        metrics, seeded, cache, metric = None, False, "features", "paper"

    request = score.make_request(Options)
    assert request.metrics == ("sync",)
    assert set(request.left_out) == {"fvd", "fid", "efid", "fidelity"}
    Options.baseline = str(folders / "plain")  # type: ignore[assignment]
    assert score.make_request(Options).metrics == ("sync", "fidelity")
    Options.reference = str(folders / "real")  # type: ignore[assignment]
    assert score.make_request(Options).metrics == METRICS


def test_nothing_scored_is_not_a_success(run: Run, folders: Path) -> None:
    for name in "ab":
        (folders / "none").mkdir(exist_ok=True)
        (folders / "none" / f"{name}.mp4").write_bytes(b"no")
    code, out, _ = run("none", "--baseline", "plain", "--metrics", "fidelity")
    assert code == 1
    assert "n/a: no clip could be scored  (0 of 3 clips, 0 samples  PARTIAL)" in out
    assert "a (undecodable)" in out and "c (missing)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "VIDEOS: expected a folder of videos at nowhere, got nothing there"),
        (["made/a.mp4"], "got a file"),
        (["empty"], "found none"),
        (["."], "did you mean made?"),
        (["made", "--reference", "nowhere"], "--reference: expected a folder"),
        (["made", "--reference", "others"], "matched by file name without its ending, got a, b, c and 1 more and z"),
        (["twice"], "two videos of clip 'a': a.mov and a.mp4"),
        (["made", "--metrics", "fvd"], "it needs --reference VIDEOS"),
        (["made", "--metrics", "fidelity"], "needs --baseline VIDEOS or --reference VIDEOS"),
        (["made", "--metrics", "fdv"], "did you mean fvd?"),
        (["made", "--metrics", ","], "an empty list"),
        (["made", "--metrics", "sync", "--seeded", "--backbones", "nets"], "got both"),
        (["made", "--metrics", "sync", "--out", "no/scores.json"], "the folder no does not exist"),
        (["made", "--metrics", "sync", "--out", "made"], "it is a folder"),
        (["made", "--format", "yaml"], "invalid choice"),
        ([], "VIDEOS"),
    ],
)
def test_wrong_commands(arguments: list[str], message: str, run: Run, folders: Path) -> None:
    (folders / "empty").mkdir()
    for path in ("others/z.mp4", "twice/a.mp4", "twice/a.mov"):
        (folders / path).parent.mkdir(exist_ok=True)
        (folders / path).write_bytes(b"")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_listing_a_folder(folders: Path) -> None:
    assert list(find_videos(folders / "made", "VIDEOS")) == ["a", "b", "c", "d"]
    assert parse_metrics("Sync,fid , fid") == ("fid", "sync")


def test_the_mini_set_is_chosen_by_name(run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers carry their own label, so they never meet public ones."""
    asked: list[tuple[Any, ...]] = []

    def mini_metrics(names: Any, folder: Path | None = None) -> dict[str, Any]:
        asked.append((tuple(names), folder))
        return {"fvd": Fvd(Loaded.of(Colours(), "mini_net", "sha256:1", "mini"))}

    module = types.ModuleType("metrics.mini")
    module.mini_metrics = mini_metrics  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "metrics.mini", module)
    arguments = ("made", "--reference", "real", "--metrics", "fvd", "--metric", "mini", "--cache", "features")
    code, out, err = run(*arguments, "--format", "json")
    assert code == 0, err
    assert set(asked) == {(("fvd",), None)}
    floor = scores_of(out)["fvd_floor", "reference"]
    assert floor["label"] == "mini"
    assert "n = 2: 2 of 4 real clips against 2 others" in floor["notes"]
    assert run("made", "--metrics", "sync", "--metric", "mini", "--seeded")[0] == 2


def test_fidelity_of_pictures_below_the_window_is_a_gap(run: Run, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_video(tmp_path / folder / "a.mp4", picture_video(1, 3, 10), 25.0)
    code, out, _ = run("one", "--baseline", "two", "--metrics", "fidelity")
    assert code == 1 and "a (too small): a.mp4 is 10 x 10 pixels" in out


def test_a_file_that_cannot_be_read_is_a_gap(run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metrics import metric

    honest = metric.file_sha256

    def refuse(path: Path) -> str:
        if path.name == "a.mp4":
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    monkeypatch.setattr(metric, "file_sha256", refuse)
    code, out, _ = run("made", "--baseline", "plain", "--metrics", "fidelity")
    assert code == 0 and "a (undecodable): " in out and "Permission denied" in out


def test_the_disks_errors_have_no_traceback(run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device", "features")

    monkeypatch.setattr("lcp_bench.score_run.score_set", full)
    code, out, err = run("made", "--baseline", "plain", "--metrics", "fidelity")
    assert (code, out) == (1, "") and err.startswith("features: No space left on device")
