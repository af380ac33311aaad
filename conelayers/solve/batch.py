"""A batch of cone programs, solved: equilibrated, presolved, brought to a point by starting methods, and judged."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.bounds import emptied, missing, put_back, restored
from conelayers.numerics.kkt import EliminatedFactorization, combine
from conelayers.numerics.linearized_system import LinearizedSystem
from conelayers.numerics.presolve import Presolved, presolve
from conelayers.numerics.residual import POLISHED, ROUGH, BackwardErrors, Point, evaluate
from conelayers.numerics.scaling import Equilibrated, equilibrate_program
from conelayers.program.cone_program import ConeProgram
from conelayers.program.solution import Solution
from conelayers.solve.order import StartingOrder
from conelayers.solve.progress import Progress, Round, run_starting_methods
from conelayers.solve.units_of_point import units_of_the_point
from conelayers.solve.verdict import certified, doubt_large_points, judge
from conelayers.solve.warm_start import WarmStart
from conelayers.support.errors import Status, usable_mask
from conelayers.support.limits import time_limit
from conelayers.support.parallel import one_blas_thread

__all__ = ["Solved", "WarmStart", "solve_batch"]

_ROUNDS = (
    6  # solves of a batch: each but the first with bounds put back, or in units of the point that the one before found
)
_BETTER = 0.5  # of the error: a correction of the whole point that leaves more of it is not worth keeping


@final
class Solved(NamedTuple):
    """The solution in the user's units, the linear system there, and which rows have no bound, (B, m) bool; None where
    all have.
    """

    solution: Solution
    system: LinearizedSystem
    open_rows: np.ndarray | None


def solve_batch(
    program: ConeProgram, order: StartingOrder, jobs: int, warm: WarmStart | None = None, derivative_jobs: int = 1
) -> Solved:
    """Solve every instance. A failure concerns its own instance only, and is reported by its Status.

    The program is equilibrated and presolved. Then the order's starting methods follow, each with Newton's steps behind
    it, for the instances that those before it left open. The residuals are recomputed here and decide between SOLVED
    and INACCURATE, whatever a backend says. An instance is infeasible if there is a certificate of it (infeasibility/);
    a backend's word is taken for limits only. Instances that are open after ``order.max_seconds`` are TIME_LIMIT. The
    values of instances without a solution are NaN.
    """
    with one_blas_thread(program.structure.wants_one_blas_thread), time_limit(order.max_seconds):
        equilibrated, kept = equilibrate_program(program), np.zeros(program.b.shape, dtype=bool)
        rounds: list[Round] = []
        for remaining in reversed(range(_ROUNDS)):
            presolved = presolve(emptied(equilibrated.program, equilibrated.aside))
            progress = run_starting_methods(program, order, jobs, equilibrated, presolved, warm)
            progress.rounds = rounds = rounds + progress.rounds
            point, errors = _whole_point(presolved, progress)
            if progress.out_of_time or not remaining:
                break
            needed = _needed_bounds(equilibrated, presolved, point, progress, jobs)
            units = None if needed is not None else units_of_the_point(presolved, point, progress.status)
            if needed is None and units is None:
                break
            scaling = equilibrated.scaling
            warm = WarmStart(*scaling.unscale(point.x, point.y, point.s), usable_mask(progress.status))
            if units is not None:
                equilibrated = equilibrated.rescaled(program, units)
            elif needed is not None:
                kept |= needed
                equilibrated = equilibrate_program(program, kept)
        parts = tuple(progress.parts)
        if equilibrated.aside is not None:
            whole, v = restored(equilibrated, point)
            presolved, parts = presolve(whole), ()
            point, errors = evaluate(presolved.whole, point.x, v), None
        solution = judge(program, presolved, equilibrated.scaling, point, errors, progress, jobs)
        system = LinearizedSystem(presolved, point, equilibrated.scaling, derivative_jobs, parts)
        return Solved(doubt_large_points(solution, system), system, missing(program))


def _needed_bounds(
    equilibrated: Equilibrated, presolved: Presolved, point: Point, progress: Progress, jobs: int
) -> np.ndarray | None:
    """The bounds that were set aside and are needed, (B, m) bool; None if none is.

    Needed are bounds that the point violates, and all bounds of an instance for which no point was found without them.
    An instance that is infeasible without its bounds stays so, and one that the user's limit stopped is not solved
    again.
    """
    if equilibrated.aside is None:
        return None
    errors = point.errors(presolved.whole)
    close = errors.rough <= ROUGH
    without_point = (Status.FAILED, Status.DUAL_INFEASIBLE)
    is_open = np.array(
        [s in without_point or (s.usable and not c) for s, c in zip(progress.status, close, strict=True)], dtype=bool
    )
    if is_open.any():
        status = [Status.FAILED if o and s.usable else s for o, s in zip(is_open, progress.status, strict=True)]
        status = certified(presolved.smaller, status, errors.worst, progress, jobs)
        infeasible = np.array([s is Status.PRIMAL_INFEASIBLE for s in status], dtype=bool)
        progress.status = [
            Status.PRIMAL_INFEASIBLE if h else s for h, s in zip(infeasible, progress.status, strict=True)
        ]
        is_open &= ~infeasible
    return put_back(equilibrated, point.x, is_open)


def _whole_point(presolved: Presolved, progress: Progress) -> tuple[Point, BackwardErrors | None]:
    """The point of the whole program, from that of the presolved one, and its errors if they are known.

    A last correction is made there, since the elimination squares the matrix L of the definitions (presolve.py), and
    the digits that this costs are still in L itself.
    """
    whole = presolved.whole
    if presolved.elimination is None:
        return progress.point or evaluate(whole, progress.x, progress.v), None
    point = evaluate(whole, *presolved.expand(progress.x, progress.v))
    errors = point.errors(whole)
    error = point.error(whole, errors)
    if (error <= POLISHED).all() or sum(index.size for index, _ in progress.parts) < whole.batch:
        return point, errors
    factorization = EliminatedFactorization.of(presolved, combine(progress.parts, whole.batch))
    dx, dy = factorization.solve(-point.F1, -point.F2)
    corrected = evaluate(whole, point.x + dx, point.v + whole.Ax(dx) - point.F2 + dy)
    better = (corrected.error(whole) < _BETTER * error)[:, None]
    if not better.any():
        return point, errors
    return evaluate(whole, np.where(better, corrected.x, point.x), np.where(better, corrected.v, point.v)), None
