"""``solver_args``: the options that all backends share, and how they are read (docs/solver_args.md).

- ``eps``, ``tol``: the backend's tolerances: SCS's eps_abs and eps_rel; Clarabel's tol_gap_abs, tol_gap_rel and
  tol_feas; ECOS's abstol, reltol and feastol; HiGHS's primal_ and dual_feasibility_tolerance, which are at least 1e-10.
- ``max_iters``: the backend's iteration limit for each instance (Clarabel: max_iter, HiGHS: maxiter).
- ``max_seconds``: the time limit for the whole call: all instances, all backends and our own steps.
- ``verbose``: the backend prints its progress.
- ``solve_method``: the backend's name: "SCS", "ECOS", "Clarabel" or "HiGHS".
- ``n_jobs_forward``, ``n_jobs_backward``: threads for the solves and for the derivative; −1 or absent: all cores.
- ``mode``: "lsqr", "lsmr" and "dense" are accepted and change nothing, since the derivative is always solved directly.
  "lpgd", "lpgd_left" and "lpgd_right" with ``derivative_kwargs={"tau": …, "rho": …}`` are the layer's
  ``smoothing=LPGD(…)``.
- ``fallback``: False: only the named backend, or the default one, is asked; True, the default: others are asked if it
  fails.
- ``raise_on_error``: False: on_failure="nan", unless the layer or the call says something else; True, the default,
  changes nothing.
- ``acceleration_lookback``: SCS's own option, passed on whenever SCS is asked; the other backends ignore it.
- a backend's own option: passed on; without solver= and solve_method it also chooses the backend.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from conelayers.solve.backends.registry import SOLVERS, find_solver
from conelayers.solve.backends.solver import Settings, Solver
from conelayers.support.arguments import described

__all__ = ["SolverArguments", "merge_solver_args", "parse_solver_args"]

_COMMON = (
    "eps",
    "tol",
    "max_iters",
    "max_seconds",
    "verbose",
    "solve_method",
    "n_jobs_forward",
    "n_jobs_backward",
    "mode",
    "acceleration_lookback",
    "fallback",
    "raise_on_error",
)
_TOLERATED = "acceleration_lookback"  # SCS's own option, which code written for cvxpylayers sets whatever the backend
_MODES = ("lsqr", "lsmr", "dense")
_SIDES = {"lpgd": "both", "lpgd_right": "lower", "lpgd_left": "upper"}


@final
@dataclass(frozen=True)
class SolverArguments:
    """Parsed ``solver_args``.

    - method, settings: the backend's name, if given, and its settings.
    - jobs_forward, jobs_backward: the numbers of threads.
    - lpgd: τ, ρ and side of a smoothed derivative.
    - max_seconds: the time limit of the call.
    - fallback: whether other backends are asked if this one fails.
    - raises: whether a failure raises if neither the layer nor the call says so.
    """

    method: str | None
    settings: Settings
    jobs_forward: int
    jobs_backward: int
    lpgd: tuple[Any, Any, str] | None = None
    max_seconds: float | None = None
    fallback: bool = True
    raises: bool = True

    @property
    def native_names(self) -> frozenset[str]:
        """The names of the given native options, without the one that all backends tolerate."""
        return frozenset(name for name, _ in self.settings.native if name != _TOLERATED)

    def for_solver(self, solver: Solver) -> Settings:
        """The settings, checked for this backend. Raises ValueError naming an option that it does not have."""
        unknown = sorted(self.native_names - solver.native_options)
        if unknown:
            owners = [s.name for s in SOLVERS.values() if unknown[0] in s.native_options]
            alike = difflib.get_close_matches(unknown[0], [*_COMMON, *solver.native_options], 1)
            guess = f"; did you mean {alike[0]!r}?" if alike else ""
            hint = f"; it is an option of {' and '.join(owners)}: add solve_method={owners[0]!r}" if owners else guess
            raise ValueError(
                f"solver_args: got {unknown[0]!r}, expected a common option ({', '.join(_COMMON)}) or one of "
                f"{solver.name}'s own ({', '.join(sorted(solver.native_options))}){hint}"
            )
        if self.settings.max_iters is not None and "max_iter" in self.native_names:
            raise ValueError(
                f"solver_args: got both max_iters={self.settings.max_iters} and "
                f"max_iter={dict(self.settings.native)['max_iter']}, two names "
                "for one option, expected one of them; keep one"
            )
        solver.check_options(tuple((name, value) for name, value in self.settings.native if name != _TOLERATED))
        return self.settings


def merge_solver_args(defaults: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """The layer's options, overridden by those of a call.

    Raises TypeError if these are not a dict with strings as keys.
    """
    if given is None:
        return dict(defaults)
    if not isinstance(given, Mapping):
        raise TypeError(f"solver_args: got {described(given)}, expected a dict of options, such as {{'eps': 1e-8}}")
    for key in given:
        if not isinstance(key, str):
            raise TypeError(f"solver_args: got the key {key!r}, expected names of options, which are strings")
    return {**defaults, **given}


def parse_solver_args(solver_args: Mapping[str, Any] | None, solver: str | None) -> SolverArguments:
    """Read ``solver_args``. The native options are not checked here, since that needs the backend (``for_solver``).

    Raises ValueError naming the option, what was got and what was expected; TypeError if it is not a mapping.
    """
    args = merge_solver_args({}, solver_args)
    method = args.pop("solve_method", None)
    if method is not None:
        method = find_solver(method, "solver_args: solve_method").name
        if solver is not None and find_solver(solver).name != method:
            raise ValueError(
                f"solver_args: got solve_method {method}, expected {find_solver(solver).name} or none: "
                f"it contradicts solver={solver}; keep one of the two"
            )
    mode = args.pop("mode", None)
    if mode is not None and not (isinstance(mode, str) and (mode in _MODES or mode in _SIDES)):
        raise ValueError(f"solver_args: mode: got {mode!r}, expected one of {', '.join((*_MODES, *_SIDES))}")
    lpgd = _lpgd(mode, args.pop("derivative_kwargs", None))
    if "eps" in args and "tol" in args:
        raise ValueError(
            f"solver_args: got both eps={args['eps']!r} and tol={args['tol']!r}: "
            "eps and tol are two names for one option, expected one of them; keep one"
        )
    name = "eps" if "eps" in args else "tol"
    tolerance = args.pop(name, None)
    if tolerance is not None and not (
        isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool) and 0 < float(tolerance) < 1
    ):
        raise ValueError(f"solver_args: {name}: got {tolerance!r}, expected a number between 0 and 1")
    max_iters = args.pop("max_iters", None)
    if max_iters is not None and not (_whole(max_iters) and int(max_iters) > 0):
        raise ValueError(f"solver_args: max_iters: got {max_iters!r}, expected a positive integer")
    max_seconds = args.pop("max_seconds", None)
    if max_seconds is not None and not (
        isinstance(max_seconds, numbers.Real) and not isinstance(max_seconds, bool) and float(max_seconds) > 0
    ):
        raise ValueError(f"solver_args: max_seconds: got {max_seconds!r}, expected a positive number of seconds")
    verbose = args.pop("verbose", False)
    if not isinstance(verbose, (bool, numbers.Integral)):
        raise ValueError(f"solver_args: verbose: got {verbose!r}, expected True or False")
    fallback, raises = (_flag(key, args.pop(key, True)) for key in ("fallback", "raise_on_error"))
    if _TOLERATED in args and not _whole(args[_TOLERATED]):
        raise ValueError(f"solver_args: {_TOLERATED}: got {args[_TOLERATED]!r}, which SCS refused; expected an integer")
    jobs = [_jobs(key, args.pop(key, None)) for key in ("n_jobs_forward", "n_jobs_backward")]
    settings = Settings(
        tolerance=None if tolerance is None else float(tolerance),
        max_iters=None if max_iters is None else int(max_iters),
        verbose=bool(verbose),
        native=tuple(sorted(args.items())),
    )
    seconds = None if max_seconds is None else float(max_seconds)
    return SolverArguments(method, settings, jobs[0], jobs[1], lpgd, seconds, fallback, raises)


def _lpgd(mode: Any, options: Any) -> tuple[Any, Any, str] | None:
    """τ, ρ and the side for diffcp's modes "lpgd", "lpgd_left" and "lpgd_right"; None for others."""
    if mode not in _SIDES:
        if options:
            raise ValueError(f"solver_args: derivative_kwargs: got {options!r}, expected them with mode='lpgd' only")
        return None
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(
            f"solver_args: derivative_kwargs: got {options!r}, expected a dict with tau and, if wanted, rho"
        )
    given = dict(options or {})
    unknown = sorted(given.keys() - {"tau", "rho"})
    if "tau" not in given or unknown:
        raise ValueError(
            f"solver_args: derivative_kwargs: got {given!r}, expected tau and, if wanted, rho for mode {mode!r}; "
            "or give the layer smoothing=conelayers.LPGD(tau=…, rho=…)"
        )
    tau, rho = given["tau"], given.get("rho", 0.0)
    for name, value, least in (("tau", tau, "positive"), ("rho", rho, "nonnegative")):
        real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        if not real or value < 0 or (least == "positive" and value == 0):
            raise ValueError(f"solver_args: derivative_kwargs: {name}: got {value!r}, expected a {least} number")
    return tau, rho, _SIDES[mode]


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"solver_args: {name}: got {value!r}, expected True or False")
    return value


def _jobs(name: str, value: Any) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if value is None or value == -1:
        return cores
    if not _whole(value) or value < 1:
        raise ValueError(f"solver_args: {name}: got {value!r}, expected a positive integer, or -1 for all cores")
    return int(value)
