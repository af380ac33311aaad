"""The linear systems J·z = r and Jᵀ·w = g of Newton's method and of derivatives, solved with one factored K for each
instance.

Every solution by K is refined on J, and its residual on J decides whether it counts. If K is singular, the minimum-norm
least-squares solution takes its place where needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self, final

import numpy as np

from conelayers.numerics.kkt import EliminatedFactorization, Factorization, combine, factorize, null_space
from conelayers.numerics.presolve import Presolved
from conelayers.numerics.residual import ROUNDING, Point, apply_jacobian, rounding_of
from conelayers.numerics.scaling import Scaling
from conelayers.numerics.trouble import Tell, Trouble, ignored
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import largest
from conelayers.support.ctrl_c import ctrl_c_arrives
from conelayers.support.limits import out_of_time, time_limit
from conelayers.support.parallel import one_blas_thread

__all__ = ["LinearizedSystem", "System"]

_ACCEPTED = 1e-10  # relative residual on J above which a solution by the factor is not accepted
_ILL_CONDITIONED = 1e-7  # relative residual up to which a nonsingular system counts as solved
_ROUNDED = 1e-4  # relative residual up to which it does if rounding of the solution itself makes that residual
_REFINED = 4e-15  # relative residual at which refinement stops
_CONSISTENT = 1e-6  # relative residual up to which a singular system may be consistent, its factor being inexact
# Relative residual up to which a singular system is refined: it is consistent if the residual vanishes.
_PROMISING = 1e-3
_MAX_REFINEMENTS = 3

_Pair = tuple[np.ndarray, np.ndarray]
_Moves = Callable[[Factorization, int], bool]  # whether the answer for an instance changes along null vectors of its K
_NullSpace = tuple[np.ndarray, np.ndarray]


@final
@dataclass
class _Computed:
    """What was computed of a linearized system so far.

    - factorization: its factor.
    - inherited: which instances have the factors that Newton's last steps left, (B,) bool.
    - null_spaces: ker K by instance; None if it was not found.
    """

    factorization: Factorization | None = None
    inherited: np.ndarray | None = None
    null_spaces: dict[int, _NullSpace | None] = field(default_factory=dict)


class System(NamedTuple):
    """A system with J or Jᵀ: its solution and corrections of it by a factored K, its residual on J, and its right-hand
    side.
    """

    first: Callable[[Factorization], _Pair]
    correct: Callable[[Factorization, np.ndarray, np.ndarray], _Pair]
    residual: Callable[[np.ndarray, np.ndarray], _Pair]
    rhs: _Pair


@dataclass(frozen=True)
class LinearizedSystem:
    """J at the points of a batch.

    - presolved: the equilibrated program.
    - point: its x, v, y and D.
    - scaling: the scaling that leads back to the user's units.
    - jobs: the number of threads.
    - parts: factors from Newton's last steps, with their instances; the others are factored for the first system, and
    kept.
    - max_seconds: the time limit of each solve.
    """

    presolved: Presolved
    point: Point
    scaling: Scaling
    jobs: int
    parts: tuple[tuple[np.ndarray, Factorization], ...] = ()
    max_seconds: float | None = None
    # Made anew with each system, also by dataclasses.replace: a factor belongs to the points that it was made at.
    computed: _Computed = field(init=False, default_factory=_Computed, repr=False, compare=False)

    @property
    def _inherited(self) -> np.ndarray:
        """Which instances have the factors that Newton's last steps left, (B,) bool."""
        if self.computed.inherited is None:
            self.computed.inherited = np.zeros(self.program.batch, dtype=bool)
            for members, _ in self.parts:
                self.computed.inherited[members] = True
        return self.computed.inherited

    def _factored_anew(self, stale: np.ndarray) -> Factorization:
        """Factor the instances ``stale``, (B,) bool, at the point itself, and keep the factorization in place of the
        old one.
        """
        parts = []
        for members, inner in self.parts:
            kept = np.flatnonzero(~stale[members])
            if kept.size:
                parts.append((members[kept], inner if kept.size == members.size else inner.take(kept)))
        self.computed.factorization = replace(self, parts=tuple(parts)).factorization
        self._inherited[stale] = False
        return self.computed.factorization

    @property
    def program(self) -> ConeProgram:
        """The equilibrated program."""
        return self.presolved.whole

    @property
    def structure(self) -> Structure:
        """The structure of the programs."""
        return self.presolved.whole.structure

    @property
    def factorization(self) -> Factorization:
        """The factored reduced KKT matrix, computed once."""
        if self.computed.factorization is None:
            self.computed.factorization = self._factorize()
        return self.computed.factorization

    def _factorize(self) -> Factorization:
        smaller = self.presolved.smaller

        def factor(missing: np.ndarray) -> Factorization:
            element = self.presolved.element(self.point.element).take(missing)
            return factorize(smaller.take(missing), element, self.jobs)

        return EliminatedFactorization.of(self.presolved, combine(self.parts, smaller.batch, factor))

    def take(self, index: np.ndarray | list[int]) -> Self:
        """The system of a part of the batch, at ascending positions."""
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
        if self.computed.factorization is not None:
            taken.computed.factorization = self.computed.factorization.take(index)
            taken.computed.inherited = self._inherited[index]
        return taken

    def _rest(self, index: np.ndarray) -> dict[str, Any]:
        """The subclass's own fields for a part of the batch."""
        return {}

    def at(self, point: Point) -> Self:
        """The system at another point; factors are kept for instances with the same D."""
        changed = np.any(point.element.values != self.point.element.values, axis=1)
        parts = []
        for members, inner in self.parts:
            kept = np.flatnonzero(~changed[members])
            if kept.size:
                parts.append((members[kept], inner if kept.size == members.size else inner.take(kept)))
        return replace(self, point=point, parts=tuple(parts))

    def newton_step(self) -> np.ndarray:
        """dv of Newton's step on F, (B, m) in the equilibrated units: to first order the error of v."""
        steps = self.forward(-self.point.F1, -self.point.F2)
        return self.solve(steps, lambda *_: False)[0][1]

    def rounding_step(self) -> tuple[np.ndarray, np.ndarray]:
        """dx (B, n) and dv (B, m) for an F of the size of its rounding errors: the least error of x and v.

        The errors are random, between half of their size and all of it, with random signs. In full size a few errors of
        the same sign may be what a move of x alone makes up for (rows A x = t with t nearly zero: their sizes are
        |A||x|), which random errors are not.
        """
        point, rng = self.point, np.random.default_rng(1)
        sizes = rounding_of(self.program, point)
        r1, r2 = (h * rng.uniform(0.5, 1.0, h.shape) * np.where(rng.random(h.shape) < 0.5, -1.0, 1.0) for h in sizes)
        return self.solve(self.forward(r1, r2), lambda *_: False)[0]

    def probe(self) -> np.ndarray:
        """The relative residual with which J·z = J·w is solved for a fixed random w, (B,)."""
        program, rng = self.program, np.random.default_rng(0)
        w = rng.standard_normal(program.q.shape), rng.standard_normal(program.b.shape)
        steps = self.forward(*apply_jacobian(program, self.point.element, *w))
        return self.solve(steps, lambda *_: False)[1].error

    def forward(self, r1: np.ndarray, r2: np.ndarray) -> System:
        """The system J·[dx; dv] = [r₁; r₂] in the equilibrated units."""
        program, element = self.program, self.point.element

        def solve(factorization: Factorization, e1: np.ndarray, e2: np.ndarray) -> _Pair:
            dx, dy = factorization.solve(e1, -e2)
            return dx, e2 + program.Ax(dx) + dy  # dv

        def residual(dx: np.ndarray, dv: np.ndarray) -> _Pair:
            a, c = apply_jacobian(program, element, dx, dv)
            return r1 - a, r2 - c

        return System(lambda f: solve(f, r1, r2), solve, residual, (r1, r2))

    def null_vectors(self, i: int, factorization: Factorization | None = None) -> _NullSpace | None:
        """ker K of an instance, from its factor, or else computed once by ``null_space``; None if it is not found."""
        return self._or_computed(i, (factorization or self.factorization).null_vectors(i))

    def null_sample(self, i: int, factorization: Factorization | None = None) -> _NullSpace | None:
        """A few null vectors of an instance: a linear map that is zero on them is zero on ker K."""
        return self._or_computed(i, (factorization or self.factorization).null_sample(i))

    def _doubtful(self, factorization: Factorization) -> np.ndarray:
        """Which instances have a singular K whose null vectors must be looked at, (B,) bool.

        If inert columns alone explain the null space, it is known to be harmless.
        """
        singular, inert = factorization.singular, self.structure.inert
        if inert is None or not singular.any():
            return singular
        free = factorization.free_columns()
        return singular if free is None else singular & ~inert.explain(free, self.point.y)

    def _or_computed(self, i: int, known: _NullSpace | None) -> _NullSpace | None:
        if known is not None or out_of_time():
            return known
        found = self.computed.null_spaces
        if i not in found:
            found[i] = null_space(self.presolved, self.point.element, i)
        return found[i]

    @np.errstate(over="ignore", invalid="ignore")  # factors that broke down are found by their residuals
    def solve(self, steps: System, moves: _Moves, consequence: str = "", tell: Tell = ignored) -> tuple[_Pair, Trouble]:
        """Solve with K and refine on J, with the pseudo-inverse where necessary.

        The pseudo-inverse is used if the residual stays too large, or if K is singular and the answer depends on the
        choice among the solutions (``moves``). Returns the solution, NaN for instances that time did not suffice for,
        and the trouble. ``tell`` is called with an ambiguity before the pseudo-inverse is computed, and with the rest
        at the end.
        """
        one_thread = self.program.structure.wants_one_blas_thread
        with ctrl_c_arrives(), one_blas_thread(one_thread), time_limit(self.max_seconds):
            factorization = self.factorization
            singular = factorization.singular  # read before the solve: a factor may find out, and be replaced, only now
            solution, error = _refine(factorization, steps)
            stale = (error > _ACCEPTED) & self._inherited
            if stale.any():
                # A last correction of the point may have moved v across a kink, so that D is not the one that was
                # factored.
                factorization = self._factored_anew(stale)
                singular = factorization.singular
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
            rounded = self._rounded(steps, solution, error, singular)
            again = (error > _ACCEPTED) & ~rounded
            again[trouble.ambiguous] = True
            reported, unfinished = trouble.ambiguous, []
            if again.any():
                factorization = factorization.use_pseudo_inverse(np.flatnonzero(again))
                second, second_error = _refine(factorization, steps)
                # An inconsistent system keeps a large residual, and its regularized "solution" is of size 1/δ: K⁺
                # replaces it.
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
                trouble = trouble._replace(ambiguous=sorted({*reported, *late} - {*unfinished}))
            singular = factorization.singular
            wrong = error > np.where(singular, _ACCEPTED, _ILL_CONDITIONED)
            inconsistent = np.flatnonzero(wrong & ~(rounded & ~again))
            trouble = trouble._replace(
                error=error,
                singular=singular,
                inconsistent=[i for i in inconsistent.tolist() if i not in unfinished],
                unfinished=unfinished,
            )
            unreported = trouble._replace(ambiguous=[i for i in trouble.ambiguous if i not in reported])
            if unreported.instances:
                tell(unreported)
            return solution, trouble

    def _rounded(self, steps: System, solution: _Pair, error: np.ndarray, singular: np.ndarray) -> np.ndarray:
        """The instances with a regular K whose residual is no more than rounding of the solution z in J·z, (B,) bool.

        If a solution is 1e9 times as large as the right-hand side, such as multipliers beside a weight of 1e9, its
        rounding alone makes a residual of 1e−7.
        """
        rounded = (error > _ACCEPTED) & (error <= _ROUNDED) & ~singular
        if rounded.any():
            sizes, cones = self.program.magnitudes, self.structure.cones
            first, second = (np.abs(h) for h in solution)
            # D mixes the rows of a block, and no row becomes larger than the block.
            of_rows, of_D = (
                np.repeat(cones.block_sums(h), cones.block_sizes, axis=1)
                for h in (second + sizes.A.matvec(first), second)
            )
            of_columns = sizes.A.rmatvec(of_D)
            if self.structure.P.nnz:
                of_columns = of_columns + sizes.P.matvec(first)
            for left, size in zip(steps.residual(*solution), (of_columns, of_rows), strict=True):
                rounded &= (np.abs(left) <= ROUNDING * size).all(axis=1)
        return rounded


def _refine(factorization: Factorization, steps: System) -> tuple[_Pair, np.ndarray]:
    """The solution after iterative refinement on J, which recovers the digits that a tiny √Λ costs; and the relative
    residual, (B,).
    """
    first, correct, residual, rhs = steps
    size = np.maximum(largest(rhs[0]), largest(rhs[1]))
    # Right-hand sides that are zero, or nearly, have the solution zero. Those that are not finite have none to be
    # checked.
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
    # For an inconsistent system the answer is K⁺ without refinement.
    back = doubtful & (error > _ACCEPTED)
    if back.any():
        a, c = np.where(back[:, None], unrefined[0], a), np.where(back[:, None], unrefined[1], c)
        error = np.where(back, unrefined[2], error)
    unchecked = np.isinf(size)
    return (a, c), np.where(unchecked, 0.0, np.where(np.isfinite(error), error, np.inf))
