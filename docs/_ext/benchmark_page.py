"""Tables and plots of docs/benchmarks.md, from the JSON of ``python -m benchmarks.run --json docs/benchmarks/NAME.json``; nothing is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.suite.contenders import LIMITS
from benchmarks.suite.judge import Accuracy
from benchmarks.suite.row import WRONG_GRADIENT, WRONG_RESIDUAL, Quartiles, Row
from benchmarks.suite.summary import OURS, by_family, geometric_mean, ratios
from benchmarks.suite.table import seconds

__all__ = ["read_rows", "write"]

_NONE = """\
No results are committed yet: `docs/benchmarks/` holds no JSON file. Figures that were measured by hand, with how, stand in
[where the time goes](where_the_time_goes.md), [JAX](jax.md), [PyTorch](pytorch.md) and [Lasso-type hyperparameters](lasso.md).
"""


def write(docs: Path) -> None:
    """docs/_generated/benchmarks.md and its pictures, anew where the JSON is newer."""
    target = docs / "_generated"
    target.mkdir(exist_ok=True)
    parts = [_report(path, target) for path in sorted((docs / "benchmarks").glob("*.json"))]
    text = "\n".join(parts) or _NONE
    page = target / "benchmarks.md"
    if not page.exists() or page.read_text() != text:
        page.write_text(text)


def read_rows(result: dict[str, Any]) -> list[Row]:
    """The rows of a result."""
    rows = []
    for found in result["rows"]:
        values = dict(found)
        for name in ("forward", "backward", "warm_forward", "warm_backward"):
            values[name] = Quartiles(**values[name]) if values[name] else None
        for name in ("accuracy", "warm_accuracy"):
            values[name] = Accuracy(**values[name]) if values[name] else None
        rows.append(Row(**values))
    return rows


def _report(path: Path, target: Path) -> str:
    result = json.loads(path.read_text())
    rows = read_rows(result)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    kind = "a quick run" if result["quick"] else "a full run"
    text = f"## {path.stem.replace('_', ' ').capitalize()}\n\n{result['machine']}; {kind} of {result['minutes']:.0f} minutes. {versions}.\n\n"
    if result["missing"]:
        text += f"Not installed on that machine: {', '.join(result['missing'])}.\n\n"
    if result["left_out"]:
        text += f"No time was left for: {', '.join(result['left_out'])}.\n\n"
    others = [n for n in dict.fromkeys(r.contender for r in rows) if n != OURS and n not in LIMITS]
    if any(ratios(rows, name) for name in others):
        picture = f"benchmarks_{path.stem}.svg"
        _draw(rows, others, target / picture)
        text += f"![Time over ours and gradient error, by contender](_generated/{picture})\n\n{_ratios(rows, others)}\n"
    for family, group in groupby(rows, key=lambda row: row.family):
        text += f"### {family[0].upper()}{family[1:]}\n\n{_table(list(group))}\n"
    return text


def _ratios(rows: Sequence[Row], others: Sequence[str]) -> str:
    lines = [
        "Forward + backward over that of conelayers (geometric mean over families), the smallest such ratio, and wrong answers:",
        "",
        "| contender | families | mean | smallest | median gradient error | wrong | failed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in others:
        found = ratios(rows, name)
        mine = [r for r in rows if r.contender == name and r.refusal is None]
        failed, wrong = sum(bool(r.failures) for r in mine), sum(r.wrong for r in mine)
        if not found:
            lines.append(f"| {name} | 0 | – | – | – | {wrong} | {failed} |")
            continue
        means, worst = by_family(found), min(found, key=lambda r: r.value)
        errors = [
            r.other.accuracy.gradient for r in found if r.other.accuracy and r.other.accuracy.gradient is not None
        ]
        lines.append(
            f"| {name} | {len(means)} | {geometric_mean(means.values()):.2g}× | {worst.value:.2g}× ({worst.ours.family} {worst.ours.label}) "
            f"| {f'{np.median(errors):.0e}' if errors else '–'} | {wrong} | {failed} |"
        )
    own = [r.accuracy.gradient for r in rows if r.contender == OURS and r.accuracy and r.accuracy.gradient is not None]
    if own:
        lines.append(
            f"| {OURS} | | 1× | | {np.median(own):.0e} | {sum(r.wrong for r in rows if r.contender == OURS)} | |"
        )
    return "\n".join(lines) + "\n"


def _error(value: float | None, wrong: float) -> str:
    return "–" if value is None else f"{value:.0e}" + ("" if value <= wrong else " **!**")


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| case | contender | build | first call | forward | backward | warm forward | residual | gradient error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for row in rows:
        case = row.label + (f", batch {row.batch}" if row.batch > 1 else "")
        if row.refusal is not None:
            notes.append(f"{row.contender} on {case}: {row.refusal}")
            continue
        notes += [f"{row.contender} on {case} failed: {text}" for text in dict.fromkeys(row.failures)]
        forward, backward, warm = (
            seconds(q.median if q else None) for q in (row.forward, row.backward, row.warm_forward)
        )
        accuracy = row.accuracy
        lines.append(
            f"| {case} | {row.contender} | {seconds(row.build)} | {seconds(row.first)} | {forward} | {backward} | {warm} "
            f"| {_error(accuracy.residual if accuracy else None, WRONG_RESIDUAL)} | {_error(accuracy.gradient if accuracy else None, WRONG_GRADIENT)} |"
        )
    text = "\n".join(lines) + "\n"
    if notes:
        listed = "\n".join(f"- {' '.join(note.split())[:300]}" for note in dict.fromkeys(notes))
        text += f"\n:::{{dropdown}} Not asked, or failed\n{listed}\n:::\n"
    return text


def _draw(rows: Sequence[Row], others: Sequence[str], path: Path) -> None:
    """Each case of each contender: time over ours, and gradient error."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for k, name in enumerate(others):
        found = [r for r in ratios(rows, name) if r.other.accuracy and r.other.accuracy.gradient is not None]
        errors = [max(r.other.accuracy.gradient, 1e-17) for r in found]
        axes.loglog(
            [r.value for r in found], errors, "os^Dv<>"[k % 7], label=name, alpha=0.75, markersize=6, color=f"C{k}"
        )
    own = [
        max(r.accuracy.gradient, 1e-17)
        for r in rows
        if r.contender == OURS and r.accuracy and r.accuracy.gradient is not None
    ]
    axes.loglog(np.ones(len(own)), own, "k*", label=OURS, markersize=9, alpha=0.75)
    axes.axhline(WRONG_GRADIENT, color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="forward + backward, over conelayers' time on the same case", ylabel="gradient error")
    axes.legend(fontsize="small", loc="best")
    figure.savefig(path)
