"""Golden cases: folders with `meta.json`, `inputs.safetensors` and `outputs.safetensors`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

COMMITTED = Path(__file__).parent / "data"
NUMBERS = ("key_steps", "final_pow", "mask", "new_rate", "diff_before_moreg", "moreg_after")
"""Keys of a meta's entries that a handler must reproduce where a case has no output tensors."""


@dataclass(frozen=True)
class Case:
    """One folder; tensors are read when asked for."""

    folder: Path
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        """`model/case`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def component(self) -> tuple[str, str]:
        """(model, component): what a handler is registered for."""
        return self.meta["model"], self.meta["component"]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Input tensors."""
        return load_file(self.folder / "inputs.safetensors")

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Expected tensors; in a case without any, the numbers in the entries of its meta, as `INDEX.KEY`."""
        path = self.folder / "outputs.safetensors"
        if path.is_file():
            return load_file(path)
        entries = self.meta.get("entries") or self.meta["runs"]
        return {
            f"{number}.{key}": torch.tensor(entry[key])
            for number, entry in enumerate(entries)
            for key in NUMBERS
            if entry.get(key) is not None
        }

    def tolerance(self, output: str) -> tuple[float, float]:
        """(rtol, atol) of one output."""
        own = self.meta.get("output_tolerances", {}).get(output, {})
        return own.get("rtol", self.meta.get("rtol", 1e-5)), own.get("atol", self.meta.get("atol", 0.0))


def roots() -> list[Path]:
    """Folders with golden cases: the committed subset, the shared set, and `LCP_BENCH_GOLDENS`."""
    repository = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("LCP_BENCH_SHARED", repository.parent / "shared")) / "goldens"
    extra = os.environ.get("LCP_BENCH_GOLDENS")
    found = [COMMITTED, shared, *([Path(extra)] if extra else [])]
    return [root for root in found if root.is_dir()]


def collect(models: tuple[str, ...]) -> list[Case]:
    """All cases of `models` below all roots; one that is committed and shared is listed once, from the shared set."""
    cases: dict[str, Case] = {}
    extra = os.environ.get("LCP_BENCH_GOLDENS")
    for root in roots():
        for meta in sorted(root.glob("*/*/meta.json")):
            case = Case(meta.parent, json.loads(meta.read_text()))
            if case.meta["model"] in models:
                key = case.name if extra is None or root != Path(extra) else f"{extra}:{case.name}"
                cases[key] = case
    return list(cases.values())
