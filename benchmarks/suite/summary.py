"""What the measurements say: ratios with accuracy beside them, and which of the targets are met."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from benchmarks.suite.contenders import LIMITS
from benchmarks.suite.row import Row

__all__ = ["Ratio", "Target", "ratio_lines", "ratios", "speed_targets"]

OURS, BASELINE = "conelayers", "cvxpylayers"
RESIDUAL, GRADIENT = 1e-9, 1e-8


@final
@dataclass(frozen=True)
class Ratio:
    """A contender's time over ours on one case."""

    ours: Row
    other: Row
    value: float


@final
@dataclass(frozen=True)
class Target:
    """A target of the project with what was measured; measured None: not in this run."""

    what: str
    measured: str | None
    met: bool | None

    def line(self) -> str:
        verdict = "not measured" if self.met is None else "met" if self.met else "MISSED"
        return f"  {verdict:13}{self.what}: {self.measured or '–'}"


def geometric_mean(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


def by_family(found: Sequence[Ratio]) -> dict[str, float]:
    """The geometric mean of each family."""
    families = dict.fromkeys(r.ours.family for r in found)
    return {f: geometric_mean(r.value for r in found if r.ours.family == f) for f in families}


def ratios(rows: Sequence[Row], other: str, time: Callable[[Row], float | None] = lambda row: row.total) -> list[Ratio]:
    """other / ours on every case that both finished; the other's wrong answers included."""
    ours = {row.case: row for row in rows if row.contender == OURS and row.total is not None}
    pairs = [(ours[row.case], row) for row in rows if row.contender == other and row.case in ours]
    timed = [(a, b, time(a), time(b)) for a, b in pairs]
    return [Ratio(a, b, t_b / t_a) for a, b, t_a, t_b in timed if t_a and t_b]


def ratio_lines(rows: Sequence[Row]) -> list[str]:
    """forward + backward of every contender over ours."""
    header = f"{'':26}{'families':>9}{'geo. mean':>11}{'worst':>9}  {'where':24}{'gradient error, median':>24}{'wrong':>7}{'failed':>8}"
    lines = ["Time of forward + backward over that of conelayers:", header]
    for name in dict.fromkeys(row.contender for row in rows):
        if name == OURS or name in LIMITS:
            continue
        found = ratios(rows, name)
        mine = [row for row in rows if row.contender == name and row.refusal is None]
        failed = sum(bool(row.failures) for row in mine)
        if not found:
            lines.append(f"{name:26}{0:9}" + (f"   failed on {failed}" if failed else ""))
            continue
        means, worst = by_family(found), min(found, key=lambda r: r.value)
        gradient = [
            r.other.accuracy.gradient for r in found if r.other.accuracy and r.other.accuracy.gradient is not None
        ]
        lines.append(
            f"{name:26}{len(means):9}{geometric_mean(means.values()):11.1f}{worst.value:9.2f}  "
            f"{_case(worst.ours):24}{np.median(gradient) if gradient else np.nan:24.0e}"
            f"{sum(row.wrong for row in mine):7}{failed:8}"
        )
    own = [row.accuracy.gradient for row in rows if row.contender == OURS and row.accuracy]
    if own:
        lines.append(f"{OURS:26}{'':9}{1:11.1f}{'':9}  {'':24}{np.median(own):24.0e}")
    return lines


def _case(row: Row) -> str:
    return f"{row.family} {row.label}" + (f", B={row.batch}" if row.batch > 1 else "")


def _best(rows: Sequence[Row], warm: bool) -> list[Ratio]:
    """The fastest other contender that is not wrong, over ours, on every case; one that cannot start warm starts cold."""
    others = [
        name for name in dict.fromkeys(r.contender for r in rows) if not name.startswith(OURS) and name not in LIMITS
    ]

    def time(row: Row) -> float | None:
        return row.total if not warm or row.warm_total is None else row.warm_total

    found = [r for name in others for r in ratios(rows, name, time) if not r.other.wrong]
    if warm:
        found = [r for r in found if r.ours.warm_total is not None]
    cases = dict.fromkeys(r.ours.case for r in found)
    return [min((r for r in found if r.ours.case == case), key=lambda r: r.value) for case in cases]


def speed_targets(rows: Sequence[Row]) -> list[Target]:
    """Accuracy, against cvxpylayers, against the best."""
    targets = [_accuracy_target(rows)]
    found = ratios(rows, BASELINE)
    if found:
        mean, worst = geometric_mean(by_family(found).values()), min(found, key=lambda r: r.value)
        targets.append(Target("≥ 20× cvxpylayers, geometric mean over families", f"{mean:.1f}×", mean >= 20))
        targets.append(Target("nowhere below 3×", f"{worst.value:.2f}× on {_case(worst.ours)}", worst.value >= 3))
    for warm, factor in ((False, 1.0), (True, 3.0)):
        best = _best(rows, warm)
        if not best:
            continue
        worst = min(best, key=lambda r: r.value)
        missed = [f"{_case(r.ours)} {r.value:.2f}× ({r.other.contender})" for r in best if r.value < factor]
        what = f"≥ {factor:g}× the best contender on every case, {'warm' if warm else 'cold'}"
        measured = f"worst {worst.value:.2f}× on {_case(worst.ours)} ({worst.other.contender}); {len(best) - len(missed)} of {len(best)} cases"
        if missed:
            measured += "\n" + "\n".join(f"{'':17}missed: {m}" for m in missed)
        targets.append(Target(what, measured, not missed))
    return targets


def _accuracy_target(rows: Sequence[Row]) -> Target:
    mine = [row for row in rows if row.contender == OURS and row.refusal is None]
    judged = [row for row in mine if row.accuracy is not None]
    what = f"KKT residual ≤ {RESIDUAL:g} and gradient error ≤ {GRADIENT:g}"
    if not judged:
        return Target(what, None, None)
    residual = max(judged, key=lambda row: row.accuracy.residual)
    gradient = max(judged, key=lambda row: row.accuracy.gradient)
    failed = sum(bool(row.failures) for row in mine)
    measured = (
        f"{residual.accuracy.residual:.0e} on {_case(residual)}, {gradient.accuracy.gradient:.0e} on {_case(gradient)}; "
        f"failures on {failed} of {len(mine)} cases"
    )
    met = residual.accuracy.residual <= RESIDUAL and gradient.accuracy.gradient <= GRADIENT and not failed
    return Target(what, measured, met)
