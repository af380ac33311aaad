"""Batches some of whose instances have no solution, for the tests of every adapter."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from conelayers import Status

LOST = {5: Status.PRIMAL_INFEASIBLE, 40: Status.DUAL_INFEASIBLE, 99: Status.PRIMAL_INFEASIBLE}

KEPT = [i for i in range(128) if i not in LOST]

FEW_LOST = [i for i in LOST if i < 64]  # of the first 64, for what takes longer

FEW_KEPT = [i for i in KEPT if i < 64]


def _problem(curved: bool):
    """minimize ‖x − c‖² + max(w, 0)-like terms: infeasible for u < 0, unbounded for e < 0."""
    x, t = cp.Variable(3, name="x"), cp.Variable(name="t")
    c, u, e = cp.Parameter(3, name="c"), cp.Parameter(name="u"), cp.Parameter(name="e")
    bound = [cp.norm(x) <= u] if curved else [x <= u, x >= -u]
    return cp.Problem(cp.Minimize(cp.sum_squares(x - c) + e * t), [*bound, t >= 0]), [c, u, e], [x]


def _values() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    c, u, e = rng.normal(size=(128, 3)), 0.3 + rng.random(128), 0.5 + rng.random(128)
    for i, status in LOST.items():
        (u if status is Status.PRIMAL_INFEASIBLE else e)[i] = -1.0
    return [c, u, e]
