"""Numbers that others published, from `results/published.yaml`: shown beside ours, never merged into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lcp_bench.errors import ConfigError
from lcp_bench.record_check import is_number

FILE = Path(__file__).resolve().parents[2] / "results" / "published.yaml"
SCHEMA = 1
_KEYS = ("table", "model", "accel", "dataset", "metric", "value", "confidence")


@dataclass(frozen=True, slots=True)
class PublishedNumber:
    """One number of a paper.

    Attributes:
        value: As printed.
        table: Where it is printed.
        confidence: Of the reading.
        note: What the paper says about it; empty for most.
    """

    value: float
    table: str
    confidence: str
    note: str = ""


@dataclass(frozen=True)
class Published:
    """The numbers of one paper.

    Attributes:
        paper: What to cite: title, arxiv, venue, authors.
        provenance: How they were read.
        conditions: How they were measured, by name.
        rows: As in the file.
    """

    paper: Mapping[str, Any]
    provenance: str
    conditions: Mapping[str, str]
    rows: tuple[Mapping[str, Any], ...]

    @cached_property
    def _found(self) -> dict[tuple[str, ...], PublishedNumber]:
        return {
            (row["table"], row["model"], row["accel"], row["dataset"] or "", row["metric"]): PublishedNumber(
                float(row["value"]), row["table"], row["confidence"], row.get("note", "")
            )
            for row in self.rows
        }

    def number(
        self, tables: tuple[str, ...], model: str, accel: str, dataset: str, metric: str
    ) -> PublishedNumber | None:
        """The number printed in the first of `tables` that has it; one that is given for all data sets fits each."""
        for table in tables:
            for place in (dataset, ""):
                found = self._found.get((table, model, accel, place, metric))
                if found is not None:
                    return found
        return None


def load_published(path: Path | None = None) -> Published:
    """Read and check the file; None takes the repository's own.

    Raises:
        ConfigError: it is absent, is no YAML, or a row lacks a key or is there twice.
    """
    path = FILE if path is None else path
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} must hold published numbers as YAML, got: {error}; restore it with git") from error
    if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
        raise ConfigError(f"{path} must be a mapping with schema: {SCHEMA}; restore it with git")
    seen = set()
    for number, row in enumerate(content["rows"]):
        missing = [key for key in _KEYS if key not in row]
        if missing or not is_number(row["value"]):
            raise ConfigError(f"{path}, row {number}, must have {', '.join(_KEYS)} and a number as value, got {row}")
        key = tuple(row[name] for name in _KEYS[:5])
        if key in seen:
            raise ConfigError(f"{path}, row {number}, must be there once, got {key} again; delete one")
        seen.add(key)
    paper, conditions = content["paper"], content["conditions"]
    return Published(paper, " ".join(content["provenance"].split()), conditions, tuple(content["rows"]))
