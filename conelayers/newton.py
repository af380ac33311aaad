"""Semismooth Newton steps on the residual map: a solver's answer is polished to machine precision.

A step solves J(D)·[dx; dv] = −F, which is the reduced KKT system (kkt/factorization.py) with r = −F. Near a solution
where J is invertible it converges superlinearly (Qi, Sun 1993); the iterate with the smallest ‖F‖ is returned.
"""

from __future__ import annotations

import numpy as np

from conelayers.cones import ProductElement
from conelayers.kkt import Factorization, factorize
from conelayers.program import ConeProgram
from conelayers.residual import Point, evaluate

__all__ = ["polish"]

_NEAR = 1e-9
_DIVERGED = 1e6


def polish(
    program: ConeProgram, x: np.ndarray, v: np.ndarray, *, tolerance: float, max_steps: int, jobs: int
) -> tuple[Point, Factorization | None]:
    """Newton steps from (x, v) until the scaled residual is below ``tolerance`` or stalls, each instance by itself.

    Returns the best point of every instance, and the factorization of the last step where it is also that of the point:
    D is piecewise constant on polyhedral cones.
    """
    best_x, best_v = x.copy(), v.copy()
    best = evaluate(program, x, v).norm(program)
    todo = np.flatnonzero(best > tolerance)
    current = (x[todo], v[todo])
    last: tuple[ProductElement, Factorization] | None = None
    for _ in range(max_steps):
        if todo.size == 0:
            break
        part = program.take(todo)
        local = evaluate(part, *current)
        factorization = factorize(part, local.element, jobs)
        if todo.size == program.batch:
            last = local.element, factorization
        dx, dy = factorization.solve(-local.F1, local.F2)
        candidate_x, candidate_v = local.x + dx, local.v + part.Ax(dx) - local.F2 + dy
        usable = np.isfinite(candidate_x).all(axis=1) & np.isfinite(candidate_v).all(axis=1)
        candidate_x[~usable], candidate_v[~usable] = 0.0, 0.0
        error = evaluate(part, candidate_x, candidate_v).norm(part)
        before = best[todo]
        better = usable & (error < before)
        chosen = todo[better]
        best_x[chosen], best_v[chosen], best[chosen] = candidate_x[better], candidate_v[better], error[better]
        # Far from the solution the error may rise while the active set settles; near it, no progress means rounding.
        stalled = (before <= _NEAR) & (error > 0.5 * before)
        keep = usable & ~stalled & (error > tolerance) & (error < _DIVERGED)
        todo, current = todo[keep], (candidate_x[keep], candidate_v[keep])
    point = evaluate(program, best_x, best_v)
    if last is not None and point.element.is_diagonal and np.array_equal(last[0].values, point.element.values):
        return point, last[1]
    return point, None
