"""The documentation's links lead somewhere, and whatever can be named on the command line has its row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def _pages(repository: Path) -> list[Path]:
    return [repository / "README.md", repository / "CONTRIBUTING.md", *sorted((repository / "docs").glob("*.md"))]


def _anchors(text: str) -> set[str]:
    """The names that a page's headings get: lower case, spaces to hyphens, other signs gone."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_relative_links_lead_somewhere(repository: Path) -> None:
    broken: list[str] = []
    for page in _pages(repository):
        for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists():
                broken.append(f"{page.name}: {link}")
            elif anchor and anchor not in _anchors(target.read_text(encoding="utf-8")):
                broken.append(f"{page.name}: {link} (no such heading)")
    assert broken == []


def test_anchors_are_those_of_the_headings() -> None:
    assert _anchors("# A & B\n```\n# no heading\n```\n## `mini`, again") == {"a--b", "mini-again"}


@pytest.mark.parametrize(
    ("folder", "page"),
    [
        ("accel", "README.md"),
        ("model", "README.md"),
        ("dataset", "README.md"),
        ("metric", "README.md"),
        ("experiment", "docs/sweeps.md"),
    ],
)
def test_every_choice_has_a_row(repository: Path, folder: str, page: str) -> None:
    text = (repository / page).read_text(encoding="utf-8")
    names = {path.stem for path in (repository / "conf" / folder).glob("*.yaml")}
    assert names
    assert {name for name in names if f"`{name}`" not in text} == set()
