"""HiGHS: the dual simplex method for linear programs, through SciPy. It ends at a vertex, or shows why there is none.

HiGHS says that a program is infeasible, but gives no certificate. Two more linear programs find one:

    minimize 1ᵀw  subject to  Ax + s ± w = b, s ≥ 0, w ≥ 0
    minimize qᵀx  subject to  Ax + s = 0, s ≥ 0, |x| ≤ 1

If the minimum of the first is positive, its multipliers y show that no x is feasible. If that of the second is
negative, its solution is a ray along which qᵀx falls without bound.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from conelayers.solve.backends.solver import Instance, RawSolution, Settings, Solver
from conelayers.support.errors import Status

__all__ = ["HiGHS"]

_SMALLEST_TOLERANCE = 1e-10  # HiGHS refuses smaller ones
_TOLERANCES = ("primal_feasibility_tolerance", "dual_feasibility_tolerance")
_OPTIMAL, _LIMIT, _INFEASIBLE, _UNBOUNDED = 0, 1, 2, 3  # linprog's status codes


class _LinearProgram(NamedTuple):
    """minimize qᵀx  subject to  Ax + s = b, where s is zero in the first ``zero`` rows and ≥ 0 in the others."""

    q: np.ndarray
    A: sp.csr_array
    b: np.ndarray
    zero: int

    def minimize(self, options: Mapping[str, Any], bounds: Any = (None, None)) -> Any:
        """linprog's result, for x within these bounds."""
        A, b, zero = self.A, self.b, self.zero
        equalities, inequalities = {"A_eq": A[:zero], "b_eq": b[:zero]}, {"A_ub": A[zero:], "b_ub": b[zero:]}
        return linprog(self.q, **equalities, **inequalities, bounds=bounds, method="highs-ds", options=dict(options))

    def slacks(self, x: np.ndarray) -> np.ndarray:
        """s, without what rounding leaves outside of the cone."""
        s = self.b - self.A @ x
        s[: self.zero] = 0.0
        return np.maximum(s, 0.0)

    def contradiction(self, options: Mapping[str, Any]) -> np.ndarray | None:
        """The multipliers y of the least violation of the constraints, 1ᵀw; None if there is a feasible x."""
        m, n = self.A.shape
        up = sp.eye_array(m, format="csr")
        down = sp.csr_array(up[:, : self.zero])
        wider = sp.hstack([self.A, -up, down], format="csr")
        cost = np.concatenate([np.zeros(n), np.ones(m + self.zero)])
        bounds = [(None, None)] * n + [(0, None)] * (m + self.zero)
        result = _LinearProgram(cost, wider, self.b, self.zero).minimize(options, bounds)
        return _multipliers(result) if result.status == _OPTIMAL and result.fun > 0 else None

    def falling_ray(self, options: Mapping[str, Any]) -> np.ndarray | None:
        """The direction within |x| ≤ 1 along which qᵀx falls fastest without leaving a constraint, if any."""
        result = self._replace(b=np.zeros_like(self.b)).minimize(options, (-1, 1))
        return result.x if result.status == _OPTIMAL and result.fun < 0 else None


@final
class HiGHS(Solver):
    """https://highs.dev, through scipy.optimize.linprog; eps sets both tolerances, max_iters sets maxiter."""

    name: ClassVar[str] = "HIGHS"
    cones: ClassVar[frozenset[str]] = frozenset({"zero", "nonneg"})
    quadratic: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = False
    first_tolerance: ClassVar[float] = _SMALLEST_TOLERANCE
    tight_tolerance: ClassVar[float] = _SMALLEST_TOLERANCE
    fallback_iterations: ClassVar[int] = 2**31 - 1  # HiGHS's own default: the simplex method ends by itself
    needs_rows: ClassVar[bool] = True
    tolerance_options: ClassVar[frozenset[str]] = frozenset(_TOLERANCES)
    time_option: ClassVar[str | None] = "time_limit"
    native_options: ClassVar[frozenset[str]] = frozenset({*_TOLERANCES, "presolve", "time_limit"})

    def _check_option(self, name: str, value: Any) -> None:
        if name == "presolve":
            if not isinstance(value, bool | np.bool_):
                raise TypeError("True or False")
            return
        least = _SMALLEST_TOLERANCE if name in _TOLERANCES else 0.0
        number = isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)
        if not number or value < least or value == 0:
            raise TypeError(f"a number of at least {least:g}" if least else "a positive number of seconds")

    def _solve(self, instance: Instance, settings: Settings, start: RawSolution | None) -> RawSolution:
        tolerance = max(settings.tolerance or self.tight_tolerance, _SMALLEST_TOLERANCE)
        options: dict[str, Any] = {**dict.fromkeys(_TOLERANCES, tolerance), "disp": settings.verbose}
        if settings.max_iters is not None:
            options["maxiter"] = settings.max_iters
        options |= dict(settings.native)
        program = _LinearProgram(instance.q, instance.A.tocsr(), instance.b, instance.cones.zero)
        result = program.minimize(options)
        message = str(result.message)
        if result.status == _OPTIMAL:
            return RawSolution(result.x, _multipliers(result), program.slacks(result.x), Status.SOLVED, message)
        no_x, no_y = np.full(instance.q.size, np.nan), np.full(instance.b.size, np.nan)
        if result.status == _LIMIT:
            status = Status.TIME_LIMIT if "time" in message.lower() else Status.ITERATION_LIMIT
            return RawSolution(no_x, no_y, no_y, status, message)
        # HiGHS does not always say whether a program is infeasible or unbounded: then both are tried.
        if result.status != _UNBOUNDED:
            y = program.contradiction(options)
            if y is not None:
                return RawSolution(no_x, y, no_y, Status.PRIMAL_INFEASIBLE, message)
        if result.status != _INFEASIBLE:
            ray = program.falling_ray(options)
            if ray is not None:
                return RawSolution(ray, no_y, no_y, Status.DUAL_INFEASIBLE, message)
        return RawSolution(no_x, no_y, no_y, Status.FAILED, message)


def _multipliers(result: Any) -> np.ndarray:
    """y in the order of our rows; linprog's marginals are the derivatives of the minimum by b, which are −y."""
    return -np.concatenate([result.eqlin.marginals, result.ineqlin.marginals])
