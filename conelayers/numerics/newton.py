"""Semismooth Newton on the residual map: from a rough point, or the previous solution, to machine precision.

A step solves J(D)·[dx; dv] = −F, which is the reduced KKT system (kkt/factorization.py) with r = −F. Near a solution
with an invertible J the method converges superlinearly (Qi, Sun 1993). Far from it, or if J is singular on the way, a
proximal step

    K_δ [dx; t] = [−F₁; √Λ UᵀF₂],   dv = A dx − F₂ + (1 − δ) U√Λ t,   δ = μ·min(1e−2, 0.1‖F‖),

is a descent direction once δ is large enough. μ is multiplied by 30 if the line search on ‖F‖ fails, and divided by 5
after a full step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.cones import ProductElement
from conelayers.numerics.kkt import Factorization, Part, factorize
from conelayers.numerics.residual import ACCURACY, Point, evaluate
from conelayers.program.cone_program import ConeProgram
from conelayers.support.limits import out_of_time

__all__ = ["Polished", "polish"]

_DIVERGED = 1e6  # error from which an instance is given up
_LARGEST = 1e-2  # largest δ/μ
_HALVINGS = 5  # of a step in the line search
_REFINEMENTS = 3  # solves with the last factor
_GROWTH, _DECAY = 30.0, 5.0  # of μ
_MOST = 1e8  # μ from which no more proximal steps are made
_SAME = 1e-4  # change of D's eigenvalues up to which the factor of the previous step is good enough for refinement


@final
class Polished(NamedTuple):
    """The best point of each instance, and factorizations (indices, factors) at these points."""

    x: np.ndarray
    v: np.ndarray
    error: np.ndarray  # the scaled ‖F‖ of residual.py, (B,)
    parts: list[Part]
    point: Point | None  # all points evaluated, if they happen to be


@np.errstate(over="ignore", invalid="ignore")  # steps that are not finite are found and dropped
def polish(
    program: ConeProgram,
    x: np.ndarray,
    v: np.ndarray,
    *,
    tolerance: float,
    enough: float,
    plain_steps: int,
    proximal_steps: int,
    jobs: int,
    known: Sequence[Part] = (),
    patience: int | None = None,
) -> Polished:
    """Newton steps from (x, v), each instance by itself, until ‖F‖ is below ``tolerance`` or stalls below ``enough``.

    First come up to ``plain_steps`` full steps, of which the best point is kept; then, for instances that are not below
    ``enough``, up to ``proximal_steps`` guarded ones. No step begins after the call's time limit.

    - known: factorizations at the start, if there are any.
    - patience: how many full steps in a row may bring no improvement.
    """
    state = _State(program, x, v, tolerance, jobs, known)
    state.plain(plain_steps, patience)
    if proximal_steps:
        unsolved = np.flatnonzero(state.error > enough)
        if unsolved.size:
            state.proximal(unsolved, proximal_steps)
            state.plain(3)
    return Polished(state.x, state.v, state.error, state.parts, state.point)


class _State:
    """The best points so far, and the factors at these points."""

    def __init__(
        self,
        program: ConeProgram,
        x: np.ndarray,
        v: np.ndarray,
        tolerance: float,
        jobs: int,
        known: Sequence[Part],
    ) -> None:
        self.program, self.tolerance, self.jobs, self._known = program, tolerance, jobs, known
        self.x, self.v = x.copy(), v.copy()
        self.point: Point | None = evaluate(program, x, v)
        self._first: Point | None = self.point
        errors = self.point.errors(program)
        self.error = self.point.error(program, errors)
        self.parts: list[Part] = []
        self._finished = np.zeros(program.batch, dtype=bool)  # more steps would gain nothing
        for index, inner in known:
            arrived = np.flatnonzero(self.error[index] <= tolerance)
            if arrived.size:
                factorization = inner if arrived.size == index.size else inner.take(arrived)
                self.parts.append((index[arrived], factorization))
                self._refine(index[arrived], self.point, index[arrived], factorization, errors.aim)

    def plain(self, steps: int, patience: int | None = None) -> None:
        """Make full steps."""
        todo = np.flatnonzero((self.error > self.tolerance) & np.isfinite(self.error) & ~self._finished)
        if not todo.size or not steps:
            return
        part = self.program.take(todo)
        local = self._first if self._first is not None and todo.size == self.program.batch else None
        self._first = None
        current = (self.x[todo], self.v[todo])
        patience = steps if patience is None else patience
        wait = np.full(todo.size, patience)
        for _ in range(steps):
            if todo.size == 0 or out_of_time():
                return
            local = local if local is not None else evaluate(part, *current)
            factorization, self._known = self._factor(part, local, todo), ()
            dx, dy = factorization.solve(-local.F1, local.F2)
            x, v = local.x + dx, local.v + part.Ax(dx) - local.F2 + dy
            usable = np.isfinite(x).all(axis=1) & np.isfinite(v).all(axis=1)
            x[~usable], v[~usable] = 0.0, 0.0
            candidate = evaluate(part, x, v)
            errors = candidate.errors(part)
            error = candidate.error(part, errors)
            before = self.error[todo]
            better = usable & (error < before)
            # Far from the solution the error may rise while the active set settles. Near it, no progress means
            # rounding.
            stalled = (before <= ACCURACY) & (error > 0.5 * before)
            done = stalled | (error <= self.tolerance)
            self._keep(todo, candidate, better, error)
            self._keep_factors(todo, factorization, local.element, candidate.element, done, better)
            self._finished[todo[done]] = True
            arrived = np.flatnonzero(done & better)
            if arrived.size:
                inner = factorization if arrived.size == todo.size else factorization.take(arrived)
                self._refine(todo[arrived], candidate, arrived, inner, errors.aim)
            wait = np.where(better, patience, wait - 1)
            going = np.flatnonzero(usable & ~done & (error < _DIVERGED) & (wait >= 0))
            wait = wait[going]
            if going.size == todo.size:
                local = candidate
            else:
                todo, part, local = todo[going], part.take(going), None
                current = (x[going], v[going])

    def _refine(
        self, index: np.ndarray, points: Point, places: np.ndarray, factorization: Factorization, aim: np.ndarray
    ) -> None:
        """Make a few more steps with the same factors, for rows that are exact only up to the rounding of larger rows.

        ``index`` are the instances of the factors; ``places`` are their positions in ``points`` and ``aim``.
        """
        inexact = np.flatnonzero((aim[places] > self.tolerance) & np.isfinite(aim[places]))
        if not inexact.size:
            return
        point, program, aim = points.take(places[inexact]), self.program.take(index[inexact]), aim[places[inexact]]
        factorization, index = factorization.take(inexact), index[inexact]
        error = self.error[index]
        for _ in range(_REFINEMENTS):
            dx, dy = factorization.solve(-point.F1, point.F2)
            refined = evaluate(program, point.x + dx, point.v + program.Ax(dx) - point.F2 + dy)
            errors = refined.errors(program)
            next_error = refined.error(program, errors)
            better = (errors.aim < 0.5 * aim) & (next_error <= np.maximum(error, self.tolerance))
            if not better.any():
                return
            self._keep(index, refined, better, next_error)
            aim, error = np.where(better, errors.aim, 0.0), np.where(better, next_error, error)
            point = refined

    def _factor(self, part: ConeProgram, local: Point, todo: np.ndarray) -> Factorization:
        for index, inner in self._known:
            if np.isin(todo, index).all():
                return inner if todo.size == index.size else inner.take(np.searchsorted(index, todo))
        return factorize(part, local.element, self.jobs)

    def _keep(self, todo: np.ndarray, point: Point, better: np.ndarray, error: np.ndarray) -> None:
        if better.all() and todo.size == self.program.batch:
            self.x, self.v, self.error, self.point = point.x, point.v, error, point
            return
        chosen = todo[better]
        if not chosen.size:
            return
        if self.point is not None:
            self.x, self.v, self.error, self.point = self.x.copy(), self.v.copy(), self.error.copy(), None
        self.x[chosen], self.v[chosen], self.error[chosen] = point.x[better], point.v[better], error[better]

    def _keep_factors(
        self,
        todo: np.ndarray,
        factorization: Factorization,
        used: ProductElement,
        reached: ProductElement,
        done: np.ndarray,
        better: np.ndarray,
    ) -> None:
        """Keep the factors of finished instances whose D has hardly changed: exact on orthants, used with refinement on
        other cones.
        """
        change = np.abs(used.values - reached.values)
        support = (used.values > 0) == (reached.values > 0)
        # A step that did not improve ends at the point where it was factored.
        same = ~better | ((np.max(change, axis=1, initial=0.0) <= _SAME) & support.all(axis=1))
        kept = np.flatnonzero(done & same)
        if kept.size:
            self.parts.append((todo[kept], factorization if kept.size == todo.size else factorization.take(kept)))

    def proximal(self, todo: np.ndarray, steps: int) -> None:
        """Make proximal steps, guarded by a line search, for the instances ``todo``."""
        mu = np.ones(todo.size)
        x, v = self.x[todo], self.v[todo]
        for _ in range(steps):
            if todo.size == 0 or out_of_time():
                return
            part = self.program.take(todo)
            local = evaluate(part, x, v)
            size = _size(local)
            delta = mu * np.minimum(_LARGEST, 0.1 * size)
            factorization = factorize(part, local.element, self.jobs, delta)
            dx, dy = factorization.solve(-local.F1, local.F2)
            dv = part.Ax(dx) - local.F2 + (1 - delta)[:, None] * dy
            x, v, step = _line_search(part, local, size, dx, dv)
            candidate = evaluate(part, x, v)
            error = candidate.error(part)
            self._keep(todo, candidate, error < self.error[todo], error)
            mu = np.where(step == 1, mu / _DECAY, np.where(step == 0, mu * _GROWTH, mu))
            going = (error > ACCURACY) & (mu < _MOST)
            todo, x, v, mu = todo[going], x[going], v[going], mu[going]


def _size(point: Point) -> np.ndarray:
    """‖F‖, (B,)."""
    return np.sqrt(np.sum(point.F1**2, axis=1) + np.sum(point.F2**2, axis=1))


def _line_search(
    program: ConeProgram, point: Point, size: np.ndarray, dx: np.ndarray, dv: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, v and the step for each instance: the largest of 1, ½, … that lowers ‖F‖ enough, or 0."""
    usable = np.isfinite(dx).all(axis=1) & np.isfinite(dv).all(axis=1)
    dx, dv = np.where(usable[:, None], dx, 0.0), np.where(usable[:, None], dv, 0.0)
    step, found = np.ones(size.size), ~usable
    for _ in range(_HALVINGS):
        trial = _size(evaluate(program, point.x + step[:, None] * dx, point.v + step[:, None] * dv))
        found |= trial <= (1 - 1e-4 * step) * size
        if found.all():
            break
        step = np.where(found, step, step / 2)
    step = np.where(found & usable, step, 0.0)
    return point.x + step[:, None] * dx, point.v + step[:, None] * dv, step
