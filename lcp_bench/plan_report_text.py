"""A plan's document as text for people: tables of groups, scopes and work, in a unit that suits their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lcp_bench.open_plans import open_text
from lcp_bench.work_units import work_unit

CONVENTIONS = ("as_published", "executed")


def print_plan(console: Console, document: Mapping[str, Any]) -> None:
    """Print what `lcp_bench.plan_report.as_document` made."""
    least = "at least " if "decided_at_run_time" in document else ""
    console.print(
        f"{document['model']} ({document['size']}) with {document['accel']}: {document['steps']} steps, "
        f"{least}{len(document['key_steps'])} key"
    )
    if least:
        console.print(open_text(document))
    console.print(_group_table(document))
    console.print(_scope_table(document))
    _print_totals(console, document)


def _group_table(document: Mapping[str, Any]) -> Table:
    table = Table("key step", "followers", "scope of the followers", "evaluated", title="groups")
    for group in document["groups"]:
        followers = group["followers"]
        shown = f"{followers[0]}..{followers[-1]}" if len(followers) > 1 else "".join(map(str, followers))
        limit = document["largest_batch"] or len(followers)
        together = "as one batch" if len(followers) <= limit else f"in batches of up to {limit}"
        how = (together if group["parallel"] else "one by one") if followers else ""
        table.add_row(str(group["key"]), shown, group["scope"] or "", how)
    return table


def _scope_table(document: Mapping[str, Any]) -> Table:
    unit = work_unit(_both(scope["tflops_per_step"] for scope in document["scopes"].values()))
    headings = (f"{unit.name}/step as published", f"{unit.name}/step executed")
    table = Table("scope", "evaluates", "reads", *headings, title="scopes")
    for name, scope in document["scopes"].items():
        layers = "all layers" if name.startswith("full") else ", ".join(scope["evaluated"])
        for site, parts in scope.get("foreground", {}).items():
            layers += f"; {site}: {', '.join(parts)} attention in the foreground only"
        if "without_reference" in scope:
            layers += f"; no reference in {', '.join(scope['without_reference'])}"
        work = (unit.show(scope["tflops_per_step"][key], 3) for key in CONVENTIONS)
        table.add_row(name, layers, ", ".join(scope["reads"]), *work)
    return table


def _print_totals(console: Console, document: Mapping[str, Any]) -> None:
    rows = {"this plan": document["tflops_per_clip"], "unaccelerated": document["tflops_per_clip_unaccelerated"]}
    unit = work_unit(_both(rows.values()))
    first = f"per clip of {document['frames_per_clip']} frames"
    table = Table(first, "as published", "executed", title=f"work, {unit.name}")
    for label, work in rows.items():
        table.add_row(label, *(unit.show(work[key], 2) for key in CONVENTIONS))
    console.print(table)
    if "as_coded" in document:
        console.print(_as_coded_text(document["as_coded"]))
    around = document["tflops_around_per_clip"]
    unit = work_unit(around.values())
    parts = ", ".join(f"{name} {unit.show(work, 2)}" for name, work in around.items())
    console.print(f"around the denoising loop, {unit.name} per clip (executed): {parts}")
    console.print(
        f"speed-up bound: {document['speedup_bound']:.2f}x by executed work, "
        f"{document['speedup_bound_as_published']:.2f}x by published work, "
        f"{document['speedup_bound_free_followers']:.2f}x if followers were free"
    )
    console.print(f"feature cache: {document['cache_bytes'] / 1e6:.1f} MB")
    if "foreground_ratio_assumed" in document:
        share = document["foreground_ratio_assumed"]
        console.print(f"the foreground is assumed to be {share:.2%} of every map (accel.attention.assumed_ratio)")


def _as_coded_text(work: Mapping[str, float]) -> str:
    own, unaccelerated = work["tflops_per_clip"], work["tflops_per_clip_unaccelerated"]
    unit = work_unit([own, unaccelerated])
    return (
        "the published totals leave out the fused attention kernels; with them the published code computes "
        f"{unit.show(own, 2)} {unit.name}, unaccelerated {unit.show(unaccelerated, 2)} ({work['speedup_bound']:.2f}x)"
    )


def _both(works: Iterable[Mapping[str, float]]) -> list[float]:
    return [work[key] for work in works for key in CONVENTIONS]
