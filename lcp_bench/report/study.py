"""`python -m lcp_bench.report.study --runs DIR`: what each component and each rival is worth at its cost.

Reads one sweep of strategies over one model, one data set and one machine, with `none` and several `fewer_steps`, and
writes Markdown: every run by cost; the mean effect of each component of LightningCP over all pairs of runs that differ
in it alone; and every strategy against `fewer_steps` at the same cost, which is what it must beat. Times are shown
where they were measured in pairs (`measure=bench`), with what a follower costs beyond its share of the work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.report.quality import QualityCell, QualityColumn
from lcp_bench.report.render import number
from lcp_bench.report.table import Row, make_row
from lcp_bench.store import list_records

BASELINE, CONTROL = "none", "fewer_steps"
SCORES = (
    *("psnr_vs_unaccelerated", "ssim_vs_unaccelerated", "fvd_motion", "fvd_frames", "fvd", "fid", "efid"),
    *("lpips_vs_unaccelerated", "sync_c", "lse_c"),
)
"""What is shown, in this order; `lcp_bench.report` has the other scores of every run."""


@dataclass(frozen=True, slots=True)
class Component:
    """One choice that a run of LightningCP makes."""

    name: str
    of: Callable[[Mapping[str, Any]], Any]


COMPONENTS = (
    Component("input estimation", lambda accel: accel["estimate"]),
    Component("foreground attention", lambda accel: accel["attention"] is not None),
    Component("reference removal", lambda accel: accel["reference"] is not None),
    Component("key steps", lambda accel: accel["schedule"]["key_steps"]),
)


@dataclass(frozen=True, slots=True)
class Studied:
    """One run of the study.

    Attributes:
        label: Strategy and what tells it from others of its name.
        row: Its row of the ordinary tables.
        cost: Executed FLOPs as a share of the unaccelerated run's.
        time: Denoising time as a share of the unaccelerated model's, in pairs; None where it was not measured so.
        follower: Time of a follower over its FLOPs, both as shares of a full step: 1 is work without overhead. None
            without a time, or where no step follows.
        choices: The components' choices; empty for other methods.
    """

    label: str
    row: Row
    cost: float
    time: float | None
    follower: float | None
    choices: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change of one component does to one number, all others held.

    Attributes:
        mean: Mean of the differences.
        low: The smallest.
        high: The largest.
        pairs: How many.
    """

    mean: float
    low: float
    high: float
    pairs: int


def read_study(runs: Path) -> list[Studied]:
    """The runs of a folder, cheapest first.

    Raises:
        ConfigError: No or several unaccelerated runs, an unfinished run, or runs that must not share a table.
    """
    records = [run.record for run in list_records(runs) if run.record is not None]
    baselines = [record for record in records if record["accel"]["name"] == BASELINE]
    if len(baselines) != 1:
        raise ConfigError(f"a study needs one run of accel={BASELINE} in {runs}, got {len(baselines)}")
    rows = [make_row(record) for record in records]
    kinds = sorted({f"{row.model}, {row.labels.heading()}" for row in rows})
    if len(kinds) > 1:
        raise ConfigError(f"all runs of a study share model, data and machine; {runs} has {'; '.join(kinds)}")
    partial = [row.run_id for row in rows if row.status != "complete"]
    if partial:
        raise ConfigError(f"runs that are not complete: {', '.join(partial)}; issue the sweep again, it goes on")
    base = make_row(baselines[0])
    studied = []
    for record, row in zip(records, rows, strict=True):
        accel = record["accel"]
        cost = _cost(row, base)
        time = None if row.speedup.value is None else 1 / row.speedup.value
        plan = record["plan"]
        follower = None if time is None or plan is None else follower_overhead(plan, cost, time)
        choices = tuple(component.of(accel) for component in COMPONENTS) if _is_lightning(accel) else ()
        studied.append(Studied(label_of(accel, row), row, cost, time, follower, choices))
    return sorted(studied, key=lambda each: (each.cost, each.label))


def _cost(row: Row, base: Row) -> float:
    value, of = row.executed_tflop.value, base.executed_tflop.value
    if value is None or not of:
        raise ConfigError(f"run {row.run_id} or {base.run_id} has no executed work")
    return value / of


