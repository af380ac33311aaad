"""Problems that take their parameter's attribute at its word, with values on its edge and values that slip off it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import numpy as np

from conelayers import Layer

__all__ = ["CASES", "SEED", "Case", "right_answer"]

SEED = np.array([1.0, 3.0])


@dataclass(frozen=True)
class Case:
    """``right`` is on the edge of the attribute, ``away`` a direction that leaves it."""

    problem: cp.Problem
    parameter: cp.Parameter
    variable: cp.Variable
    right: np.ndarray
    away: np.ndarray

    def slipped(self, slip: float) -> np.ndarray:
        return self.right + slip * self.away


def right_answer(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The solution, and the gradient for SEED, at the value on the edge."""
    solution = Layer(case.problem, [case.parameter], [case.variable], singular="least_squares").solve(case.right)
    return solution.variables[0], solution.vjp(SEED)[0]


def _case(
    objective: Callable[[cp.Parameter, cp.Variable], cp.Expression],
    right: list[float] | float | np.ndarray,
    away: list[float] | float | np.ndarray,
    *constraints: Callable[[cp.Parameter, cp.Variable], cp.Constraint],
    **attributes: object,
) -> Callable[[], Case]:
    def make() -> Case:
        value = np.array(right, dtype=float)
        w, x = cp.Parameter(value.shape, name="w", **attributes), cp.Variable(2, name="x")
        problem = cp.Problem(cp.Minimize(objective(w, x)), [c(w, x) for c in constraints])
        return Case(problem, w, x, value, np.array(away, dtype=float))

    return make


_COST = np.array([1.0, 2.0])

CASES: dict[str, Callable[[], Case]] = {
    # Unbounded for a negative weight: x₁ − ε·|x₁| … over a half line.
    "nonneg, a weight": _case(
        lambda w, x: w * cp.norm1(x) + cp.sum_squares(x[:1] - 1), 0.0, -1.0, lambda w, x: x[1] >= 3 * x[0], nonneg=True
    ),
    "nonneg, of squares": _case(
        lambda w, x: w @ cp.square(x) + _COST @ x, [2.0, 0.0], [0.0, -1.0], lambda w, x: x >= -1, nonneg=True
    ),
    "nonpos": _case(lambda w, x: -w * cp.sum_squares(x) + _COST @ x, 0.0, 1.0, lambda w, x: x >= -1, nonpos=True),
    "nonneg, under a root": _case(
        lambda w, x: cp.sum_squares(x - cp.sqrt(w + 1e-4)), [4.0, 0.0], [0.0, -1.0], nonneg=True
    ),
    "nonneg, in a product": _case(
        lambda w, x: cp.sum_squares(x - 1) + w[0] * cp.abs(x[0] - w[1]), [0.0, 0.5], [-1.0, 0.0], nonneg=True
    ),
    "bounds": _case(
        lambda w, x: cp.sum_squares(x - w), [0.0, 1.0], [-1.0, 1.0], lambda w, x: cp.norm(x) <= 10, bounds=[0, 1]
    ),
    "PSD": _case(
        lambda w, x: cp.quad_form(x, w) + _COST @ x,
        [[1.0, 1.0], [1.0, 1.0]],
        [[-1.0, 1.0], [1.0, -1.0]],
        lambda w, x: x >= -1,
        PSD=True,
    ),
    "NSD": _case(
        lambda w, x: -cp.quad_form(x, w) + _COST @ x,
        [[-1.0, -1.0], [-1.0, -1.0]],
        [[1.0, -1.0], [-1.0, 1.0]],
        lambda w, x: x >= -1,
        NSD=True,
    ),
    "boolean": _case(
        lambda w, x: cp.sum_squares(x - _COST),
        [1.0, 0.0],
        [1.0, -1.0],
        lambda w, x: cp.abs(x) <= 1000 * w,
        boolean=True,
    ),
    "integer": _case(lambda w, x: cp.sum_squares(x - w), [3.0, 1.0], [1.0, -1.0], lambda w, x: x <= 2, integer=True),
}
