"""Solutions and gradients in higher accuracy, from the conic data alone.

A tight interior-point solve, then Newton's method on the residual map

    F(x, v) = [ P x + AᵀΠ(v) + q ;  −A x + b − Π(v) + v ],   J = [ P , AᵀD ; −A , I − D ],   y = Π(v), s = y − v,

with Π the projection onto K*, residuals in np.longdouble and steps by a sparse LU of J; the gradients are those of
Jᵀ[λ; μ] = [g; 0], refined the same way. ``directional_gap`` compares them with differences of solutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import SuperLU, splu

from benchmarks.suite.bare import ClarabelSolver
from benchmarks.suite.case import Arrays, Model, Solved
from benchmarks.suite.conic_form import ConeData, ConicForm
from benchmarks.suite.projection import element, project

__all__ = ["Point", "directional_gap", "for_model", "solve", "solve_point"]

STEPS = 25
EXTENDED = np.longdouble


@final
@dataclass(frozen=True)
class Point:
    """A solution of one instance; residual is max |F| over max(1, largest entry of x and v)."""

    data: ConeData
    x: np.ndarray
    v: np.ndarray
    y: np.ndarray
    residual: float


def solve_point(data: ConeData) -> Point:
    """The tight solve and Newton's method, to where the residual falls no further."""
    tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
    x, y, s = ClarabelSolver(data, **tight).solve()
    if data.dims.exponential:
        raise ValueError("exponential cones: no Newton's method here")
    P, A = data.P.astype(EXTENDED), data.A.astype(EXTENDED)
    x, v = x.astype(EXTENDED), (y - s).astype(EXTENDED)

    def residual(x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[tuple[int, np.ndarray]]]:
        y, blocks = project(v, data.dims)
        return np.concatenate([P @ x + A.T @ y + data.q, data.b - A @ x - y + v]), y, blocks

    F, y, blocks = residual(x, v)
    for _ in range(STEPS):
        lu, J = _factor(data, blocks)
        step = _refined(lu, J, -F)
        candidate = x + step[: x.size], v + step[x.size :]
        F_new, y_new, blocks_new = residual(*candidate)
        if not np.abs(F_new).max() < np.abs(F).max():
            break
        (x, v), F, y, blocks = candidate, F_new, y_new, blocks_new
    scale = max(1.0, float(np.abs(x).max()), float(np.abs(v).max(initial=0)))
    return Point(data, x, v, y, float(np.abs(F).max()) / scale)


def solve(form: ConicForm, values: Arrays, cotangents: Arrays) -> Solved:
    """The variables of one instance and its gradients with respect to the parameters."""
    point = solve_point(form.data(values))
    x = point.x.astype(float)
    lu, J = _factor(point.data, project(point.v, point.data.dims)[1])
    rhs = np.concatenate([form.cotangent(cotangents), np.zeros(point.v.size)])
    adjoint = _refined(lu, J, rhs.astype(EXTENDED), transposed=True).astype(float)
    gradients = form.gradients(x, point.y.astype(float), adjoint[: x.size], adjoint[x.size :])
    return Solved(form.variables(x), gradients, point.residual, lambda variables: _check(form, point, variables))


def _check(form: ConicForm, point: Point, variables: Arrays) -> float:
    """The KKT residual of the point with these variables, the reference's auxiliary variables and its multipliers."""
    data, y = point.data, point.y.astype(float)
    x = form.replaced(point.x.astype(float), variables)
    slack, dual, linear = data.b - data.A @ x, data.A.T @ y, data.P @ x
    stationarity = np.abs(linear + dual + data.q).max() / (1 + max(np.abs(h).max() for h in (linear, dual, data.q)))
    outside = np.abs(project(-slack, data.dims)[0]).max() / (1 + np.abs(data.b).max())
    gap = abs(slack @ y) / (1 + abs(data.q @ x + x @ linear / 2))
    return float(max(stationarity, outside, gap))


def directional_gap(form: ConicForm, values: Arrays, cotangents: Arrays, solved: Solved, step: float = 1e-4) -> float:
    """|⟨gradients, d⟩ − fourth-order central difference| over max(1, ‖gradients‖), along one random direction d."""
    rng = np.random.default_rng(0)
    d = [rng.standard_normal(v.shape) * max(1e-3, float(np.sqrt(np.mean(v**2)))) for v in values]

    def along(t: float) -> float:
        point = solve_point(form.data([v + t * h for v, h in zip(values, d, strict=True)]))
        pairs = zip(cotangents, form.variables(point.x), strict=True)
        return float(sum(np.sum(g * x) for g, x in pairs))

    difference = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (12 * step)
    exact = sum(float(np.sum(g * h)) for g, h in zip(solved.gradients, d, strict=True))
    return abs(exact - difference) / max(1.0, float(np.sqrt(sum(np.sum(g**2) for g in solved.gradients))))


def _factor(data: ConeData, blocks: list[tuple[int, np.ndarray]]) -> tuple[SuperLU, sp.csc_array]:
    D = element(blocks)
    J = sp.csc_array(sp.block_array([[data.P, data.A.T @ D], [-data.A, sp.eye_array(D.shape[0]) - D]]))
    J.eliminate_zeros()
    return splu(J), J


def _refined(lu: SuperLU, J: sp.csc_array, rhs: np.ndarray, transposed: bool = False) -> np.ndarray:
    """J⁻¹ rhs (J⁻ᵀ rhs) with residuals in longdouble, while they fall."""
    matrix = (J.T if transposed else J).astype(EXTENDED)
    how = "T" if transposed else "N"
    solution = lu.solve(rhs.astype(float), how).astype(EXTENDED)
    left = rhs - matrix @ solution
    for _ in range(5):
        better = solution + lu.solve(left.astype(float), how)
        left_better = rhs - matrix @ better
        if not np.abs(left_better).max() < np.abs(left).max():
            break
        solution, left = better, left_better
    return solution


def for_model(model: Model, values: Arrays, cotangents: Arrays, form: ConicForm | None) -> Solved:
    """The family's own reference where it has one, otherwise the generic one."""
    if model.exact is not None:
        return model.exact(values, cotangents)
    return solve(form or ConicForm.compile(model), values, cotangents)
