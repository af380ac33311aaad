"""Hypergradient descent on θ = log λ: by scipy's L-BFGS-B, or by gradient steps whose length adapts.

The criterion is smooth between kinks and continuous across them, with a conservative gradient there. It is not convex,
so that a descent finds a local minimum; for one or two hyperparameters a coarse grid before it (``best_on_grid``) makes
that a good one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import numpy as np
from scipy.optimize import minimize as scipy_minimize

from conelayers.lasso.checks import checked_integer, checked_logarithms, checked_positive
from conelayers.lasso.criteria import Criterion, Evaluation
from conelayers.lasso.requirements import progress_bar
from conelayers.support.arguments import as_flag, described
from conelayers.support.errors import as_member

__all__ = ["Descent", "Record", "Tuning", "best_on_grid", "tune"]

_GROW, _SHRINK = 2.0, 0.25  # factors of the length of a gradient step after a success and after a failure
_ARMIJO = 1e-4  # the part of the decrease that the slope promises from which a step is accepted


@final
class Descent(Enum):
    """How to descend; the string of a member is accepted too.

    - LBFGS: scipy.optimize's L-BFGS-B.
    - GRADIENT: gradient steps, doubled after a success and quartered after a failure.
    """

    LBFGS = "lbfgs"
    GRADIENT = "gradient"


@final
@dataclass(frozen=True)
class Record:
    """One evaluation of the criterion.

    seconds: the time since the start.
    value: the criterion.
    slope: the largest entry of its gradient.
    best: whether no evaluation before was better.
    """

    seconds: float
    value: float
    slope: float
    best: bool


@final
@dataclass(frozen=True, eq=False)
class Tuning:
    """What a descent has found.

    best: the best evaluation, with θ, value, gradient and solutions.
    history: all evaluations.
    converged: whether the projected gradient or the last decrease fell below the tolerance.
    reason: why the descent ended, in words.
    """

    best: Evaluation
    history: tuple[Record, ...]
    converged: bool
    reason: str

    @property
    def log_hyperparameters(self) -> np.ndarray:
        """θ (m,)."""
        return self.best.log_hyperparameters

    @property
    def hyperparameters(self) -> np.ndarray:
        """λ = e^θ (m,)."""
        return np.exp(self.best.log_hyperparameters)

    @property
    def value(self) -> float:
        """The criterion at the best θ."""
        return self.best.value

    def __str__(self) -> str:
        first, last = self.history[0], self.history[-1]
        how = "converged" if self.converged else "stopped"
        return (
            f"{how} ({self.reason}): criterion {first.value:.6g} → {self.value:.6g} in {len(self.history)} "
            f"evaluations, {last.seconds:.2f} s; largest entry of the gradient {np.abs(self.best.gradient).max():.1e}"
        )


def tune(
    criterion: Criterion,
    start: np.ndarray | float | Evaluation,
    *,
    method: Descent | str = Descent.LBFGS,
    steps: int = 100,
    tolerance: float = 1e-6,
    bounds: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    progress: bool = False,
    verbose: bool = False,
) -> Tuning:
    """Minimize the criterion from ``start``, θ (m,) or an evaluation to begin with.

    method: how to descend.
    steps: the most steps of L-BFGS-B, which may evaluate twice as often, or evaluations of the gradient method.
    tolerance: on the gradient's largest entry relative to the criterion, on steps along it in log λ (at a kink), and to
    the power 1.5 on the relative decrease in a step.
    bounds: (low, high) for θ, numbers or (m,); by default 10 below and 0.5 above the θ at which w = 0 (beyond it the
    gradient is zero), and 15 around the start where there is no such θ.
    progress: whether a tqdm bar is shown.
    verbose: whether a line is printed for each evaluation.

    Every solve starts at the solutions of the evaluation before. Raises ValueError for a start outside of the bounds or
    of the wrong size, ImportError for progress=True without tqdm.
    """
    checked_criterion(criterion)
    method, verbose = as_member(Descent, "method", method), as_flag("verbose", verbose)
    progress = as_flag("progress", progress)
    steps, tolerance = checked_integer("steps", steps), checked_positive("tolerance", tolerance)
    m = criterion.hyperparameters
    theta = start.log_hyperparameters if isinstance(start, Evaluation) else checked_logarithms(start, m, "start")
    low, high = _bounds(criterion, theta, bounds)
    bar = progress_bar(progress, steps * (2 if method is Descent.LBFGS else 1), "hypergradient descent")
    journal = _Journal(criterion, start if isinstance(start, Evaluation) else None, bar, verbose)
    try:
        run = _lbfgs if method is Descent.LBFGS else _gradient
        converged, reason = run(journal, theta, low, high, steps, tolerance)
    finally:
        if bar is not None:
            bar.close()
    assert journal.best is not None
    return Tuning(journal.best, tuple(journal.records), converged, reason)


def checked_criterion(criterion: Any) -> None:
    """Raises TypeError for anything that is no criterion."""
    if not isinstance(criterion, Criterion):
        raise TypeError(
            f"criterion: got {described(criterion)}, expected HoldOut(…), CrossValidation(…) or another Criterion"
        )


def best_on_grid(criterion: Criterion, grid: Iterable[np.ndarray | float]) -> Evaluation:
    """The best evaluation on a grid of θ; each solve starts at the solutions for the θ before it."""
    checked_criterion(criterion)
    if not isinstance(grid, Iterable) or isinstance(grid, str):
        raise TypeError(f"grid: got {grid!r}, expected a sequence of θ; write [{grid!r}]")
    best, last = None, None
    for theta in grid:
        last = criterion.evaluate(theta, last)  # type: ignore[arg-type]
        if best is None or last.value < best.value:
            best = last
    if best is None:
        raise ValueError("grid: got no point, expected at least one θ")
    return best


@final
class _Journal:
    """Evaluates a criterion with warm starts, and keeps the best evaluation and the records of all."""

    def __init__(self, criterion: Criterion, known: Evaluation | None, bar: Any, verbose: bool) -> None:
        self._criterion, self._bar, self._verbose = criterion, bar, verbose
        self._begin = time.perf_counter()
        self.last, self.best = known, known
        self.records: list[Record] = []

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        if self.best is not None and np.array_equal(theta, self.best.log_hyperparameters):
            self.last = self.best
        elif self.last is None or not np.array_equal(theta, self.last.log_hyperparameters):
            self.last = self._criterion.evaluate(theta, self.last)
        here = self.last
        best = self.best is None or here is self.best or here.value < self.best.value
        if best:
            self.best = here
        slope = float(np.abs(here.gradient).max())
        self.records.append(Record(time.perf_counter() - self._begin, here.value, slope, best))
        if self._verbose:
            print(f"  evaluation {len(self.records):3d}   criterion {here.value:.6g}   gradient {slope:.1e}")
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix(criterion=f"{self.best.value:.5g}" if self.best else "")
        return here


def _lbfgs(
    journal: _Journal, theta: np.ndarray, low: np.ndarray, high: np.ndarray, steps: int, tolerance: float
) -> tuple[bool, str]:
    first = journal.evaluate(theta)
    size, slope = abs(first.value) or 1.0, float(np.abs(first.gradient).max())
    # L-BFGS-B's first step is the gradient itself: in these units it moves a hyperparameter by a factor of about 1.6.
    scale = 0.5 / max(slope, 1e-3 * size)

    def scaled(t: np.ndarray) -> tuple[float, np.ndarray]:
        here = first if np.array_equal(t, theta) else journal.evaluate(t)
        return here.value * scale, here.gradient * scale

    result = scipy_minimize(
        scaled, theta, jac=True, method="L-BFGS-B", bounds=np.column_stack([low, high]),
        options={
            "maxiter": steps,
            "maxfun": 2 * steps,
            "gtol": tolerance * size * scale,
            "ftol": tolerance**1.5,
            "maxls": 8,
        },
    )  # fmt: skip
    left = 2 * steps - len(journal.records)
    if result.status == 2 and left > 1 and journal.best is not None:
        # The line search found no decrease: gradient steps go on.
        return _gradient(journal, journal.best.log_hyperparameters, low, high, left, tolerance)
    return bool(result.success), f"L-BFGS-B: {str(result.message).strip()}"


def _gradient(
    journal: _Journal, theta: np.ndarray, low: np.ndarray, high: np.ndarray, steps: int, tolerance: float
) -> tuple[bool, str]:
    here = journal.evaluate(theta)
    size = abs(here.value) or 1.0
    length = 1.0 / max(float(np.abs(here.gradient).max()), 1e-12 * size)  # a first step of 1 in log λ
    for _ in range(steps - 1):
        theta = here.log_hyperparameters
        move = np.clip(theta - here.gradient, low, high) - theta
        if np.abs(move).max() <= tolerance * size:
            return True, "the projected gradient is below the tolerance"
        new = np.clip(theta - np.clip(length * here.gradient, -3.0, 3.0), low, high)
        there = journal.evaluate(new)
        if there.value <= here.value + _ARMIJO * float(here.gradient @ (new - theta)):
            small = here.value - there.value <= tolerance**1.5 * size
            here, length = there, _GROW * length
            if small:
                return True, "the decrease is below the tolerance"
        else:
            length *= _SHRINK
            if np.abs(new - theta).max() < tolerance:
                return True, "no longer step along the gradient than the tolerance lowers the criterion: a kink"
    return False, f"{steps} evaluations were allowed"


def _bounds(
    criterion: Criterion, theta: np.ndarray, bounds: tuple[float | np.ndarray, float | np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    if bounds is None:
        largest = criterion.largest
        known = np.isfinite(largest)
        top = float(np.max(largest[known], initial=-np.inf))
        low, high = np.where(known, top - 10.0, theta - 15.0), np.where(known, top + 0.5, theta + 15.0)
        return np.minimum(low, theta), np.maximum(high, theta)
    try:
        low, high = (np.broadcast_to(np.asarray(b, dtype=np.float64), theta.shape) for b in bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"bounds: got {bounds!r}, expected (low, high), each a number or {theta.shape}, one for each hyperparameter"
        ) from error
    if not (low <= high).all() or not ((low <= theta) & (theta <= high)).all():
        raise ValueError(f"bounds: got {bounds!r} for a start at {theta}, expected low ≤ start ≤ high")
    return low, high
