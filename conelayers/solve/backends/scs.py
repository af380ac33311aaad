"""SCS: an operator-splitting method for all cones with a quadratic objective; its convention is the package's."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import scipy.sparse as sp
import scs

from conelayers.program.cones import Cones
from conelayers.solve.backends.interrupts import heed_sigint_of_scs
from conelayers.solve.backends.layout import Native
from conelayers.solve.backends.solver import Instance, RawSolution, Settings, Solver, csc32
from conelayers.support.errors import Status

__all__ = ["SCS"]

_STATUS = {
    scs.SOLVED: Status.SOLVED,
    scs.INFEASIBLE: Status.PRIMAL_INFEASIBLE,
    scs.UNBOUNDED: Status.DUAL_INFEASIBLE,
    # The "inaccurate" codes describe the iterates at the moment when a limit was reached.
    scs.SOLVED_INACCURATE: Status.ITERATION_LIMIT,
    scs.INFEASIBLE_INACCURATE: Status.ITERATION_LIMIT,
    scs.UNBOUNDED_INACCURATE: Status.ITERATION_LIMIT,
    scs.INDETERMINATE: Status.FAILED,
    scs.FAILED: Status.FAILED,
}


@final
class SCS(Solver):
    """https://www.cvxgrp.org/scs, through its wheel; eps sets eps_abs and eps_rel."""

    name: ClassVar[str] = "SCS"
    cones: ClassVar[frozenset[str]] = frozenset(
        {"zero", "nonneg", "soc", "psd", "exp", "exp_dual", "power", "power_dual"}
    )
    quadratic: ClassVar[bool] = True
    warm_starts: ClassVar[bool] = True
    first_tolerance: ClassVar[float] = 1e-5
    tight_tolerance: ClassVar[float] = 1e-9
    fallback_iterations: ClassVar[int] = 20000
    usual_iterations: ClassVar[int] = 2500  # its default before version 3, which the arguments of many programs raise
    needs_rows: ClassVar[bool] = True
    tolerance_options: ClassVar[frozenset[str]] = frozenset({"eps_abs", "eps_rel"})
    file_options: ClassVar[frozenset[str]] = frozenset({"log_csv_filename", "write_data_filename"})
    time_option: ClassVar[str | None] = "time_limit_secs"
    native_options: ClassVar[frozenset[str]] = frozenset(
        {
            "acceleration_interval",
            "acceleration_lookback",
            "adaptive_scale",
            "alpha",
            "eps_abs",
            "eps_infeas",
            "eps_rel",
            "linear_solver",
            "log_csv_filename",
            "normalize",
            "rho_x",
            "scale",
            "time_limit_secs",
            "write_data_filename",
        }
    )

    integer_options: ClassVar[frozenset[str]] = frozenset({"acceleration_interval", "acceleration_lookback"})

    def native(self, P: sp.csc_array, A: sp.csc_array, cones: Cones) -> Native:
        return csc32(sp.csc_array(sp.triu(P))), csc32(A)

    def _solve(self, instance: Instance, settings: Settings, start: RawSolution | None) -> RawSolution:
        tolerance = settings.tolerance or self.tight_tolerance
        options: dict[str, object] = {"eps_abs": tolerance, "eps_rel": tolerance, "verbose": settings.verbose}
        if settings.max_iters is not None:
            options["max_iters"] = settings.max_iters
        options |= dict(settings.native)
        cones = instance.cones
        native_cones: dict[str, object] = {
            "z": cones.zero,
            "l": cones.nonneg,
            "q": list(cones.soc),
            "s": list(cones.psd),
            "ep": cones.exp,
            "ed": cones.exp_dual,
            "p": list(cones.power),
        }
        P, A = self._native(instance)
        data = {"P": P, "A": A, "b": instance.b, "c": instance.q}
        heed_sigint_of_scs(begins=True)
        solver = scs.SCS(data, native_cones, **options)
        heed_sigint_of_scs()
        warm = {} if start is None else {"x": start.x, "y": start.y, "s": start.s}
        result = solver.solve(warm_start=start is not None, **warm)
        info = result["info"]
        heed_sigint_of_scs()
        if info["status_val"] == scs.SIGINT:
            raise KeyboardInterrupt
        status = _STATUS.get(info["status_val"], Status.FAILED)
        if status is Status.ITERATION_LIMIT and "time" in str(info["status"]).lower():
            status = Status.TIME_LIMIT
        return RawSolution(
            np.asarray(result["x"]), np.asarray(result["y"]), np.asarray(result["s"]), status, str(info["status"])
        )
