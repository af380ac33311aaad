"""The derivative of the solution map of a cone program, forward and adjoint, from one factorization.

At a solution, with D ∈ ∂_C Π_{K*}(v) and J = J(D) (residual.py), the implicit function theorem gives

    tangent   J·[dx; dv] = [r₁; r₂],  r₁ = −(dP x + dAᵀy + dq),  r₂ = −(−dA x + db),   dy = D dv,  ds = (D − I) dv
    adjoint   Jᵀ·[λ; μ] = [gx; D gy + (D − I) gs],   dq = −λ,  db = −μ,  dA = −y λᵀ + μ xᵀ,  dP = −½(λxᵀ + xλᵀ)

Agrawal, Barratt, Boyd, Busseti, Moursi (2019); for nonsmooth Π: Bolte, Le, Pauwels, Silveti-Falls (2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, Protocol, final

import numpy as np

from conelayers.cones import Selection
from conelayers.errors import SingularDerivativeWarning
from conelayers.kkt import EliminatedFactorization, Factorization, combine, factorize, null_space
from conelayers.limits import OUT_OF_TIME, out_of_time, time_limit
from conelayers.parallel import one_blas_thread
from conelayers.presolve import Presolved
from conelayers.program import ConeProgram, Structure, largest
from conelayers.residual import Point, apply_jacobian, apply_jacobian_transpose, rounding_of
from conelayers.scaling import Scaling

__all__ = ["Linearization", "NullTest", "NullVectors", "SolutionMap", "Tell", "Trouble", "always", "ignored", "warn_of"]

_ACCEPTED = 1e-10  # relative residual of J above which the factor is not trusted
_ILL_CONDITIONED = 1e-7  # and the one up to which a nonsingular system counts as solved
_REFINED = 4e-15
_CONSISTENT = 1e-6  # residual up to which a singular system may be a consistent one whose factor is a little off
_PROMISING = 1e-3  # and the one up to which it is, where refinement makes it vanish
_MAX_REFINEMENTS = 3

_Pair = tuple[np.ndarray, np.ndarray]
_Moves = Callable[[Factorization, int], bool]


@final
class NullVectors(NamedTuple):
    """Null vectors of J, (dx, dy), or of Jᵀ, (λ, μ): first (k, n) and last (k, m), in the user's units; and what the number 1 of the
    equilibrated units is in these, (n,) and (m,): an entry is compared with its own unit, never with one of another.
    """

    first: np.ndarray
    last: np.ndarray
    first_unit: np.ndarray
    last_unit: np.ndarray

    @property
    def size(self) -> float:
        """The largest entry in the equilibrated units."""
        sizes = (
            np.max(np.abs(h) / unit, initial=0.0)
            for h, unit in ((self.first, self.first_unit), (self.last, self.last_unit))
        )
        return float(max(sizes))


NullTest = Callable[[int, NullVectors], bool]


def always(i: int, null: NullVectors) -> bool:
    """Whoever reads everything is concerned by every null vector."""
    return True


@final
class Trouble(NamedTuple):
    """What is wrong with a linear system: its relative residual (B,), where K is singular (B,), the instances in which that
    reaches what was asked for, those for which the system has no solution, what it means, and the instances that
    max_seconds left without an answer.
    """

    error: np.ndarray
    singular: np.ndarray
    ambiguous: list[int]
    inconsistent: list[int]
    consequence: str
    unfinished: list[int] = []  # noqa: RUF012

    @property
    def instances(self) -> list[int]:
        """Those concerned."""
        return sorted({*self.ambiguous, *self.inconsistent, *self.unfinished})

    @property
    def message(self) -> str:
        """What happened, at which instances."""
        reasons = []
        if self.inconsistent:
            reasons.append(
                f"at batch index {self.inconsistent[:10]} its system has no solution for this direction "
                f"(relative residual up to {float(np.max(self.error[self.inconsistent])):.1e})"
            )
        if self.ambiguous:
            reasons.append(f"at batch index {self.ambiguous[:10]} {self.consequence}")
        outcome = "The minimum-norm least-squares solution is returned."
        if self.unfinished:
            reasons.append(
                f"at batch index {self.unfinished[:10]} {OUT_OF_TIME} before a least-squares solution was found"
            )
            others = f" {outcome[:-1]} for the others." if self.ambiguous or self.inconsistent else ""
            outcome = (
                f"The derivative is NaN there.{others} Raise max_seconds (in solver_args), or make the problem regular."
            )
        return (
            "The Jacobian of the optimality conditions is singular, and no exact derivative exists: "
            + "; ".join(reasons)
            + f". {outcome} Usual causes: a solution that is not unique (add a small "
            "quadratic term), redundant constraints (remove them), or more active constraints than the solution needs."
        )


Tell = Callable[[Trouble], None]


def ignored(trouble: Trouble) -> None:
    """For whoever does not want to hear of it."""


class SolutionMap(Protocol):
    """A linearized solution map of a batch, wherever its factors are.

    ``tell`` hears of trouble in the place of what the layer's policy says.
    """

    @property
    def structure(self) -> Structure:
        """That of the programs."""

    def take(self, index: np.ndarray | list[int]) -> Linearization:
        """That of a part of the batch, at ascending positions."""

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m) for the right-hand side r₁ (B, n), r₂ (B, m)."""

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m) for the cotangents gx (B, n), gy (B, m), gs (B, m)."""


def warn_of(linearization: SolutionMap, trouble: Trouble) -> None:
    """What is done about trouble where nobody asked for anything else: a SingularDerivativeWarning."""
    warnings.warn(trouble.message, SingularDerivativeWarning, stacklevel=6)


class _Steps(NamedTuple):
    """A system with J: its first solution and corrections by a factored K, its residual, and its right-hand side."""

    first: Callable[[Factorization], _Pair]
    correct: Callable[[Factorization, np.ndarray, np.ndarray], _Pair]
    residual: Callable[[np.ndarray, np.ndarray], _Pair]
    rhs: _Pair


@final
@dataclass(frozen=True)
class Linearization:
    """The solution map of a batch, linearized at its solutions.

    ``presolved`` is the equilibrated program, ``point`` its x, v, y and D; ``scaling`` leads back to the user's units, in
    which all arguments and results are. What Newton's last steps factored (``parts``) is used; the rest is factored at the
    first derivative, and kept.
    """

    presolved: Presolved
    point: Point
    scaling: Scaling
    jobs: int
    parts: tuple[tuple[np.ndarray, Factorization], ...] = ()
    on_trouble: Callable[[SolutionMap, Trouble], None] = warn_of
    open_rows: np.ndarray | None = None  # (B, m) bool: without a bound, whose s does not move
    max_seconds: float | None = None  # of each system that is solved

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

    def take(self, index: np.ndarray | list[int]) -> Linearization:
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
            open_rows=None if self.open_rows is None else self.open_rows[index],
        )
        if "factorization" in self.__dict__:
            taken.__dict__["factorization"] = self.factorization.take(index)
        return taken

    def select(self, selection: Selection) -> Linearization:
        """With the Clarke element that ``selection`` asks for."""
        if selection is Selection.DEFAULT:
            return self
        element = self.program.structure.cones.element(self.point.v, selection, self.scaling.balance)
        return self.at(self.point._replace(element=element))

    def at(self, point: Point) -> Linearization:
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
        steps = self._forward(-self.point.F1, -self.point.F2)
        return self._solve(steps, lambda *_: False)[0][1]

    def rounding_step(self) -> tuple[np.ndarray, np.ndarray]:
        """dx (B, n) and dv (B, m) for an F of the size of its rounding errors, with random signs: how well x and v can be known at all."""
        point, rng = self.point, np.random.default_rng(1)
        sizes = rounding_of(self.program, point)
        r1, r2 = (np.where(rng.random(h.shape) < 0.5, -h, h) for h in sizes)
        return self._solve(self._forward(r1, r2), lambda *_: False)[0]

    def probe(self) -> np.ndarray:
        """The relative residual with which J·z = J·w is solved for a fixed random w, (B,)."""
        program, rng = self.program, np.random.default_rng(0)
        w = rng.standard_normal(program.q.shape), rng.standard_normal(program.b.shape)
        steps = self._forward(*apply_jacobian(program, self.point.element, *w))
        return self._solve(steps, lambda *_: False)[1].error

    def tangent(
        self, r1: np.ndarray, r2: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m) for the right-hand side r₁ (B, n), r₂ (B, m).

        Where J is singular it is the minimum-norm least-squares solution (on the equilibrated K), and there a
        SingularDerivativeWarning is issued if the system is inconsistent, or if ``matters(i, null)`` says that what the
        caller reads from the solution of instance i changes along null vectors (dx, dy) of J.
        """
        program, element = self.program, self.point.element
        r1, r2 = self.scaling.scale_rows(r1, self._on_bounds(r2))

        def moves(factorization: Factorization, i: int) -> bool:
            null = self.null_sample(i, factorization)
            if null is None:
                return True
            scaling = self.scaling.take([i])
            units = scaling.d[0] / scaling.beta[0], scaling.e[0] / scaling.gamma[0]
            return matters(i, NullVectors(null[0] * units[0], null[1] * units[1], *units))

        consequence = "the solution is not unique in what was asked for"
        (dx, dv), trouble = self._solve(
            self._forward(r1, r2), moves, consequence, tell or partial(self.on_trouble, self)
        )
        singular = trouble.singular
        # Where J is regular, dy = D dv. In a least-squares solution that fails, and Bη keeps ⟨g, Jr⟩ = ⟨Jᵀg, r⟩.
        ds = -program.Ax(dx) - r2
        dy = np.where(singular[:, None], dv + ds, element.apply(dv))
        return self.scaling.unscale(dx, dy, dy - dv)

    def _forward(self, r1: np.ndarray, r2: np.ndarray) -> _Steps:
        """J·[dx; dv] = [r₁; r₂] in the equilibrated units."""
        program, element = self.program, self.point.element

        def solve(factorization: Factorization, e1: np.ndarray, e2: np.ndarray) -> _Pair:
            dx, dy = factorization.solve(e1, -e2)
            return dx, e2 + program.Ax(dx) + dy  # dv

        def residual(dx: np.ndarray, dv: np.ndarray) -> _Pair:
            a, c = apply_jacobian(program, element, dx, dv)
            return r1 - a, r2 - c

        return _Steps(lambda f: solve(f, r1, r2), solve, residual, (r1, r2))

    def adjoint(
        self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray, matters: NullTest = always, *, tell: Tell | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m) for the cotangents gx (B, n), gy (B, m), gs (B, m).

        Warns like ``tangent``; here the null vectors given to ``matters`` are (λ, μ), those of Jᵀ: data whose gradient they
        change can be moved to where the optimality conditions have no solution nearby.
        """
        program, element = self.program, self.point.element
        gx, gy, gs = self.scaling.scale_cotangents(gx, self._on_bounds(gy), self._on_bounds(gs))
        h = element.apply(gy + gs) - gs

        def first(factorization: Factorization) -> _Pair:
            lam, minus = factorization.solve(gx - program.ATy(gs), gy)
            return lam, -gs - minus

        def correct(factorization: Factorization, e1: np.ndarray, e2: np.ndarray) -> _Pair:
            # Any e₂ is D gy + (D − I) gs with gy = e₂, gs = −e₂.
            lam, minus = factorization.solve(e1 + program.ATy(e2), e2)
            return lam, e2 - minus

        def residual(lam: np.ndarray, mu: np.ndarray) -> _Pair:
            a, c = apply_jacobian_transpose(program, element, lam, mu)
            return gx - a, h - c

        def moves(factorization: Factorization, i: int) -> bool:
            null = self.null_sample(i, factorization)
            if null is None:
                return True
            scaling = self.scaling.take([i])
            units = scaling.gamma[0] * scaling.d[0], scaling.beta[0] * scaling.e[0]
            return matters(i, NullVectors(null[0] * units[0], -null[1] * units[1], *units))

        steps = _Steps(first, correct, residual, (gx, h))
        consequence = "some changes of the data leave no solution nearby"
        (lam, mu), _ = self._solve(steps, moves, consequence, tell or partial(self.on_trouble, self))
        return self.scaling.scale_rows(lam, mu)

    def _on_bounds(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.open_rows is None else np.where(self.open_rows, 0.0, rows)

    def null_vectors(self, i: int, factorization: Factorization | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """ker K of an instance: what its factor knows, else found for its own sake, once; None if it is not found."""
        return self._or_found(i, (factorization or self.factorization).null_vectors(i))

    def null_sample(self, i: int, factorization: Factorization | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """A few null vectors of an instance that stand for all: what is zero on them is zero on ker K."""
        return self._or_found(i, (factorization or self.factorization).null_sample(i))

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
    def _solve(
        self, steps: _Steps, moves: _Moves, consequence: str = "", tell: Tell = ignored
    ) -> tuple[_Pair, Trouble]:
        """Solve on K, refine on J; where a factor does not deliver, or the ambiguity of a singular K reaches what was asked for,
        with the pseudo-inverse. The solution, NaN where time ran out, and what is wrong with it, of which ``tell`` is
        told: of ambiguity before the pseudo-inverse is computed, of the rest when it is known.
        """
        with one_blas_thread(self.program.structure.wants_one_blas_thread), time_limit(self.max_seconds):
            factorization = self.factorization
            singular = factorization.singular  # asked first: a factor may find out only then, and be replaced
            solution, error = _refine(factorization, steps)
            trouble = Trouble(
                error,
                singular,
                [int(i) for i in np.flatnonzero(singular & (error <= _ACCEPTED)) if moves(factorization, int(i))],
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


def _refine(factorization: Factorization, steps: _Steps) -> tuple[_Pair, np.ndarray]:
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
