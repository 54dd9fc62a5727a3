"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcp_bench.atomic import replacing


@pytest.mark.parametrize("durable", [False, True])
def test_the_new_file_takes_the_place_at_the_end(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "folder" / "a.txt"
    with replacing(path, durable=durable) as partial:
        partial.write_text("new")
        assert partial.parent == path.parent and not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def break_off() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
