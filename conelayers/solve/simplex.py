"""Linear programs that interior points leave open: the simplex method of HiGHS, through SciPy, ends at a vertex or with a ray.

minimize 1ᵀw  subject to  Ax + s ± w = b, s ≥ 0, w ≥ 0      its multipliers show that there is no x, where its minimum is positive
minimize qᵀx  subject to  Ax + s = 0, s ≥ 0, |x| ≤ 1        its solution is a ray, where its minimum is negative
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import instance_values
from conelayers.solve.backends import RawSolution
from conelayers.solve.starting_methods import Start, StartingMethod, start_of
from conelayers.support.errors import Status
from conelayers.support.parallel import run_parallel

__all__ = ["Simplex", "contradiction"]

_TOLERANCE = 1e-10  # the smallest that HiGHS takes
_OPTIMAL, _LIMIT, _INFEASIBLE, _UNBOUNDED = 0, 1, 2, 3


@final
@dataclass(frozen=True)
class Simplex(StartingMethod):
    """Each instance by the dual simplex method."""

    trusted: bool = True
    proximal_steps: int = 12
    name: str = "HIGHS"

    @staticmethod
    def suits(structure: Structure) -> bool:
        """Whether the programs are linear ones."""
        return structure.P.nnz == 0 and structure.cones.kinds <= {"zero", "nonneg"} and structure.m > 0

    def start(self, program: ConeProgram, index: np.ndarray, jobs: int) -> Start:
        zero = program.structure.cones.zero

        def solve(i: int) -> RawSolution:
            return _solve(
                program.q[i], program.structure.A.matrix(instance_values(program.A, i)).tocsr(), program.b[i], zero
            )

        return start_of(program, run_parallel(solve, range(program.batch), jobs), self.trusted, jobs)


def _solve(q: np.ndarray, A: sp.csr_array, b: np.ndarray, zero: int) -> RawSolution:
    result = _linprog(q, A, b, zero, (None, None))
    if result.status == _OPTIMAL:
        return RawSolution(result.x, _multipliers(result), _slacks(A, b, result.x, zero), Status.SOLVED, result.message)
    nothing_x, nothing = np.full(q.size, np.nan), np.full(b.size, np.nan)
    if result.status == _LIMIT:
        return RawSolution(nothing_x, nothing, nothing, Status.ITERATION_LIMIT, result.message)
    if result.status != _UNBOUNDED:  # HiGHS does not always say which of the two it is
        y = contradiction(A, b, zero)
        if y is not None:
            return RawSolution(nothing_x, y, nothing, Status.PRIMAL_INFEASIBLE, result.message)
    if result.status != _INFEASIBLE:
        ray = _linprog(q, A, np.zeros_like(b), zero, (-1, 1))
        if ray.status == _OPTIMAL and ray.fun < 0:
            return RawSolution(ray.x, nothing, nothing, Status.DUAL_INFEASIBLE, result.message)
    return RawSolution(nothing_x, nothing, nothing, Status.FAILED, result.message)


def contradiction(A: sp.csr_array, b: np.ndarray, zero: int) -> np.ndarray | None:
    """y of the least violation of Ax + s = b, s zero in the first rows and ≥ 0 in the others; None where there is no violation."""
    m, n = A.shape
    up = sp.eye_array(m, format="csr")
    down = sp.csr_array(up[:, :zero])
    wider = sp.hstack([A, -up, down], format="csr")
    cost = np.concatenate([np.zeros(n), np.ones(m + zero)])
    bounds = [(None, None)] * n + [(0, None)] * (m + zero)
    result = _linprog(cost, wider, b, zero, bounds)
    return _multipliers(result) if result.status == _OPTIMAL and result.fun > 0 else None


def _linprog(q: np.ndarray, A: sp.csr_array, b: np.ndarray, zero: int, bounds: Any) -> Any:
    options = {"primal_feasibility_tolerance": _TOLERANCE, "dual_feasibility_tolerance": _TOLERANCE}
    return linprog(
        q, A_ub=A[zero:], b_ub=b[zero:], A_eq=A[:zero], b_eq=b[:zero], bounds=bounds, method="highs-ds", options=options
    )


def _multipliers(result: Any) -> np.ndarray:
    return -np.concatenate([result.eqlin.marginals, result.ineqlin.marginals])


def _slacks(A: sp.csr_array, b: np.ndarray, x: np.ndarray, zero: int) -> np.ndarray:
    s = b - A @ x
    s[:zero] = 0.0
    return np.maximum(s, 0.0)
