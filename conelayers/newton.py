"""Semismooth Newton steps on the residual map: a solver's answer is polished to machine precision.

A step solves J(D)·[dx; dv] = −F, which is the reduced KKT system (kkt/factorization.py) with r = −F. Near a solution
where J is invertible it converges superlinearly (Qi, Sun 1993); a step is kept only where ‖F‖ decreases.
"""

from __future__ import annotations

import numpy as np

from conelayers.kkt import factorize
from conelayers.program import ConeProgram
from conelayers.residual import Point, evaluate

__all__ = ["polish"]


def polish(
    program: ConeProgram, x: np.ndarray, v: np.ndarray, *, tolerance: float, max_steps: int, jobs: int
) -> Point:
    """Newton steps from (x, v) until the scaled residual is below ``tolerance`` or stops decreasing, each instance by itself.

    Returns the best point of every instance.
    """
    point = evaluate(program, x, v)
    error = point.norm(program)
    todo = np.flatnonzero(error > tolerance)
    for _ in range(max_steps):
        if todo.size == 0:
            break
        part = program.take(todo)
        local = evaluate(part, point.x[todo], point.v[todo])
        dx, dy = factorize(part, local.element, jobs).solve(-local.F1, local.F2)
        dv = part.Ax(dx) - local.F2 + dy
        usable = np.isfinite(dx).all(axis=1) & np.isfinite(dv).all(axis=1)
        dx[~usable], dv[~usable] = 0.0, 0.0
        candidate = evaluate(part, local.x + dx, local.v + dv)
        candidate_error = candidate.norm(part)
        better = usable & (candidate_error < error[todo])
        if not better.any():
            break
        accepted = todo[better]
        x, v = point.x.copy(), point.v.copy()
        x[accepted], v[accepted] = candidate.x[better], candidate.v[better]
        progress = candidate_error < 0.5 * error[todo]
        error[accepted] = candidate_error[better]
        point = evaluate(program, x, v)
        todo = todo[better & progress & (candidate_error > tolerance)]
    return point
