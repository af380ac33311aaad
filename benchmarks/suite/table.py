"""The one table, as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from benchmarks.suite.row import WRONG_GRADIENT, WRONG_RESIDUAL, Quartiles, Row

__all__ = ["CAPTION", "render", "seconds"]

CAPTION = """\
Times are medians over rounds (of each turn's median) with [quartiles]; total: forward + backward; first: the first call, both
ways; warm: forward from the previous solution while the parameters move by 1%, for those who can. memory: growth of the
process from before the build to its peak. residual: KKT, relative, with the reference's multipliers; gradient: ‖g − g*‖ / max(1, ‖g*‖)
against a reference in higher accuracy; both the worst of up to 4 instances of the batch, at the first call; warm residual: the same
after a warm start. ! marks a wrong answer (residual > 1e-4 or gradient error > 1e-2). torch.set_num_threads(2) for everyone; other thread
settings are each contender's own. Everyone gets the same parameter values and cotangents; one process each, taking turns."""

COLUMNS = [
    ("contender", 26),
    ("build", 9),
    ("first", 9),
    ("forward", 26),
    ("backward", 26),
    ("total", 9),
    ("warm", 9),
    ("memory", 9),
    ("residual", 10),
    ("gradient", 10),
    ("warm res.", 10),
    ("failed", 7),
]


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _spread(quartiles: Quartiles | None) -> str:
    if quartiles is None:
        return "–"
    unit, size = next((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if quartiles.median >= s or u == "µs")
    low, median, high = (f"{v / size:.3g}" for v in (quartiles.low, quartiles.median, quartiles.high))
    return f"{median} {unit} [{low}, {high}]"


def _error(value: float | None, wrong: float) -> str:
    return "–" if value is None else f"{value:.0e}" + (" !" if not value <= wrong else "")


def _cells(row: Row) -> list[str]:
    accuracy, warm = row.accuracy, row.warm_accuracy
    return [
        row.contender,
        seconds(row.build),
        seconds(row.first),
        _spread(row.forward),
        _spread(row.backward),
        seconds(row.total),
        seconds(row.warm_forward.median if row.warm_forward else None),
        "–" if row.memory is None else f"{row.memory / 1e6:.{0 if row.memory >= 1e8 else 1}f} MB",
        _error(accuracy.residual if accuracy else None, WRONG_RESIDUAL),
        _error(accuracy.gradient if accuracy else None, WRONG_GRADIENT),
        _error(warm.residual if warm else None, WRONG_RESIDUAL),
        str(len(row.failures)) if row.failures else "–",
    ]


def _line(cells: Sequence[str]) -> str:
    widths = [width for _, width in COLUMNS]
    return f"{cells[0]:{widths[0]}}" + "".join(f"{c:>{w}}" for c, w in zip(cells[1:], widths[1:], strict=True))


def render(rows: Sequence[Row]) -> str:
    """The table by cases; below each, who was not asked and what failed."""
    lines = [_line([name for name, _ in COLUMNS])]
    for (family, _, batch), group in groupby(rows, key=lambda row: row.case):
        members = list(group)
        lines.append(f"── {family} {members[0].label}" + (f", batch {batch}" if batch > 1 else ""))
        lines += [_line(_cells(row)) for row in members if row.refusal is None]
        reasons = sorted({row.refusal for row in members if row.refusal is not None})
        lines += [f"   {', '.join(r.contender for r in members if r.refusal == why)}: {why}" for why in reasons]
        lines += [f"   {row.contender} failed: {text}" for row in members for text in dict.fromkeys(row.failures)]
    return "\n".join(lines)
