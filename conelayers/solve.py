"""A batch of cone programs, solved: a backend's solve, Newton's polish, and a verdict of our own."""

from __future__ import annotations

import warnings
from typing import NamedTuple, final

import numpy as np

from conelayers.errors import InaccurateSolutionWarning, SolveError, Status
from conelayers.newton import polish
from conelayers.program import ConeProgram, Residuals, Solution
from conelayers.residual import Point, evaluate
from conelayers.solvers import Instance, RawSolution, Settings, Solver, run_parallel

__all__ = ["Solved", "raise_or_warn", "solve_batch"]

ACCURACY = 1e-9  # residuals up to which an instance counts as solved, whoever solved it
_ROUGH = 1e-4  # residuals up to which a point counts as near a solution
_POLISHED = 1e-13
_MAX_STEPS = 8
_STOPPED = (Status.ITERATION_LIMIT, Status.TIME_LIMIT, Status.FAILED)


@final
class Solved(NamedTuple):
    """The solution, and the point (x, v) at which it is differentiated."""

    solution: Solution
    point: Point


def solve_batch(
    program: ConeProgram, solver: Solver, settings: Settings, jobs: int, start: Solution | None = None
) -> Solved:
    """Solve every instance; a failure concerns its own instance only and is told by its Status.

    The residuals are recomputed here and decide between SOLVED and INACCURATE, whatever the backend says; its word is
    taken for infeasibility and for limits. The data of instances without a solution come back as NaN.
    """
    structure = program.structure

    def solve_one(i: int) -> RawSolution:
        instance = Instance(
            structure.P.matrix(program.P[i]), program.q[i], structure.A.matrix(program.A[i]), program.b[i], structure.cones
        )
        warm = None
        if start is not None and solver.warm_starts and start.status[i].usable:
            warm = RawSolution(start.x[i], start.y[i], start.s[i], start.status[i], "")
        return solver.solve(instance, settings, warm)

    raws = run_parallel(solve_one, range(program.batch), jobs)
    statuses = [raw.status for raw in raws]
    x = np.stack([raw.x for raw in raws]) if raws else np.zeros((0, structure.n))
    v = np.stack([raw.y - raw.s for raw in raws]) if raws else np.zeros((0, structure.m))
    finite = np.isfinite(x).all(axis=1) & np.isfinite(v).all(axis=1)
    for i in np.flatnonzero(~finite):
        if statuses[i].usable:
            statuses[i] = Status.FAILED
    x[~finite], v[~finite] = 0.0, 0.0
    candidate = finite & np.array([s.usable or s in _STOPPED for s in statuses], dtype=bool)
    # What a limit stopped far from a solution is reported as such: the limit is honoured, not polished away.
    stopped = np.flatnonzero(candidate & np.array([s in _STOPPED for s in statuses], dtype=bool))
    if stopped.size:
        near = evaluate(program.take(stopped), x[stopped], v[stopped]).norm(program.take(stopped)) <= _ROUGH
        candidate[stopped[~near]] = False
    x[~candidate], v[~candidate] = 0.0, 0.0
    point = _polish_part(program, x, v, candidate, jobs)
    residuals = Residuals.of(program, point.x, point.y, point.s)
    accuracy = max(ACCURACY, 10 * (settings.tolerance or 0.0))
    for i in np.flatnonzero(candidate):
        if residuals.worst[i] <= accuracy:
            statuses[i] = Status.SOLVED
        elif statuses[i].usable:
            statuses[i] = Status.INACCURATE if residuals.worst[i] <= max(_ROUGH, accuracy) else Status.FAILED
    return Solved(_solution(point, tuple(statuses), residuals), point)


def _polish_part(program: ConeProgram, x: np.ndarray, v: np.ndarray, chosen: np.ndarray, jobs: int) -> Point:
    index = np.flatnonzero(chosen)
    if index.size:
        part = polish(program.take(index), x[index], v[index], tolerance=_POLISHED, max_steps=_MAX_STEPS, jobs=jobs)
        x[index], v[index] = part.x, part.v
    return evaluate(program, x, v)


def _solution(point: Point, statuses: tuple[Status, ...], residuals: Residuals) -> Solution:
    lost = np.array([not s.usable for s in statuses], dtype=bool)
    x, y, s = point.x.copy(), point.y.copy(), point.s.copy()
    for values in (x, y, s):
        values[lost] = np.nan
    blank = {name: np.where(lost, np.nan, getattr(residuals, name)) for name in ("primal", "dual", "gap", "cone")}
    return Solution(x, y, s, statuses, Residuals(**blank))


def raise_or_warn(solution: Solution, solver: Solver) -> None:
    """SolveError where an instance has no solution; one InaccurateSolutionWarning for those that miss the accuracy."""
    lost = [i for i, s in enumerate(solution.status) if not s.usable]
    if lost:
        raise SolveError(solution.status, lost, solver.name)
    inaccurate = [i for i, s in enumerate(solution.status) if s is Status.INACCURATE]
    if inaccurate:
        worst = float(np.max(solution.residuals.worst[inaccurate]))
        warnings.warn(
            f"{solver.name} solved the instances at batch index {inaccurate[:10]} to a residual of {worst:.1e} only. "
            f"{Status.INACCURATE.advice}",
            InaccurateSolutionWarning,
            stacklevel=4,
        )
