"""Which large bounds are set aside, and which are put back, between two solves of a batch (numerics/bounds.py)."""

from __future__ import annotations

import numpy as np

from conelayers.numerics.bounds import put_back
from conelayers.numerics.presolve import Presolved
from conelayers.numerics.residual import ROUGH, Point
from conelayers.numerics.scaling import Equilibrated, equilibrate_program
from conelayers.program.cone_program import ConeProgram
from conelayers.solve.progress import ENOUGH, Progress
from conelayers.solve.verdict import certified
from conelayers.support.errors import Status, usable_mask

__all__ = ["needed_bounds", "unsolved_instances", "with_more_aside"]


def unsolved_instances(
    presolved: Presolved, point: Point, progress: Progress, accuracy: float | None = None
) -> np.ndarray:
    """The instances that failed, or whose point is not a solution to ``accuracy`` (None: not even a rough one), (B,)
    bool.
    """
    failed = np.array([s is Status.FAILED for s in progress.status], dtype=bool)
    usable = usable_mask(progress.status)
    if not (usable & (progress.error > ENOUGH)).any():
        return failed
    whole = presolved.whole
    if accuracy is None:
        return failed | (usable & ~(point.rough_errors(whole) <= ROUGH))
    return failed | (usable & ~(point.errors(whole).worst <= accuracy))


def with_more_aside(
    program: ConeProgram, equilibrated: Equilibrated, kept: np.ndarray, unsolved: np.ndarray
) -> Equilibrated | None:
    """The program with rows set aside whose b is only large, in the instances ``unsolved``; None if there are no such
    rows.
    """
    if not unsolved.any():
        return None
    found = equilibrate_program(program, kept, unsolved)
    before = equilibrated.aside
    more = found.aside is not None and bool((found.aside if before is None else found.aside & ~before).any())
    return found if more else None


def needed_bounds(
    equilibrated: Equilibrated, presolved: Presolved, point: Point, progress: Progress, jobs: int
) -> np.ndarray | None:
    """The bounds that were set aside and are needed, (B, m) bool; None if none is.

    Needed are bounds that the point violates, and all bounds of an instance for which no point was found without them.
    An instance that is primal infeasible without its bounds stays so, as does one that is dual infeasible and has no
    bounds but infinite ones. One that the user's limit stopped is not solved again.
    """
    if equilibrated.aside is None:
        return None
    is_open = unsolved_instances(presolved, point, progress)
    is_open |= np.array([s is Status.DUAL_INFEASIBLE for s in progress.status], dtype=bool)
    if is_open.any():
        errors = point.errors(presolved.whole)
        status = [Status.FAILED if o and s.usable else s for o, s in zip(is_open, progress.status, strict=True)]
        status = certified(presolved.smaller, status, errors.worst, progress, jobs)
        bounded = (equilibrated.aside & np.isfinite(equilibrated.program.b)).any(axis=1)
        settled = np.array(
            [
                s is Status.PRIMAL_INFEASIBLE or (s is Status.DUAL_INFEASIBLE and not h)
                for s, h in zip(status, bounded, strict=True)
            ],
            dtype=bool,
        )
        progress.status = [s if h else old for s, h, old in zip(status, settled, progress.status, strict=True)]
        is_open &= ~settled
    return put_back(equilibrated, point.x, is_open)
