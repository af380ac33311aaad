"""Clarabel: an interior-point method for all cones with a quadratic objective."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, final

import clarabel
import numpy as np
import scipy.sparse as sp

from conelayers.program.cones import Cones
from conelayers.solve.backends.layout import Native
from conelayers.solve.backends.solver import Instance, RawSolution, Settings, Solver, csc32
from conelayers.support.errors import Status
from conelayers.support.limits import halting_event

__all__ = ["Clarabel"]

_STATUS = {
    "Solved": Status.SOLVED,
    "AlmostSolved": Status.INACCURATE,
    "PrimalInfeasible": Status.PRIMAL_INFEASIBLE,
    "AlmostPrimalInfeasible": Status.PRIMAL_INFEASIBLE,
    "DualInfeasible": Status.DUAL_INFEASIBLE,
    "AlmostDualInfeasible": Status.DUAL_INFEASIBLE,
    "MaxIterations": Status.ITERATION_LIMIT,
    "MaxTime": Status.TIME_LIMIT,
    "InsufficientProgress": Status.INACCURATE,
    "NumericalError": Status.FAILED,
}


@cache
def _psd_order(n: int) -> np.ndarray:
    """Entry k of Clarabel's vector (upper triangle by columns) is entry order[k] of ours (lower by columns)."""
    position = np.empty((n, n), dtype=np.int64)
    cols, rows = np.triu_indices(n)
    position[rows, cols] = position[cols, rows] = np.arange(rows.size)
    return position[np.tril_indices(n)]  # a row of the lower triangle is a column of the upper one


@cache
def _row_order(cones: Cones) -> np.ndarray | None:
    """Clarabel's rows in terms of ours; None if they agree, as they do for matrices up to order 2."""
    if max(cones.psd, default=0) < 3:
        return None
    order = [np.arange(cones.zero + cones.nonneg + sum(cones.soc))]
    start = order[0].size
    for n in cones.psd:
        order.append(start + _psd_order(n))
        start += n * (n + 1) // 2
    order.append(np.arange(start, cones.dimension))
    return np.concatenate(order)


def _native_cones(cones: Cones) -> list[object]:
    native: list[object] = []
    if cones.zero:
        native.append(clarabel.ZeroConeT(cones.zero))
    if cones.nonneg:
        native.append(clarabel.NonnegativeConeT(cones.nonneg))
    native += [clarabel.SecondOrderConeT(d) for d in cones.soc]
    native += [clarabel.PSDTriangleConeT(n) for n in cones.psd]
    native += [clarabel.ExponentialConeT() for _ in range(cones.exp)]
    native += [clarabel.PowerConeT(a) for a in cones.power]
    return native


@final
class Clarabel(Solver):
    """https://clarabel.org, through its wheel; eps sets its three tolerances."""

    name: ClassVar[str] = "CLARABEL"
    cones: ClassVar[frozenset[str]] = frozenset({"zero", "nonneg", "soc", "psd", "exp", "power"})
    quadratic: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = False
    first_tolerance: ClassVar[float] = 1e-10
    tight_tolerance: ClassVar[float] = 1e-12
    fallback_iterations: ClassVar[int] = 200
    usual_iterations: ClassVar[int] = 100
    needs_rows: ClassVar[bool] = False
    tolerance_options: ClassVar[frozenset[str]] = frozenset({"tol_gap_abs", "tol_gap_rel", "tol_feas"})
    time_option: ClassVar[str | None] = "time_limit"
    iteration_option: ClassVar[str | None] = "max_iter"
    native_options: ClassVar[frozenset[str]] = frozenset(
        name for name in dir(clarabel.DefaultSettings()) if not name.startswith("_") and name != "default"
    )

    # Not among them are the limit of equilibration, which does not end by itself, and the number of threads.
    integer_options: ClassVar[frozenset[str]] = frozenset({"max_iter", "iterative_refinement_max_iter"})
    largest_integer: ClassVar[int] = 2**32 - 1

    def _check_option(self, name: str, value: Any) -> None:
        native = clarabel.DefaultSettings()
        try:
            setattr(native, name, value)
        except (TypeError, OverflowError) as error:
            raise TypeError(f"what its settings take, such as {getattr(native, name)!r} ({error})") from error

    def native(self, P: sp.csc_array, A: sp.csc_array, cones: Cones) -> Native:
        order = _row_order(cones)
        return csc32(sp.csc_array(sp.triu(P))), csc32(A if order is None else sp.csc_array(A.tocsr()[order]))

    def _solve(self, instance: Instance, settings: Settings, start: RawSolution | None) -> RawSolution:
        native = clarabel.DefaultSettings()
        native.verbose = settings.verbose
        native.max_threads = 1  # the instances of a batch run in parallel instead
        tolerance = settings.tolerance or self.tight_tolerance
        native.tol_gap_abs = native.tol_gap_rel = native.tol_feas = tolerance
        if settings.max_iters is not None:
            native.max_iter = settings.max_iters
        for name, value in settings.native:
            setattr(native, name, value)
        order = _row_order(instance.cones)
        P, A = self._native(instance)
        b = instance.b if order is None else instance.b[order]
        solver = clarabel.DefaultSolver(P, instance.q, A, b, _native_cones(instance.cones), native)
        event = halting_event()
        if event is not None and hasattr(solver, "set_termination_callback"):
            # Only in a pool's thread, never in the main one: Clarabel prints and drops exceptions of the callback,
            # KeyboardInterrupt too.
            solver.set_termination_callback(lambda _: event.is_set())
        result = solver.solve()
        y, s = np.array(result.z), np.array(result.s)
        if order is not None:
            back = np.empty_like(order)
            back[order] = np.arange(order.size)
            y, s = y[back], s[back]
        message = str(result.status)
        return RawSolution(np.array(result.x), y, s, _STATUS.get(message, Status.FAILED), message)
