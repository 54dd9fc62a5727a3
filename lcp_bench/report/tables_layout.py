"""The layouts of arXiv 2509.00052's tables, filled from records.

A section holds the runs with equal weights, size, dtype and device: what differs in these is never compared. Its rows
are models and strategies, its columns scores per data set, then work and time. A strategy that a layout wants and
nobody ran has a row that says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lcp_bench.errors import ConfigError
from lcp_bench.record import Record
from lcp_bench.report.paired import correct
from lcp_bench.report.published import Published
from lcp_bench.report.tables_cells import (
    SPEED,
    Cell,
    Column,
    cells_of,
    preferred,
    quality_columns,
    real_cell,
    variant,
)

MODELS = ("hallo", "memo", "echomimic", "echomimic_acc")
"""Order of the paper; other models follow by name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table shows.

    Attributes:
        name: For the command line and the files.
        title: Of the table.
        accels: Its strategies, in the order of the rows.
        speed: Its columns of work and time, in `SPEED`'s names; all of them are in the CSV.
        published: Tables of the paper to look in, the first that has a number counts.
    """

    name: str
    title: str
    accels: tuple[str, ...]
    speed: tuple[str, ...]
    published: tuple[str, ...]


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "main",
            "Quality and speed of every model and strategy",
            ("none", "deepcache", "faster_diffusion", "lcp_dfa_rm"),
            ("tflop", "denoise_s", "speedup"),
            ("table 1",),
        ),
        Layout(
            "ablation_components",
            "Components: caching and parallel prediction, foreground attention, reference removal",
            ("none", "lcp", "lcp_dfa", "lcp_dfa_rm"),
            ("tflop", "denoise_s", "speedup"),
            ("table 2", "table 1"),
        ),
        Layout(
            "ablation_estimation",
            "Estimated latents of followers",
            ("none", "lcp_no_estimation", "lcp"),
            (),
            ("table 3",),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Labels:
    """What must be equal for two runs to share a section."""

    weights: str
    size: str
    dtype: str
    device: str

    @property
    def heading(self) -> str:
        """One line for people."""
        return f"{self.weights} weights, size {self.size}, {self.dtype}, on {self.device}"


@dataclass(frozen=True, slots=True)
class Row:
    """A model with a strategy and its settings.

    Attributes:
        model: Name.
        accel: Name of the strategy.
        settings: What sets it apart from other rows with these names; empty where there are none.
        cells: By column.
        records: Label of a data set to the row's runs on it, the one shown first.
    """

    model: str
    accel: str
    settings: str
    cells: Mapping[Column, Cell]
    records: Mapping[str, Sequence[Record]]

    @property
    def name(self) -> str:
        """Strategy and settings."""
        return f"{self.accel} ({self.settings})" if self.settings else self.accel


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that may be compared.

    Attributes:
        labels: What they have in common.
        columns: Scores, then work and time of each data set.
        rows: In the layout's order.
        real: Scores of the real videos, by column.
    """

    labels: Labels
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    real: Mapping[Column, Cell]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Labels of the data sets, sorted."""
        return tuple(sorted({column.dataset for column in self.columns}))


def build(layout: Layout, records: Sequence[Record], published: Published | None) -> list[Section]:
    """Fill a layout; runs with other strategies are left out, and no run of its strategies is.

    Args:
        layout: One of `LAYOUTS`.
        records: All runs.
        published: Numbers to stand beside ours; None for none.
    """
    groups: dict[Labels, list[Record]] = {}
    for record in records:
        if record["accel"]["name"] in layout.accels:
            groups.setdefault(labels_of(record), []).append(record)
    return [_section(layout, labels, groups[labels], published) for labels in sorted(groups, key=_order)]


def layouts_of(name: str) -> list[Layout]:
    """The layouts that `--layout` names.

    Raises:
        ConfigError: unknown name.
    """
    if name == "all":
        return list(LAYOUTS.values())
    if name not in LAYOUTS:
        raise ConfigError(f"--layout must be one of {', '.join(LAYOUTS)} or all, got {name!r}")
    return [LAYOUTS[name]]


def labels_of(record: Record) -> Labels:
    """The labels of a run."""
    model, device = record["model"], record["device"]
    where = "unknown device" if device is None else str(device["label"])
    return Labels(record["labels"]["weights"], str(model["size"]), str(model["dtype"]), where)


def _order(labels: Labels) -> tuple[int, str]:
    return ("public", "mini", "seeded").index(labels.weights), labels.heading


def _section(layout: Layout, labels: Labels, records: Sequence[Record], published: Published | None) -> Section:
    if labels.size != "full":  # a paper's models are whole
        published = None
    datasets = sorted({record["labels"]["dataset"] for record in records})
    on = {name: [record for record in records if record["labels"]["dataset"] == name] for name in datasets}
    columns = [column for name in datasets for column in quality_columns(preferred(on[name]))]
    columns += [replace(column, dataset=name) for name in datasets for column in SPEED]
    rows = [
        _row(layout, model, accel, settings, found, columns, published)
        for model in sorted({record["model"]["name"] for record in records}, key=_model_order)
        for accel in layout.accels
        for settings, found in _variants(records, model, accel)
    ]
    real = {column: real_cell(column, preferred(on[column.dataset])) for column in columns if column.is_quality}
    shown = {column: cell for column, cell in real.items() if cell.value is not None}
    return Section(labels, tuple(columns), tuple(_corrected(rows, columns)), shown)


def _model_order(name: str) -> tuple[int, str]:
    return (MODELS.index(name) if name in MODELS else len(MODELS)), name


def _variants(records: Sequence[Record], model: str, accel: str) -> list[tuple[str, list[Record]]]:
    """Settings that set a row apart to its runs; one empty row where nobody ran the strategy."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if (record["model"]["name"], record["accel"]["name"]) == (model, accel):
            found.setdefault(variant(record), []).append(record)
    flat = {key: _flat(json.loads(key)) for key in found}
    every = sorted({name for values in flat.values() for name in values})
    differing = [name for name in every if len({values.get(name) for values in flat.values()}) > 1]
    named = {
        key: ", ".join(f"{name}={values.get(name, 'unset')}" for name in differing) for key, values in flat.items()
    }
    return [(named[key], found[key]) for key in sorted(found, key=named.__getitem__)] or [("", [])]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        pairs = (_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
        return {key: text for pair in pairs for key, text in pair.items()}
    return {name: value if isinstance(value, str) else json.dumps(value)}


def _row(
    layout: Layout,
    model: str,
    accel: str,
    settings: str,
    records: Sequence[Record],
    columns: Sequence[Column],
    published: Published | None,
) -> Row:
    by_dataset: dict[str, list[Record]] = {}
    for record in preferred(records):
        by_dataset.setdefault(record["labels"]["dataset"], []).append(record)
    cells = dict(cells_of(columns, by_dataset))
    if published is not None and not settings:  # a paper's row has the paper's settings, not a variant's
        for column, cell in cells.items():
            number = published.number(layout.published, model, accel, column.dataset_name, column.metric)
            cells[column] = replace(cell, published=number)
    return Row(model, accel, settings, cells, by_dataset)


def _corrected(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The rows with probabilities corrected for all rows of a column that are compared with the unaccelerated run."""
    cells: list[dict[Column, Cell]] = [dict(row.cells) for row in rows]
    for column in columns:
        for own, difference in zip(cells, correct([own[column].difference for own in cells]), strict=True):
            own[column] = replace(own[column], difference=difference)
    return [replace(row, cells=own) for row, own in zip(rows, cells, strict=True)]