def follower_overhead(plan: Mapping[str, Any], cost: float, time: float) -> float | None:
    """Time of a follower over its work, from totals: what is left of both when the key steps' full steps are taken out.

    Args:
        plan: A record's plan.
        cost: FLOPs as a share of as many full steps.
        time: Time as a share of as many full steps.
    """
    steps, keys = plan["steps"], plan["key_steps"]
    if not isinstance(keys, list) or len(keys) >= steps:
        return None
    work = cost * steps - len(keys)
    return (time * steps - len(keys)) / work if work > 0 else None


def _is_lightning(accel: Mapping[str, Any]) -> bool:
    return str(accel["_target_"]).endswith(".LightningCP") and bool(accel["parallel"])


def label_of(accel: Mapping[str, Any], row: Row) -> str:
    """Name, budget, and whether inputs are estimated, if the name does not say it."""
    schedule = accel.get("schedule")
    keys = schedule.get("key_steps") if isinstance(schedule, Mapping) else None
    words = [str(accel["name"])]
    if isinstance(keys, int):
        words.append(f"{keys} keys")
    elif accel["name"] in (BASELINE, CONTROL):
        words.append(f"{row.steps} steps")
    if accel.get("estimate") is False and accel.get("parallel") and accel["name"] != "lcp_no_estimation":
        words.append("no estimation")
    return ", ".join(words)


def score_columns(study: Sequence[Studied]) -> list[QualityColumn]:
    """The scores named in `SCORES`, in that order."""
    columns = {column for each in study for column in each.row.quality.cells if column.name in SCORES}
    return sorted(columns, key=lambda column: (SCORES.index(column.name), column))


def effects(
    study: Sequence[Studied], component: int, value_of: Callable[[Studied], float | None]
) -> list[tuple[str, Effect]]:
    """Effects of one component, one per step between its neighbouring levels.

    Args:
        study: The runs.
        component: Index into `COMPONENTS`.
        value_of: The number that is compared; None where a run has none.

    Returns:
        `from -> to` and the effect.
    """
    members = {each.choices: value for each in study if each.choices and (value := value_of(each)) is not None}
    levels = sorted({choices[component] for choices in members}, key=_level)
    found = []
    for before, after in pairwise(levels):
        differences = []
        for choices, value in members.items():
            partner = (*choices[:component], before, *choices[component + 1 :])
            if choices[component] == after and partner in members:
                differences.append(value - members[partner])
        if differences:
            effect = Effect(fmean(differences), min(differences), max(differences), len(differences))
            found.append((f"{_word(before)} → {_word(after)}", effect))
    return found


def _level(choice: Any) -> Any:
    return len(choice) if isinstance(choice, list) else choice


def _word(choice: Any) -> str:
    return {True: "on", False: "off"}[choice] if isinstance(choice, bool) else str(choice)


def control_value(study: Iterable[Studied], column: QualityColumn, cost: float) -> float | None:
    """What `fewer_steps` scores at a cost, between its two neighbouring runs; None outside their range."""
    points = sorted(
        (each.cost, each.row.quality.cells[column].value)
        for each in study
        if each.label.startswith((CONTROL, BASELINE)) and column in each.row.quality.cells
    )
    for (low, first), (high, second) in pairwise(points):
        if low <= cost <= high:
            return first if high == low else first + (second - first) * (cost - low) / (high - low)
    return None


def verdict(cell: QualityCell, control: float, direction: str) -> str:
    """Whether a strategy's score is better than the control's; `=` if its interval holds the control's value."""
    if cell.low is not None and cell.high is not None and cell.low <= control <= cell.high:
        return "="
    better = cell.value > control if direction == "higher" else cell.value < control
    return "better" if better else "worse"


# ---------------------------------------------------------------------- Markdown


def markdown(study: Sequence[Studied]) -> str:
    """The whole study."""
    columns = score_columns(study)
    parts = [_runs_table(study, columns), _effects_table(study, columns)]
    if columns:
        parts.append(_control_table(study, columns))
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---"] * len(titles))]


