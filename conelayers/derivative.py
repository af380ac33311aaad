"""The derivative of the solution map of a cone program, forward and adjoint, from one factorization.

At a solution, with D ∈ ∂_C Π_{K*}(v) and J = J(D) (residual.py), the implicit function theorem gives

    tangent   J·[dx; dv] = [r₁; r₂],  r₁ = −(dP x + dAᵀy + dq),  r₂ = −(−dA x + db),   dy = D dv,  ds = (D − I) dv
    adjoint   Jᵀ·[λ; μ] = [gx; D gy + (D − I) gs],   dq = −λ,  db = −μ,  dA = −y λᵀ + μ xᵀ,  dP = −½(λxᵀ + xλᵀ)

Agrawal, Barratt, Boyd, Busseti, Moursi (2019); for nonsmooth Π: Bolte, Le, Pauwels, Silveti-Falls (2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from conelayers.errors import SingularDerivativeWarning
from conelayers.kkt import Factorization, factorize
from conelayers.program import ConeProgram
from conelayers.residual import Point, apply_jacobian, apply_jacobian_transpose

__all__ = ["Linearization"]

_ACCEPTED = 1e-10  # relative residual of J above which the system counts as singular
_REFINED = 1e-15
_MAX_REFINEMENTS = 3

_Pair = tuple[np.ndarray, np.ndarray]
_First = Callable[[Factorization], _Pair]
_Correct = Callable[[Factorization, np.ndarray, np.ndarray], _Pair]
_Residual = Callable[[np.ndarray, np.ndarray], _Pair]


@final
@dataclass(frozen=True)
class Linearization:
    """The solution map of a batch, linearized at its solutions; ``point`` holds x, v, y and D."""

    program: ConeProgram
    point: Point
    jobs: int

    @cached_property
    def factorization(self) -> Factorization:
        """The factored reduced KKT matrix; made at the first use and kept."""
        return factorize(self.program, self.point.element, self.jobs)

    def tangent(self, r1: np.ndarray, r2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """dx (B, n), dy (B, m), ds (B, m) for the right-hand side r₁ (B, n), r₂ (B, m).

        Warns SingularDerivativeWarning where J is singular; there it is the minimum-norm least-squares solution on K.
        """
        program, element = self.program, self.point.element

        def solve(factorization: Factorization, e1: np.ndarray, e2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            dx, dy = factorization.solve(e1, -e2)
            return dx, e2 + program.Ax(dx) + dy  # dv

        def residual(dx: np.ndarray, dv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            a, c = apply_jacobian(program, element, dx, dv)
            return r1 - a, r2 - c

        (dx, dv), singular = self._solve(lambda f: solve(f, r1, r2), solve, residual, (r1, r2))
        # Where J is regular, dy = D dv. In a least-squares solution that fails, and Bη keeps ⟨g, Jr⟩ = ⟨Jᵀg, r⟩.
        ds = -program.Ax(dx) - r2
        dy = np.where(singular[:, None], dv + ds, element.apply(dv))
        return dx, dy, dy - dv

    def adjoint(self, gx: np.ndarray, gy: np.ndarray, gs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """λ (B, n) and μ (B, m) for the cotangents gx (B, n), gy (B, m), gs (B, m). Warns like ``tangent``."""
        program, element = self.program, self.point.element
        h = element.apply(gy + gs) - gs

        def first(factorization: Factorization) -> tuple[np.ndarray, np.ndarray]:
            lam, minus = factorization.solve(gx - program.ATy(gs), gy)
            return lam, -gs - minus

        def solve(factorization: Factorization, e1: np.ndarray, e2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            # Any e₂ is D gy + (D − I) gs with gy = e₂, gs = −e₂.
            lam, minus = factorization.solve(e1 + program.ATy(e2), e2)
            return lam, e2 - minus

        def residual(lam: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            a, c = apply_jacobian_transpose(program, element, lam, mu)
            return gx - a, h - c

        return self._solve(first, solve, residual, (gx, h))[0]

    def _solve(self, first: _First, correct: _Correct, residual: _Residual, rhs: _Pair) -> tuple[_Pair, np.ndarray]:
        """Solve on K, refine on J, and give up a factor that does not deliver for a rank-revealing one."""
        solution, error = _refine(self.factorization, first, correct, residual, rhs)
        poor = np.flatnonzero((error > _ACCEPTED) & ~self.factorization.singular)
        factorization = self.factorization
        if poor.size:
            factorization = factorization.use_pseudo_inverse(poor)
            second, second_error = _refine(factorization, first, correct, residual, rhs)
            # An inconsistent system has no small residual; its regularized "solution" is of size 1/δ.
            take = np.isin(np.arange(error.size), poor) & (factorization.singular | (second_error < error))
            solution = (
                np.where(take[:, None], second[0], solution[0]),
                np.where(take[:, None], second[1], solution[1]),
            )
            error = np.where(take, second_error, error)
        # A singular but consistent system is no cause for alarm: the cotangent does not see what is not unique.
        unsolved = np.flatnonzero(error > _ACCEPTED)
        if unsolved.size:
            _warn(unsolved, error)
        return solution, factorization.singular


def _warn(instances: np.ndarray, error: np.ndarray) -> None:
    warnings.warn(
        "The Jacobian of the optimality conditions is singular: no exact derivative exists for this direction at batch index "
        f"{instances[:10].tolist()} (relative residual up to {float(np.max(error[instances])):.1e}); the minimum-norm "
        "least-squares solution is returned. Usual causes: a solution that is not unique (add a small quadratic term), redundant "
        "constraints (remove them), or a constraint that is active with a zero multiplier.",
        SingularDerivativeWarning,
        stacklevel=6,
    )


def _refine(
    factorization: Factorization, first: _First, correct: _Correct, residual: _Residual, rhs: _Pair
) -> tuple[_Pair, np.ndarray]:
    """Iterative refinement on J, which also recovers the digits that a tiny √Λ costs on K; the relative residual, (B,)."""
    size = np.maximum(_norm(rhs[0]), _norm(rhs[1]))
    size = np.where(size > 0, size, 1.0)
    a, c = first(factorization)
    e1, e2 = residual(a, c)
    error = np.maximum(_norm(e1), _norm(e2)) / size
    for _ in range(_MAX_REFINEMENTS):
        if np.all(error <= _REFINED):
            break
        da, dc = correct(factorization, e1, e2)
        f1, f2 = residual(a + da, c + dc)
        next_error = np.maximum(_norm(f1), _norm(f2)) / size
        better = ((next_error < error) & ~factorization.singular)[:, None]  # K⁺ is the answer as it is
        stalled = not np.any(better[:, 0] & (next_error < 0.5 * error))
        a, c = np.where(better, a + da, a), np.where(better, c + dc, c)
        e1, e2 = np.where(better, f1, e1), np.where(better, f2, e2)
        error = np.where(better[:, 0], next_error, error)
        if stalled:
            break
    return (a, c), np.where(np.isfinite(error), error, np.inf)


def _norm(h: np.ndarray) -> np.ndarray:
    return np.max(np.abs(h), axis=-1, initial=0.0)
