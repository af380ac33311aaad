"""The verdict on a batch: statuses by residuals that are recomputed from the data, and by certificates, not by a
solver's word.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conelayers.numerics.bounds import missing
from conelayers.numerics.linearized_system import LinearizedSystem
from conelayers.numerics.presolve import Presolved
from conelayers.numerics.residual import ACCURACY, POLISHED, ROUGH, BackwardErrors, Point
from conelayers.numerics.residuals_of_points import residuals_of
from conelayers.numerics.scaling import Scaling
from conelayers.program.cone_program import ConeProgram
from conelayers.program.patterns import largest
from conelayers.program.solution import Attempts, Solution
from conelayers.solve.infeasibility.certificates import proven
from conelayers.solve.progress import Progress
from conelayers.solve.units_of_point import LARGE
from conelayers.support.errors import Status, usable_mask

__all__ = ["certified", "doubt_large_points", "judge"]

_FAR = 1e5  # size of an inaccurate point, in the equilibrated units, from which the program may have no solution
# Size of a point, in units in which the data are 1, from which its rounding is 1e−6 of the data.
_HIDING = 1e10
_VERY_LARGE = 1e8  # size of a solution in the user's units from which it may be known badly
_UNSURE = 1e-5  # relative change of x by rounding of the data from which a solution counts as inaccurate
_UNSOLVED = (Status.FAILED, Status.ITERATION_LIMIT, Status.TIME_LIMIT)


def judge(
    program: ConeProgram,
    presolved: Presolved,
    scaling: Scaling,
    natural: Scaling,
    point: Point,
    errors: BackwardErrors | None,
    progress: Progress,
    jobs: int,
) -> Solution:
    """The solution in the user's units, with the statuses that its residuals and certificates of infeasibility justify.

    ``scaling`` leads to the units of ``point``; ``natural`` leads to units in which the data are of size 1.
    """
    whole, without_bound = presolved.whole, missing(program)
    residuals = residuals_of(whole, point, errors)
    x, y, s = (point.x, point.y, point.s) if scaling.trivial else scaling.unscale(point.x, point.y, point.s)
    s = s if without_bound is None else np.where(without_bound, np.inf, s)
    worst, status = residuals.worst, progress.status
    required, hiding = np.where(_size(progress) >= _FAR, POLISHED, ACCURACY), _hides_the_data(natural, x, y)
    if not (worst <= required).all() or not usable_mask(status).all() or hiding.any():
        unsolved = Status.TIME_LIMIT if progress.out_of_time else Status.FAILED
        rough = np.maximum(point.rough_errors(whole), residuals.gap) <= ROUGH
        by_residuals = [
            Status.SOLVED if error <= ACCURACY else Status.INACCURATE if close else unsolved
            for error, close in zip(worst, rough, strict=True)
        ]
        status = [unsolved if claimed is Status.FAILED else claimed for claimed in status]
        status = [ours if claimed.usable else claimed for ours, claimed in zip(by_residuals, status, strict=True)]
        status = certified(presolved.smaller, status, worst, progress, jobs, hiding)
    elif Status.INACCURATE in status:
        status = [Status.SOLVED] * len(status)
    if without_bound is not None:
        impossible = np.any(without_bound & (program.b < 0), axis=1).tolist()
        status = [Status.PRIMAL_INFEASIBLE if h else other for h, other in zip(impossible, status, strict=True)]
    lost = ~usable_mask(status)
    if lost.any():
        x, y, s = (np.where(lost[:, None], np.nan, h) for h in (x, y, s))
        residuals = residuals.blank(lost)
    attempts = Attempts(tuple(progress.rounds))
    return Solution(x, y, s, tuple(status), residuals, tuple(progress.solver), tuple(progress.message), attempts)


def certified(
    program: ConeProgram,
    status: list[Status],
    worst: np.ndarray,
    progress: Progress,
    jobs: int,
    hiding: np.ndarray | None = None,
) -> list[Status]:
    """The statuses, replaced where there is a certificate of infeasibility, for instances without a solution or with a
    poor one.

    A point is poor if it is so large that its direction may be a certificate, if a row of it is wrong altogether
    (``worst`` holds the backward errors, (B,)), or if it hides the data in its rounding (``hiding``, (B,) bool). For
    failed and poor instances a certificate is searched for even if no backend left a ray; instances that a limit
    stopped are only asked about the rays that there are.
    """
    poor = ((_size(progress) >= _FAR) & ~(worst <= POLISHED)) | ~(worst <= ROUGH)
    poor = poor if hiding is None else poor | hiding
    searched = {i for i, s in enumerate(status) if s is Status.FAILED or (s.usable and poor[i])}
    asked = [i for i, s in enumerate(status) if s in _UNSOLVED or i in searched]
    if not asked or progress.out_of_time:
        return status
    points = {i: [(progress.x[i], progress.v[i])] if status[i].usable else [] for i in asked}
    rays = {i: [*progress.rays.get(i, ()), *points[i]] for i in asked}
    infeasible = proven(program, rays, jobs, searched=searched)
    return [infeasible.get(i, s) for i, s in enumerate(status)]


def doubt_large_points(solution: Solution, system: LinearizedSystem) -> Solution:
    """The solution, INACCURATE in place of SOLVED where rounding of the data moves a large point by more than a
    solution may be off.
    """
    point = system.point
    # A slack of the nonnegative cone, such as that of a large bound, moves nothing while its multiplier is zero.
    idle = system.structure.cones.orthant_rows & (point.y == 0)
    far = np.maximum(largest(point.x), largest(np.where(idle, 0.0, point.v))) >= LARGE
    far |= np.maximum(largest(solution.x), largest(solution.y)) >= _VERY_LARGE
    if not far.any():
        return solution
    index = np.flatnonzero([s is Status.SOLVED and h for s, h in zip(solution.status, far, strict=True)])
    if not index.size:
        return solution
    part = system.take(index)
    moved = largest(part.rounding_step()[0]) > _UNSURE * largest(part.point.x)
    doubtful = set(index[moved & ~part.factorization.singular].tolist())
    status = tuple(Status.INACCURATE if i in doubtful else s for i, s in enumerate(solution.status))
    return replace(solution, status=status) if doubtful else solution


def _hides_the_data(natural: Scaling, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The instances in which rounding of Ax or Aᵀy is not small beside b or q, so that relative errors say little,
    (B,).
    """
    x, y, _ = natural.scale(x, y, y)
    return np.maximum(largest(x), largest(y)) >= _HIDING


def _size(progress: Progress) -> np.ndarray:
    """The largest entry of x and v, (B,)."""
    return np.maximum(largest(progress.x), largest(progress.v))