def _title(column: QualityColumn) -> str:
    arrow = {"lower": " ↓", "higher": " ↑"}.get(column.direction, "")
    return f"{column.name}{arrow} ({column.label}, n={column.n})"


def _cell(cell: QualityCell | None) -> str:
    if cell is None:
        return "n/a"
    interval = "" if cell.low is None else f" [{number(cell.low, 3)}, {number(cell.high, 3)}]"
    return f"{number(cell.value, 3)}{interval}"


def _runs_table(study: Sequence[Studied], columns: Sequence[QualityColumn]) -> str:
    timed = any(each.time is not None for each in study)
    times = ["denoising time", "follower: time over FLOPs"] if timed else []
    lines = ["### Every run, by cost", "", *_head(["strategy", "FLOPs", *times, *map(_title, columns), "run"])]
    for each in study:
        cells = [_cell(each.row.quality.cells.get(column)) for column in columns]
        spent = [_time(each), number(each.follower, 3)] if timed else []
        lines.append(_line([each.label, f"{each.cost:.3f}", *spent, *cells, each.row.run_id]))
    return "\n".join(lines)


def _time(each: Studied) -> str:
    speedup = each.row.speedup
    if each.time is None or speedup.low is None or speedup.high is None:
        return number(each.time, 3)
    return f"{number(each.time, 3)} [{number(1 / speedup.high, 3)}, {number(1 / speedup.low, 3)}] n={speedup.n}"


def _effects_table(study: Sequence[Studied], columns: Sequence[QualityColumn]) -> str:
    values: dict[str, Callable[[Studied], float | None]] = {
        "FLOPs": lambda each: each.cost,
        "denoising time": lambda each: each.time,
    }
    for column in columns:
        values[_title(column)] = lambda each, column=column: _value(each, column)  # type: ignore[misc]
    if all(each.time is None for each in study):
        del values["denoising time"]
    rows = []
    for index, component in enumerate(COMPONENTS):
        by_change: dict[str, dict[str, Effect]] = {}
        for title, value_of in values.items():
            for change, effect in effects(study, index, value_of):
                by_change.setdefault(change, {})[title] = effect
        for change, found in by_change.items():
            pairs = max(effect.pairs for effect in found.values())
            cells = [_effect(found.get(title)) for title in values]
            rows.append(_line([f"{component.name}: {change}", str(pairs), *cells]))
    if not rows:
        return ""
    head = ["### Effect of each component", "", "Mean difference over all pairs of runs that differ in it alone", ""]
    head[2] += " (smallest to largest in brackets)."
    return "\n".join([*head, *_head(["component", "pairs", *values]), *rows])


def _value(each: Studied, column: QualityColumn) -> float | None:
    cell = each.row.quality.cells.get(column)
    return None if cell is None else cell.value


def _effect(effect: Effect | None) -> str:
    if effect is None:
        return "n/a"
    return f"{effect.mean:+.3g} [{effect.low:+.3g}, {effect.high:+.3g}]"


def _control_table(study: Sequence[Studied], columns: Sequence[QualityColumn]) -> str:
    lines = [
        f"### Against `{CONTROL}` at the same cost",
        "",
        f"The score, and in brackets what `{CONTROL}` scores at that cost (linear between its neighbouring runs); `=`"
        " where the strategy's interval holds that value.",
        "",
        *_head(["strategy", "FLOPs", *map(_title, columns)]),
    ]
    for each in study:
        if each.label.startswith((CONTROL, BASELINE)):
            continue
        cells = []
        for column in columns:
            cell, control = each.row.quality.cells.get(column), control_value(study, column, each.cost)
            if cell is None or control is None:
                cells.append("n/a")
                continue
            word = verdict(cell, control, column.direction)
            cells.append(f"{word} {number(cell.value, 3)} ({number(control, 3)})")
        lines.append(_line([each.label, f"{each.cost:.3f}", *cells]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lcp_bench.report.study", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the sweep's records (default: runs)")
    parser.add_argument("--out", type=Path, help="file for the Markdown (default: print it)")
    options = parser.parse_args(arguments)
    try:
        text = markdown(read_study(options.runs))
        if options.out is None:
            print(text, end="")
        else:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(text, encoding="utf-8")
    except LcpBenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
