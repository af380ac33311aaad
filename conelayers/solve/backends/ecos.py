"""ECOS: an interior-point method for linear objectives over second-order and exponential cones."""

from __future__ import annotations

from typing import ClassVar, final

import ecos
import numpy as np
import scipy.sparse as sp

from conelayers.program.cones import Cones
from conelayers.solve.backends.layout import Native
from conelayers.solve.backends.solver import Instance, RawSolution, Settings, Solver
from conelayers.support.errors import Status

__all__ = ["ECOS"]

_STATUS = {
    0: Status.SOLVED,
    10: Status.INACCURATE,
    1: Status.PRIMAL_INFEASIBLE,
    11: Status.PRIMAL_INFEASIBLE,
    2: Status.DUAL_INFEASIBLE,
    12: Status.DUAL_INFEASIBLE,
    -1: Status.ITERATION_LIMIT,
    -2: Status.INACCURATE,  # numerical trouble: ECOS returns its best iterate, and our residuals decide
    -3: Status.INACCURATE,
}
_SIGINT = -4
_NO_ENTRIES = "not called: ECOS takes no equalities, and no cones, whose rows are all zero"


def _row_order(cones: Cones) -> np.ndarray:
    """ECOS's rows in terms of ours."""
    order = np.arange(cones.dimension)
    exponential = order[cones.dimension - 3 * cones.exp :].reshape(-1, 3)
    exponential[:] = exponential[:, [0, 2, 1]]
    return order


@final
class ECOS(Solver):
    """https://github.com/embotech/ecos, through its wheel; eps sets abstol, reltol and feastol.

    ECOS takes A₀x = b₀ for the zero cone's rows and Gx + s = h for the others, and orders an exponential cone (x, z,
    y).
    """

    name: ClassVar[str] = "ECOS"
    cones: ClassVar[frozenset[str]] = frozenset({"zero", "nonneg", "soc", "exp"})
    quadratic: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = False
    first_tolerance: ClassVar[float] = 1e-10
    tight_tolerance: ClassVar[float] = 1e-10
    fallback_iterations: ClassVar[int] = 200
    usual_iterations: ClassVar[int] = 100
    needs_rows: ClassVar[bool] = True
    tolerance_options: ClassVar[frozenset[str]] = frozenset({"abstol", "reltol", "feastol"})
    native_options: ClassVar[frozenset[str]] = frozenset(
        {"abstol", "reltol", "feastol", "abstol_inacc", "reltol_inacc", "feastol_inacc"}
    )

    def native(self, P: sp.csc_array, A: sp.csc_array, cones: Cones) -> Native:
        """A₀, the rows of the equalities, and G, the others; None for a matrix without rows."""
        zero, rows = cones.zero, A.tocsr()[_row_order(cones)]
        return _long(rows[:zero]) if zero else None, _long(rows[zero:]) if zero < A.shape[0] else None

    def _solve(self, instance: Instance, settings: Settings, start: RawSolution | None) -> RawSolution:
        tolerance = settings.tolerance or self.tight_tolerance
        options: dict[str, object] = {"abstol": tolerance, "reltol": tolerance, "feastol": tolerance}
        options["verbose"] = settings.verbose
        if settings.max_iters is not None:
            options["max_iters"] = settings.max_iters
        options |= dict(settings.native)
        cones = instance.cones
        zero, m = cones.zero, instance.b.size
        order = _row_order(cones)
        entries = np.bincount(instance.A.indices, instance.A.data != 0, m)
        if any(part.size and not part.any() for part in (entries[:zero], entries[zero:])):
            # ECOS would write past its arrays, and the process would die sooner or later (embotech/ecos, issue 167).
            nothing = np.full(m, np.nan)
            return RawSolution(np.full(instance.q.size, np.nan), nothing, nothing, Status.FAILED, _NO_ENTRIES)
        own, others = self._native(instance)
        equalities = (own, instance.b[:zero]) if zero else (None, None)
        dims = {"l": cones.nonneg, "q": list(cones.soc), "e": cones.exp}
        inequalities = (others, instance.b[order][zero:]) if zero < m else (None, None)
        result = ecos.solve(instance.q, *inequalities, dims, *equalities, **options)
        code = result["info"]["exitFlag"]
        if code == _SIGINT:
            raise KeyboardInterrupt
        y, s = np.zeros(m), np.zeros(m)
        if zero:
            y[:zero] = result["y"]
        y[order[zero:]] = result["z"]
        s[order[zero:]] = result["s"]
        message = f"{result['info'].get('infostring', '')} (exit code {code})"
        return RawSolution(np.asarray(result["x"]), y, s, _STATUS.get(code, Status.FAILED), message)


def _long(matrix: sp.csr_array) -> sp.csc_matrix:
    columns = sp.csc_array(matrix)
    columns.sort_indices()
    return sp.csc_matrix(
        (columns.data, columns.indices.astype(np.int64), columns.indptr.astype(np.int64)), shape=columns.shape
    )
