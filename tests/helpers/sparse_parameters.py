"""A problem with a sparse parameter, and values of it."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

ROWS, COLS = np.array([0, 1, 2, 3, 0]), np.array([0, 1, 2, 0, 2])


def sparse_problem(**attributes):
    A, b, x = (
        cp.Parameter((4, 3), name="A", sparsity=(ROWS, COLS), **attributes),
        cp.Parameter(4, name="b"),
        cp.Variable(3),
    )
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + 0.1 * cp.sum_squares(x))), [A, b], [x]


def sparse_values() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    A = np.zeros((4, 3))
    A[ROWS, COLS] = rng.uniform(0.5, 1.5, 5)
    return A, rng.normal(size=4)
