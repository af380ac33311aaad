"""A batch of cone programs, solved: a backend's solve, Newton's polish, and a verdict of our own."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple, final

import numpy as np

from conelayers.errors import InaccurateSolutionWarning, SolveError, Status
from conelayers.newton import polish
from conelayers.parallel import run_parallel
from conelayers.program import ConeProgram, Residuals, Solution
from conelayers.residual import Point, evaluate
from conelayers.scaling import Scaling, equilibrate_program
from conelayers.solvers import Instance, RawSolution, Settings, Solver

__all__ = ["Solved", "raise_or_warn", "solve_batch"]

ACCURACY = 1e-9  # residuals up to which an instance counts as solved, whoever solved it
_ROUGH = 1e-4  # residuals up to which a point counts as near a solution
_POLISHED = 1e-14
_MAX_STEPS = 12
_STOPPED = (Status.ITERATION_LIMIT, Status.TIME_LIMIT, Status.FAILED)


@final
class Solved(NamedTuple):
    """The solution in the user's units; and the equilibrated program with the point (x, v) of its solution and the scaling."""

    solution: Solution
    program: ConeProgram
    point: Point
    scaling: Scaling


@final
class _Attempt(NamedTuple):
    """Where one solve and its polish ended: x, v, the status and the worst residual of each instance."""

    x: np.ndarray
    v: np.ndarray
    status: list[Status]
    worst: np.ndarray
    message: list[str]


def solve_batch(
    program: ConeProgram, solver: Solver, settings: Settings, jobs: int, start: Solution | None = None
) -> Solved:
    """Solve every instance; a failure concerns its own instance only and is told by its Status.

    The program is equilibrated; then a solve at the backend's first tolerance (or the user's) and Newton steps; what they
    do not bring to the accuracy is solved again at the backend's tight tolerance. The residuals are recomputed here and
    decide between SOLVED and INACCURATE, whatever the backend says; its word is taken for infeasibility and for limits.
    The data of instances without a solution come back as NaN.
    """
    scaled, scaling = equilibrate_program(program)
    tolerance = settings.tolerance or solver.first_tolerance
    warm = None
    if start is not None and solver.warm_starts:
        known = [s.usable for s in start.status]
        warm = (known, *scaling.scale(start.x, start.y, start.s))
    best = _attempt(scaled, solver, replace(settings, tolerance=tolerance), jobs, warm)
    again = np.flatnonzero([s.usable and w > ACCURACY for s, w in zip(best.status, best.worst, strict=True)])
    if again.size and tolerance > solver.tight_tolerance:
        second = _attempt(scaled.take(again), solver, replace(settings, tolerance=solver.tight_tolerance), jobs, None)
        better = second.worst < best.worst[again]
        best.x[again[better]], best.v[again[better]] = second.x[better], second.v[better]
        best.worst[again[better]] = second.worst[better]
        for i in np.flatnonzero(better):
            best.status[again[i]] = second.status[i]
    point = evaluate(scaled, best.x, best.v)
    x, y, s = scaling.unscale(point.x, point.y, point.s)
    residuals = Residuals.of(program, x, y, s)
    accuracy = max(ACCURACY, 10 * (settings.tolerance or 0.0))
    status = list(best.status)
    # Judged in both units: the user's, and those in which no data are too small to matter.
    for k, worst in enumerate(np.maximum(residuals.worst, best.worst)):
        if status[k].usable:
            near = Status.INACCURATE if worst <= max(_ROUGH, accuracy) else Status.FAILED
            status[k] = Status.SOLVED if worst <= accuracy else near
    return Solved(_solution((x, y, s), status, best.message, residuals), scaled, point, scaling)


def _attempt(
    program: ConeProgram,
    solver: Solver,
    settings: Settings,
    jobs: int,
    start: tuple[list[bool], np.ndarray, np.ndarray, np.ndarray] | None,
) -> _Attempt:
    structure = program.structure

    def solve_one(i: int) -> RawSolution:
        instance = Instance(
            structure.P.matrix(program.P[i]),
            program.q[i],
            structure.A.matrix(program.A[i]),
            program.b[i],
            structure.cones,
        )
        warm = None
        if start is not None and start[0][i]:
            warm = RawSolution(start[1][i], start[2][i], start[3][i], Status.SOLVED, "")
        return solver.solve(instance, settings, warm)

    raws = run_parallel(solve_one, range(program.batch), jobs)
    status = [raw.status for raw in raws]
    x, v = np.zeros_like(program.q), np.zeros_like(program.b)
    returned = np.zeros(program.batch, dtype=bool)
    for i, raw in enumerate(raws):
        if np.isfinite(raw.x).all() and np.isfinite(raw.y - raw.s).all():
            x[i], v[i], returned[i] = raw.x, raw.y - raw.s, True
        elif status[i].usable:
            status[i] = Status.FAILED
    # What a limit or a breakdown stopped far from a solution is reported as such, not polished away.
    stopped = np.flatnonzero(returned & np.array([s in _STOPPED for s in status], dtype=bool))
    if stopped.size:
        part = program.take(stopped)
        near = evaluate(part, x[stopped], v[stopped]).norm(part) <= _ROUGH
        for j in stopped[near]:
            status[int(j)] = Status.INACCURATE
    lost = np.array([not s.usable for s in status], dtype=bool)
    x[lost], v[lost] = 0.0, 0.0
    kept = np.flatnonzero(~lost)
    worst = np.full(program.batch, np.inf)
    if kept.size:
        part = program.take(kept)
        point = polish(part, x[kept], v[kept], tolerance=_POLISHED, max_steps=_MAX_STEPS, jobs=jobs)
        x[kept], v[kept] = point.x, point.v
        worst[kept] = Residuals.of(part, point.x, point.y, point.s).worst
    return _Attempt(x, v, status, worst, [raw.message for raw in raws])


def _solution(
    values: tuple[np.ndarray, np.ndarray, np.ndarray], status: list[Status], message: list[str], residuals: Residuals
) -> Solution:
    lost = np.array([not s.usable for s in status], dtype=bool)
    x, y, s = (np.where(lost[:, None], np.nan, h) for h in values)
    blank = {name: np.where(lost, np.nan, getattr(residuals, name)) for name in ("primal", "dual", "gap", "cone")}
    return Solution(x, y, s, tuple(status), Residuals(**blank), tuple(message))


def raise_or_warn(solution: Solution, solver: Solver) -> None:
    """SolveError where an instance has no solution; one InaccurateSolutionWarning for those that miss the accuracy."""
    lost = [i for i, s in enumerate(solution.status) if not s.usable]
    if lost:
        raise SolveError(solution.status, lost, solver.name, solution.message)
    inaccurate = [i for i, s in enumerate(solution.status) if s is Status.INACCURATE]
    if inaccurate:
        worst = float(np.max(solution.residuals.worst[inaccurate]))
        warnings.warn(
            f"{solver.name} solved the instances at batch index {inaccurate[:10]} to a residual of {worst:.1e} only. "
            f"{Status.INACCURATE.advice}",
            InaccurateSolutionWarning,
            stacklevel=4,
        )
