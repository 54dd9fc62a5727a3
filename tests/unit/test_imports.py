"""Imports point inward, and what has one owner is imported by that owner only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("lcp_bench", "baselines", "metrics")

# (who, what it must not import): the part of the tree named first stays usable and testable without the second.
FORBIDDEN = [
    ("baselines", "lcp_bench.runner"),
    ("baselines", "lcp_bench.store"),
    ("baselines", "lcp_bench.tracker"),
    ("metrics", "lcp_bench.runner"),
    ("metrics", "lcp_bench.store"),
    ("metrics", "lcp_bench.tracker"),
    ("metrics", "lcp_bench.models"),
    ("metrics", "lcp_bench.accel"),
    ("metrics", "baselines"),
    ("lcp_bench.models", "lcp_bench.runner"),
    ("lcp_bench.models", "lcp_bench.config"),
    ("lcp_bench.accel", "lcp_bench.runner"),
    ("lcp_bench.accel", "lcp_bench.models.unet"),
    ("lcp_bench.data", "lcp_bench.runner"),
    ("lcp_bench.measure", "lcp_bench.runner"),
    ("lcp_bench.report", "lcp_bench.runner"),
    *((package, "notebooks") for package in PACKAGES),
]

# What has one owner: clocks are read in measure/, videos coded in video.py; anything else would be a second truth.
# Pausing between two tries of a download is not measuring, and cutting source videos needs their time stamps.
OWNED = [
    ("time", ("lcp_bench/measure/", "lcp_bench/models/weights/hub.py")),
    ("timeit", ("lcp_bench/measure/",)),
    ("av", ("lcp_bench/video.py", "lcp_bench/data/prepare_media.py")),
]

# Optional packages are imported where they are used, never when a module is loaded.
OPTIONAL = ("wandb", "soundfile", "librosa", "matplotlib", "insightface", "onnxruntime", "pandas", "torchvision")


def module_name(path: Path, root: Path) -> str:
    """`lcp_bench/accel/__init__.py` to `lcp_bench.accel`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Every name that the import statements below `tree` can mean, as absolute dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_load(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported, without `if TYPE_CHECKING:`."""
    kept = [
        node
        for node in tree.body
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(kept, [])


def within(name: str, package: str) -> bool:
    """Whether a dotted name lies in a package."""
    return name == package or name.startswith(f"{package}.")


@pytest.fixture(scope="module")
def sources(repository: Path) -> dict[str, tuple[Path, ast.Module]]:
    """Module name to its path, relative to the root, and its syntax tree."""
    found = {}
    for package in PACKAGES:
        for path in sorted((repository / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found[module_name(path, repository)] = (path.relative_to(repository), tree)
    assert len(found) > 50
    return found


@pytest.mark.parametrize(("who", "what"), FORBIDDEN, ids=[f"{who}-not-{what}" for who, what in FORBIDDEN])
def test_imports_point_inward(sources: dict[str, tuple[Path, ast.Module]], who: str, what: str) -> None:
    members = {name: tree for name, (_, tree) in sources.items() if within(name, who)}
    assert members, f"{who} has no modules; is it still called so?"
    wrong = [name for name, tree in members.items() if any(within(each, what) for each in imported(tree, name))]
    assert wrong == []


@pytest.mark.parametrize(("what", "owners"), OWNED, ids=[what for what, _ in OWNED])
def test_one_owner(sources: dict[str, tuple[Path, ast.Module]], what: str, owners: tuple[str, ...]) -> None:
    users = [
        path.as_posix() for name, (path, tree) in sources.items() if any(within(e, what) for e in imported(tree, name))
    ]
    assert [user for user in users if not user.startswith(owners)] == []


def test_optional_packages_are_imported_where_used(sources: dict[str, tuple[Path, ast.Module]]) -> None:
    wrong = {
        (name, each)
        for name, (_, tree) in sources.items()
        for each in imported(at_load(tree), name)
        if each.split(".")[0] in OPTIONAL
    }
    assert wrong == set()


def test_a_wrong_command_does_not_wait_for_torch(repository: Path) -> None:
    """Reading and checking a command line must stay quick."""
    program = "import sys, lcp_bench.cli; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=repository, check=False).returncode == 0


def test_the_checker_sees_relative_and_from_imports() -> None:
    """The tests above would pass on anything if this function saw nothing."""
    tree = ast.parse("from ..store import RunStore\nfrom lcp_bench import runner\nimport wandb.sdk as w\n")
    assert {"lcp_bench.store", "lcp_bench.runner", "wandb.sdk"} <= set(imported(tree, "lcp_bench.accel.strategy"))
