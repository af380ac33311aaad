"""A batch of cone programs, solved: a backend's solve, Newton's polish, and a verdict of our own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, final

import numpy as np

from conelayers.errors import InaccurateSolutionWarning, SolveError, Status
from conelayers.kkt import Factorization
from conelayers.newton import polish
from conelayers.parallel import run_parallel
from conelayers.program import ConeProgram, Residuals, Solution, Structure
from conelayers.residual import Point, evaluate
from conelayers.scaling import Scaling, equilibrate_program
from conelayers.solvers import SOLVERS, Instance, RawSolution, Settings, Solver

__all__ = ["Attempt", "Solved", "plan", "raise_or_warn", "solve_batch"]

ACCURACY = 1e-9  # residuals up to which an instance counts as solved, whoever solved it
_ROUGH = 1e-4  # residuals up to which a point counts as near a solution
_POLISHED = 1e-14
_MAX_STEPS = 12
_LOOSE_ITERATIONS = 2000
_INFEASIBLE = (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)
_STOPPED = (Status.ITERATION_LIMIT, Status.TIME_LIMIT, Status.FAILED)


@final
class Solved(NamedTuple):
    """The solution in the user's units; and the equilibrated program with the point (x, v) of its solution and the scaling.

    ``factorization`` is that of the last Newton step where it is also the one of the point, so that the derivative needs
    none of its own.
    """

    solution: Solution
    program: ConeProgram
    point: Point
    scaling: Scaling
    factorization: Factorization | None


@final
class Attempt(NamedTuple):
    """One way to solve. Where it is not ``trusted``, only its solutions count, not what it says of infeasibility."""

    solver: Solver
    settings: Settings
    trusted: bool = True


@final
class _Outcome(NamedTuple):
    """Where one solve and its polish ended: x, v, the status, the worst residual and the solver of each instance."""

    x: np.ndarray
    v: np.ndarray
    status: list[Status]
    worst: np.ndarray
    message: list[str]
    solver: list[str]
    factorization: Factorization | None


def plan(solver: Solver, settings: Settings, structure: Structure, chosen_by_user: bool) -> list[Attempt]:
    """The attempts for a program: what one leaves unsolved goes to the next.

    For quadratic programs, unless the user asked for something, a loose operator-splitting solve is tried first: it finds
    the active set, and Newton steps the solution. The rest is a solve at the solver's first tolerance (or the user's), one at
    its tight tolerance, and, again unless the user asked for something, one by each other backend that takes the program.
    """
    tolerance = settings.tolerance or solver.first_tolerance
    attempts = [Attempt(solver, replace(settings, tolerance=tolerance))]
    if tolerance > solver.tight_tolerance:
        attempts.append(Attempt(solver, replace(settings, tolerance=solver.tight_tolerance)))
    scs = SOLVERS["SCS"]
    quadratic_program = structure.P.nnz > 0 and structure.cones.kinds <= {"zero", "nonneg"}
    if quadratic_program and not chosen_by_user and settings == Settings() and solver is not scs:
        loose = Settings(tolerance=scs.first_tolerance, max_iters=_LOOSE_ITERATIONS)
        attempts.insert(0, Attempt(scs, loose, trusted=False))
    if not chosen_by_user and settings == Settings():
        # Backends fail on different programs: what the default leaves open goes to the others.
        for other in SOLVERS.values():
            if other is not solver and other.takes(structure.cones, structure.P.nnz > 0):
                limited = Settings(tolerance=other.tight_tolerance, max_iters=other.fallback_iterations)
                attempts.append(Attempt(other, limited, trusted=False))
    return attempts


def solve_batch(
    program: ConeProgram,
    attempts: Sequence[Attempt],
    jobs: int,
    start: Solution | None = None,
) -> Solved:
    """Solve every instance; a failure concerns its own instance only and is told by its Status.

    The program is equilibrated; then come the attempts, each followed by Newton steps. The residuals are recomputed here
    and decide between SOLVED and INACCURATE, whatever the backend says; its word is taken for infeasibility and for
    limits. The data of instances without a solution come back as NaN.
    """
    scaled, scaling = equilibrate_program(program)
    warm = None
    if start is not None:
        warm = ([s.usable for s in start.status], *scaling.scale(start.x, start.y, start.s))
    best = _attempt(scaled, attempts[0], jobs, warm)
    for attempt in attempts[1:]:
        # A limit is final where the user may have set it; for the attempts of our own it is a failure like others.
        resumable = {Status.FAILED} if attempt.trusted else {Status.FAILED, Status.ITERATION_LIMIT}
        unsolved = [
            worst > ACCURACY and (status.usable or status in resumable)
            for status, worst in zip(best.status, best.worst, strict=True)
        ]
        again = np.flatnonzero(unsolved)
        if again.size:
            best = _merge(best, _attempt(scaled.take(again), attempt, jobs, None), again, attempt.trusted)
    point = evaluate(scaled, best.x, best.v)
    x, y, s = scaling.unscale(point.x, point.y, point.s)
    residuals = Residuals.of(program, x, y, s)
    status = list(best.status)
    # Judged in both units: the user's, and those in which no data are too small to matter.
    judged = np.maximum(residuals.worst, best.worst)
    for k, worst in enumerate(judged):
        if status[k].usable:
            near = Status.INACCURATE if worst <= _ROUGH else Status.FAILED
            status[k] = Status.SOLVED if worst <= ACCURACY else near
    solution = _solution((x, y, s), status, best, residuals, judged)
    return Solved(solution, scaled, point, scaling, best.factorization)


def _merge(best: _Outcome, second: _Outcome, again: np.ndarray, trusted: bool) -> _Outcome:
    """The better of two outcomes, the second being that of the instances ``again``; a trusted verdict beats a rough point."""
    status, message, solver = list(best.status), list(best.message), list(best.solver)
    for k, i in enumerate(again):
        verdict = second.status[k] in _INFEASIBLE
        instead_of_nothing = not status[i].usable and (trusted or second.status[k].usable)
        if verdict or instead_of_nothing or second.worst[k] < best.worst[i]:
            best.x[i], best.v[i], best.worst[i] = second.x[k], second.v[k], second.worst[k]
            status[i], message[i], solver[i] = second.status[k], second.message[k], second.solver[k]
    return _Outcome(best.x, best.v, status, best.worst, message, solver, None)


def _attempt(
    program: ConeProgram,
    attempt: Attempt,
    jobs: int,
    start: tuple[list[bool], np.ndarray, np.ndarray, np.ndarray] | None,
) -> _Outcome:
    structure, solver = program.structure, attempt.solver

    def solve_one(i: int) -> RawSolution:
        instance = Instance(
            structure.P.matrix(program.P[i]),
            program.q[i],
            structure.A.matrix(program.A[i]),
            program.b[i],
            structure.cones,
        )
        warm = None
        if start is not None and solver.warm_starts and start[0][i]:
            warm = RawSolution(start[1][i], start[2][i], start[3][i], Status.SOLVED, "")
        return solver.solve(instance, attempt.settings, warm)

    raws = run_parallel(solve_one, range(program.batch), jobs)
    status = [raw.status for raw in raws]
    if not attempt.trusted:
        status = [s if s.usable else Status.FAILED for s in status]
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
    factorization = None
    if kept.size:
        part = program.take(kept)
        point, factorization = polish(part, x[kept], v[kept], tolerance=_POLISHED, max_steps=_MAX_STEPS, jobs=jobs)
        x[kept], v[kept] = point.x, point.v
        worst[kept] = Residuals.of(part, point.x, point.y, point.s).worst
    if kept.size < program.batch:
        factorization = None
    names = [solver.name] * program.batch
    return _Outcome(x, v, status, worst, [raw.message for raw in raws], names, factorization)


def _solution(
    values: tuple[np.ndarray, np.ndarray, np.ndarray],
    status: list[Status],
    outcome: _Outcome,
    residuals: Residuals,
    judged: np.ndarray,
) -> Solution:
    lost = np.array([not s.usable for s in status], dtype=bool)
    x, y, s = (np.where(lost[:, None], np.nan, h) for h in values)
    blank = {name: np.where(lost, np.nan, getattr(residuals, name)) for name in ("primal", "dual", "gap", "cone")}
    return Solution(x, y, s, tuple(status), Residuals(**blank), judged, tuple(outcome.solver), tuple(outcome.message))


def raise_or_warn(solution: Solution) -> None:
    """SolveError where an instance has no solution; one InaccurateSolutionWarning for those that miss the accuracy."""
    lost = [i for i, s in enumerate(solution.status) if not s.usable]
    if lost:
        raise SolveError(solution.status, lost, solution.solver[lost[0]], solution.message)
    inaccurate = [i for i, s in enumerate(solution.status) if s is Status.INACCURATE]
    if inaccurate:
        worst = float(np.max(solution.judged[inaccurate]))
        warnings.warn(
            f"{solution.solver[inaccurate[0]]} solved the instances at batch index {inaccurate[:10]} to a residual of "
            f"{worst:.1e} only (in the user's or in the equilibrated units). {Status.INACCURATE.advice}",
            InaccurateSolutionWarning,
            stacklevel=4,
        )
