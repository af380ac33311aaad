"""The linear systems of Newton's method and of derivatives at the points of a batch: J·z = r and Jᵀ·w = g, from one factored K.

K is solved with, J decides: every solution is refined on J, and where K is singular the minimum-norm least-squares solution takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from conelayers.numerics.kkt import EliminatedFactorization, Factorization, combine, factorize, null_space
from conelayers.numerics.presolve import Presolved
from conelayers.numerics.residual import Point, apply_jacobian, rounding_of
from conelayers.numerics.scaling import Scaling
from conelayers.numerics.trouble import Tell, Trouble, ignored
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import largest
from conelayers.support.limits import out_of_time, time_limit
from conelayers.support.parallel import one_blas_thread

__all__ = ["LinearizedSystem", "System"]

_ACCEPTED = 1e-10  # relative residual of J above which the factor is not trusted
_ILL_CONDITIONED = 1e-7  # and the one up to which a nonsingular system counts as solved
_REFINED = 4e-15
_CONSISTENT = 1e-6  # residual up to which a singular system may be a consistent one whose factor is a little off
_PROMISING = 1e-3  # and the one up to which it is, where refinement makes it vanish
_MAX_REFINEMENTS = 3

_Pair = tuple[np.ndarray, np.ndarray]
_Moves = Callable[[Factorization, int], bool]


class System(NamedTuple):
    """A system with J: its first solution and corrections by a factored K, its residual, and its right-hand side."""

    first: Callable[[Factorization], _Pair]
    correct: Callable[[Factorization, np.ndarray, np.ndarray], _Pair]
    residual: Callable[[np.ndarray, np.ndarray], _Pair]
    rhs: _Pair


@dataclass(frozen=True)
class LinearizedSystem:
    """J at the points of a batch.

    ``presolved`` is the equilibrated program, ``point`` its x, v, y and D; ``scaling`` leads back to the user's units. What Newton's last
    steps factored (``parts``) is used; the rest is factored when the first system is solved, and kept. ``max_seconds`` limits each solve.
    """

    presolved: Presolved
    point: Point
    scaling: Scaling
    jobs: int
    parts: tuple[tuple[np.ndarray, Factorization], ...] = ()
    max_seconds: float | None = None

    @property
    def program(self) -> ConeProgram:
        """The equilibrated program."""
        return self.presolved.whole

    @property
    def structure(self) -> Structure:
        """That of the programs."""
        return self.presolved.whole.structure

    @cached_property
    def factorization(self) -> Factorization:
        """The factored reduced KKT matrix."""
        smaller = self.presolved.smaller

        def factor(missing: np.ndarray) -> Factorization:
            element = self.presolved.element(self.point.element).take(missing)
            return factorize(smaller.take(missing), element, self.jobs)

        return EliminatedFactorization.of(self.presolved, combine(self.parts, smaller.batch, factor))

    def take(self, index: np.ndarray | list[int]) -> Self:
        """That of a part of the batch, at ascending positions."""
        index = np.asarray(index)
        if index.size == self.program.batch:
            return self
        parts = []
        for members, inner in self.parts:
            kept = np.flatnonzero(np.isin(members, index))
            if kept.size:
                parts.append((np.searchsorted(index, members[kept]), inner.take(kept)))
        taken = replace(
            self,
            presolved=self.presolved.take(index),
            point=self.point.take(index),
            scaling=self.scaling.take(index),
            parts=tuple(parts),
            **self._rest(index),
        )
        if "factorization" in self.__dict__:
            taken.__dict__["factorization"] = self.factorization.take(index)
        return taken

    def _rest(self, index: np.ndarray) -> dict[str, Any]:
        """What a subclass has of a part of the batch, by its field."""
        return {}

    def at(self, point: Point) -> Self:
        """At another point; factors are kept where D is the same."""
        changed = np.any(point.element.values != self.point.element.values, axis=1)
        parts = []
        for members, inner in self.parts:
            kept = np.flatnonzero(~changed[members])
            if kept.size:
                parts.append((members[kept], inner if kept.size == members.size else inner.take(kept)))
        return replace(self, point=point, parts=tuple(parts))

    def newton_step(self) -> np.ndarray:
        """dv of Newton's step on F from here, (B, m) in the equilibrated units: to first order, how far off v is."""
        steps = self.forward(-self.point.F1, -self.point.F2)
        return self.solve(steps, lambda *_: False)[0][1]

    def rounding_step(self) -> tuple[np.ndarray, np.ndarray]:
        """dx (B, n) and dv (B, m) for an F of the size of its rounding errors, with random signs: how well x and v can be known at all."""
        point, rng = self.point, np.random.default_rng(1)
        sizes = rounding_of(self.program, point)
        r1, r2 = (np.where(rng.random(h.shape) < 0.5, -h, h) for h in sizes)
        return self.solve(self.forward(r1, r2), lambda *_: False)[0]

    def probe(self) -> np.ndarray:
        """The relative residual with which J·z = J·w is solved for a fixed random w, (B,)."""
        program, rng = self.program, np.random.default_rng(0)
        w = rng.standard_normal(program.q.shape), rng.standard_normal(program.b.shape)
        steps = self.forward(*apply_jacobian(program, self.point.element, *w))
        return self.solve(steps, lambda *_: False)[1].error

    def forward(self, r1: np.ndarray, r2: np.ndarray) -> System:
        """J·[dx; dv] = [r₁; r₂] in the equilibrated units."""
        program, element = self.program, self.point.element

        def solve(factorization: Factorization, e1: np.ndarray, e2: np.ndarray) -> _Pair:
            dx, dy = factorization.solve(e1, -e2)
            return dx, e2 + program.Ax(dx) + dy  # dv

        def residual(dx: np.ndarray, dv: np.ndarray) -> _Pair:
            a, c = apply_jacobian(program, element, dx, dv)
            return r1 - a, r2 - c

        return System(lambda f: solve(f, r1, r2), solve, residual, (r1, r2))

    def null_vectors(self, i: int, factorization: Factorization | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """ker K of an instance: what its factor knows, else found for its own sake, once; None if it is not found."""
        return self._or_found(i, (factorization or self.factorization).null_vectors(i))

    def null_sample(self, i: int, factorization: Factorization | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """A few null vectors of an instance that stand for all: what is zero on them is zero on ker K."""
        return self._or_found(i, (factorization or self.factorization).null_sample(i))

    def _doubtful(self, factorization: Factorization) -> np.ndarray:
        """Which instances have a singular K whose null vectors are to be looked at, (B,) bool: inert columns are known to be harmless."""
        singular, inert = factorization.singular, self.structure.inert
        if inert is None or not singular.any():
            return singular
        free = factorization.free_columns()
        return singular if free is None else singular & ~inert.explain(free, self.point.y)

    def _or_found(self, i: int, known: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray] | None:
        if known is not None or out_of_time():
            return known
        if i not in self._found:
            self._found[i] = null_space(self.presolved, self.point.element, i)
        return self._found[i]

    @cached_property
    def _found(self) -> dict[int, tuple[np.ndarray, np.ndarray] | None]:
        return {}

    @np.errstate(over="ignore", invalid="ignore")  # factors that broke down are found by their residuals
    def solve(self, steps: System, moves: _Moves, consequence: str = "", tell: Tell = ignored) -> tuple[_Pair, Trouble]:
        """Solve on K, refine on J; where a factor does not deliver, or the ambiguity of a singular K reaches what was asked for,
        with the pseudo-inverse. The solution, NaN where time ran out, and what is wrong with it, of which ``tell`` is told: of
        ambiguity before the pseudo-inverse is computed, of the rest when it is known.
        """
        with one_blas_thread(self.program.structure.wants_one_blas_thread), time_limit(self.max_seconds):
            factorization = self.factorization
            singular = factorization.singular  # asked first: a factor may find out only then, and be replaced
            solution, error = _refine(factorization, steps)
            trouble = Trouble(
                error,
                singular,
                [
                    int(i)
                    for i in np.flatnonzero(self._doubtful(factorization) & (error <= _ACCEPTED))
                    if moves(factorization, int(i))
                ],
                [],
                consequence,
            )
            if trouble.ambiguous:
                tell(trouble)
            again = error > _ACCEPTED
            again[trouble.ambiguous] = True
            told, unfinished = trouble.ambiguous, []
            if again.any():
                factorization = factorization.use_pseudo_inverse(np.flatnonzero(again))
                second, second_error = _refine(factorization, steps)
                # An inconsistent system has no small residual; its regularized "solution" is of size 1/δ.
                take = again & (factorization.singular | (second_error < error))
                solution = (
                    np.where(take[:, None], second[0], solution[0]),
                    np.where(take[:, None], second[1], solution[1]),
                )
                error = np.where(take, second_error, error)
                found = factorization.singular & ~singular & (error <= _ACCEPTED)
                late = [int(i) for i in np.flatnonzero(found) if moves(factorization, int(i))]
                finite = np.isfinite(solution[0]).all(axis=1) & np.isfinite(solution[1]).all(axis=1)
                unfinished = np.flatnonzero(again & ~finite).tolist() if out_of_time() else []
                trouble = trouble._replace(ambiguous=sorted({*told, *late} - {*unfinished}))
            singular = factorization.singular
            inconsistent = np.flatnonzero(error > np.where(singular, _ACCEPTED, _ILL_CONDITIONED))
            trouble = trouble._replace(
                error=error,
                singular=singular,
                inconsistent=[i for i in inconsistent.tolist() if i not in unfinished],
                unfinished=unfinished,
            )
            news = trouble._replace(ambiguous=[i for i in trouble.ambiguous if i not in told])
            if news.instances:
                tell(news)
            return solution, trouble


def _refine(factorization: Factorization, steps: System) -> tuple[_Pair, np.ndarray]:
    """Iterative refinement on J, which also recovers the digits that a tiny √Λ costs on K; the relative residual, (B,)."""
    first, correct, residual, rhs = steps
    size = np.maximum(largest(rhs[0]), largest(rhs[1]))
    # Cotangents that are zero (or all but) have the solution zero, those that are not finite have none to be checked.
    size = np.where((size > 1e-290) & np.isfinite(size), size, np.inf)
    a, c = first(factorization)
    e1, e2 = residual(a, c)
    with np.errstate(invalid="ignore"):
        error = np.maximum(largest(e1), largest(e2)) / size
    doubtful = factorization.singular & (error > _CONSISTENT) & (error <= _PROMISING)
    unrefined = a, c, error
    for _ in range(_MAX_REFINEMENTS):
        if np.all(error <= _REFINED):
            break
        da, dc = correct(factorization, e1, e2)
        f1, f2 = residual(a + da, c + dc)
        next_error = np.maximum(largest(f1), largest(f2)) / size
        better = ((next_error < error) & (~factorization.singular | (error <= _PROMISING)))[:, None]
        stalled = not np.any(better[:, 0] & (next_error < 0.5 * error))
        a, c = np.where(better, a + da, a), np.where(better, c + dc, c)
        e1, e2 = np.where(better, f1, e1), np.where(better, f2, e2)
        error = np.where(better[:, 0], next_error, error)
        if stalled:
            break
    # K⁺ of an inconsistent system is the answer as it is.
    back = doubtful & (error > _ACCEPTED)
    if back.any():
        a, c = np.where(back[:, None], unrefined[0], a), np.where(back[:, None], unrefined[1], c)
        error = np.where(back, unrefined[2], error)
    unchecked = np.isinf(size)
    return (a, c), np.where(unchecked, 0.0, np.where(np.isfinite(error), error, np.inf))
