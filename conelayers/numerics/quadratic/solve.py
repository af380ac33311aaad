"""The solve of a batch, by the compiled kernel if there is one."""

from __future__ import annotations

import numpy as np

from conelayers.numerics.quadratic import algorithm, kernel
from conelayers.numerics.quadratic.solution import ActiveSetSolution

__all__ = ["solve_quadratic"]


def solve_quadratic(
    P: np.ndarray,
    q: np.ndarray,
    A: np.ndarray,
    b: np.ndarray,
    equalities: int,
    active: np.ndarray | None = None,
    jobs: int = 1,
) -> ActiveSetSolution:
    """minimize ½xᵀPx + qᵀx subject to Ax + s = b, s ∈ {0}^equalities × R₊, P ≻ 0, to machine precision.

    P (B, n, n) or (1, n, n) shared by all instances, symmetric; q (B, n); A (B, m, n) or (1, m, n) shared; b (B, m).
    ``active`` (B, m) bool is the active set to start from, such as y > 0 at a solution nearby. Each instance's Code
    tells how its solve ended; no exception is raised. The kernel runs on up to ``jobs`` threads if there is enough
    work.
    """
    implementation = kernel if kernel.AVAILABLE else algorithm
    return implementation.solve(P, q, A, b, equalities, active, jobs)
