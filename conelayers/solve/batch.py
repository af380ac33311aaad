"""A batch of cone programs, solved: equilibrated, presolved, brought to a point by starting methods, and judged."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.bounds import emptied, missing, restored
from conelayers.numerics.kkt import EliminatedFactorization, combine
from conelayers.numerics.linearized_system import LinearizedSystem
from conelayers.numerics.presolve import Presolved, presolve
from conelayers.numerics.residual import ACCURACY, POLISHED, BackwardErrors, Point, evaluate
from conelayers.numerics.scaling import equilibrate_program
from conelayers.program.cone_program import ConeProgram
from conelayers.program.solution import Solution
from conelayers.solve.large_bounds import needed_bounds, unsolved_instances, with_more_aside
from conelayers.solve.order import StartingOrder
from conelayers.solve.progress import Progress, Round, run_starting_methods
from conelayers.solve.units_of_point import units_of_the_point
from conelayers.solve.verdict import doubt_large_points, judge
from conelayers.solve.warm_start import WarmStart
from conelayers.support.ctrl_c import ctrl_c_arrives
from conelayers.support.errors import usable_mask
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
    one_thread = program.structure.wants_one_blas_thread
    with ctrl_c_arrives(), one_blas_thread(one_thread), time_limit(order.max_seconds):
        equilibrated, kept = equilibrate_program(program), np.zeros(program.b.shape, dtype=bool)
        natural, unsolved = equilibrated.scaling, np.zeros(program.batch, dtype=bool)
        rounds: list[Round] = []
        for remaining in reversed(range(_ROUNDS)):
            presolved = presolve(emptied(equilibrated.program, equilibrated.aside))
            progress = run_starting_methods(program, order, jobs, equilibrated, presolved, warm)
            progress.rounds = rounds = rounds + progress.rounds
            point, errors = _whole_point(presolved, progress)
            if progress.out_of_time or not remaining:
                break
            unsolved |= unsolved_instances(presolved, point, progress, ACCURACY)
            others, units = with_more_aside(program, equilibrated, kept, unsolved), None
            if others is None:
                needed = needed_bounds(equilibrated, presolved, point, progress, jobs)
                if needed is not None:
                    kept |= needed
                    others = equilibrate_program(program, kept, unsolved)
                else:
                    units = units_of_the_point(presolved, point, progress.status)
            if units is None and others is None:
                break
            scaling = equilibrated.scaling
            warm = WarmStart(*scaling.unscale(point.x, point.y, point.s), usable_mask(progress.status))
            if units is not None:
                equilibrated = equilibrated.rescaled(program, units)
            elif others is not None:
                equilibrated, natural = others, others.scaling
        parts = tuple(progress.parts)
        if equilibrated.aside is not None:
            whole, v = restored(equilibrated, point)
            presolved, parts = presolve(whole), ()
            point, errors = evaluate(presolved.whole, point.x, v), None
        solution = judge(program, presolved, equilibrated.scaling, natural, point, errors, progress, jobs)
        system = LinearizedSystem(presolved, point, equilibrated.scaling, derivative_jobs, parts)
        return Solved(doubt_large_points(solution, system), system, missing(program))


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
    dx, dy = factorization.solve(-point.F1, point.F2)
    corrected = evaluate(whole, point.x + dx, point.v + whole.Ax(dx) - point.F2 + dy)
    better = (corrected.error(whole) < _BETTER * error)[:, None]
    if not better.any():
        return point, errors
    return evaluate(whole, np.where(better, corrected.x, point.x), np.where(better, corrected.v, point.v)), None
