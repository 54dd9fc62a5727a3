"""Videos next to each other, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcp_bench.errors import ConfigError
from lcp_bench.report.side_by_side import GAP_PX, LABEL_PX, SIDE_PX, common_clips, find_sources, join, main
from lcp_bench.video import probe, read_audio, read_video, write_video

SIZE, FRAMES = 16, 5


def frames(level: int, count: int = FRAMES) -> np.ndarray:
    return np.full((count, SIZE, SIZE, 3), level, dtype=np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with one clip in common."""
    sound = np.sin(np.arange(FRAMES * 640) / 20).astype(np.float32) / 2
    for name, level, clips in (("a", 40, ("one", "two")), ("b", 200, ("two", "three"))):
        for clip in clips:
            write_video(tmp_path / name / f"{clip}.mp4", frames(level), 25, sound)
    return tmp_path / "a", tmp_path / "b"


def test_columns_are_labelled_enlarged_and_cut_to_the_shortest() -> None:
    joined = join({"left": frames(40), "right": frames(200, FRAMES - 2)})
    side = SIZE * (SIDE_PX // SIZE)
    assert joined.shape == (FRAMES - 2, LABEL_PX + side, 2 * (side + GAP_PX), 3)
    assert (joined[:, LABEL_PX:, :side] == 40).all()
    assert (joined[:, LABEL_PX:, side + GAP_PX : 2 * side + GAP_PX] == 200).all()
    assert (joined[0, :LABEL_PX, :side] < 128).any(), "no label was written"


def test_the_command_writes_the_common_clip_with_its_sound_and_a_sheet(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    arguments = [
        f"first={folders[0]}",
        f"second={folders[1]}",
        "--out",
        str(out),
        "--sheet",
        str(sheet),
        "--stills",
        "3",
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{out / 'two.mp4'}\n"
    assert [path.name for path in out.iterdir()] == ["two.mp4"]
    shown = read_video(out / "two.mp4")
    assert shown.shape[0] == FRAMES and probe(out / "two.mp4").fps == 25
    middle = shown[2, LABEL_PX + SIDE_PX // 2]
    assert abs(int(middle[SIDE_PX // 2, 0]) - 40) < 8
    assert abs(int(middle[SIDE_PX + GAP_PX + SIDE_PX // 2, 0]) - 200) < 8
    assert np.abs(read_audio(out / "two.mp4")).max() > 0.2
    with Image.open(sheet) as picture:
        assert picture.size == (3 * SIZE, 2 * (LABEL_PX + SIZE + GAP_PX))


def test_only_the_asked_clips_are_written(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert main([f"a={folders[0]}", "--out", str(tmp_path / "out"), "--clips", "one"]) == 0
    assert [path.stem for path in (tmp_path / "out").iterdir()] == ["one"]


def test_a_clip_that_a_source_lacks_is_an_error(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"a={folders[0]}", f"b={folders[1]}", "--out", str(tmp_path / "out"), "--clips", "one"]
    assert main(arguments) == 2
    assert "not every source has: one; all have: two" in capsys.readouterr().err


def test_wrong_sources_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LABEL=FOLDER, got 'nonsense'"):
        find_sources(None, ["nonsense"], None)
    with pytest.raises(ConfigError, match="one label for several sources: real"):
        find_sources(None, [f"real={folders[0]}"], folders[1])
    with pytest.raises(ConfigError, match="nothing to show"):
        find_sources(tmp_path / "no_runs", [], None)
    with pytest.raises(ConfigError, match="none in common \\(a: 2, none: 0\\)"):
        common_clips({"a": folders[0], "none": tmp_path / "none"})
