"""K⁺ of a large singular K by proximal-point steps with one factor: no null space is computed.

K = [P, C; Cᵀ, −N] with P, N ⪰ 0, so that with S = diag(I, −I) the matrix SK is monotone, and ker K is the direct sum of
{(dx, 0) : P dx = 0, Cᵀdx = 0} and {(0, η) : Cη = 0, Nη = 0}. S maps ker K onto itself. Hence the resolvent

    T = (K + δS)⁻¹ δS = (SK + δI)⁻¹ δ

is the identity on ker K, maps (ker K)^⊥ into itself, and has the eigenvalues δ/(λ + δ) there, Re λ ≥ 0: T, T², … tend
to the orthogonal projection Π onto ker K, by a factor of δ/|λ| a step. So, with a few solves each,

    Πh = lim Tᵏh,    K⁺r = (I − Π) z,    z ← z + (K + δS)⁻¹(r − Πr − K z).

One factorization of order N and some thirty solves with it take the place of the N³ of a decomposition, however large
the null space. Rounding errors of the size ε in K are ones of ε/δ along the null space; they lie in it, and a second
projection of what is left of h takes them away. Eigenvalues of K between its rounding errors and δ are seen by their
slow convergence: such a K is left to a decomposition.

The factored matrix is EKE + δ S E², so that all of this holds for K itself, while pivots are those of an equilibrated
matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import final

import numpy as np

from conelayers.numerics.kkt.factorization import SINGULAR_BELOW
from conelayers.support.limits import check_time

__all__ = ["SAMPLED", "ProximalPseudoInverse", "Undecided"]

SAMPLED = 8  # random null vectors that stand for the null space; fewer than these are all of it
_SETTLED = 1e-13  # relative size of a correction after which no other projection follows
_NOTHING = 1e-15  # relative size of a part of h that is rounding
_MOST_STEPS = 12  # applications of T: enough to tell eigenvalues from 30δ on from zero
_PASSES = 3  # projections, each of what is left of h
_MOST_REFINEMENTS = 30
_REFINED = 1e-14  # relative residual at which refinement stops
_REFINED_ENOUGH = 1e-11  # relative residual above which a consistent system counts as not solved
_PRESENT = 1e-9  # singular values of the projections of random unit vectors, above which they are independent
_WIDTHS = (32, 128, 512)  # numbers of random vectors, in turn, by which the whole null space is searched for
_LARGEST_BLOCK = 4_000_000  # numbers in such a block

_Apply = Callable[[np.ndarray], np.ndarray]


class Undecided(ArithmeticError):
    """The null space does not stand out clearly enough for proximal steps."""


@final
class ProximalPseudoInverse:
    """K⁺ from products with EKE, E = diag(scales), and solutions of EKE + SE²δ.

    - multiply: u ↦ EKE u.
    - regularized: u ↦ (EKE + SE²δ)⁻¹u to a few digits.
    - shift: the diagonal of δS.
    - size: about ‖EKE‖.

    The constructor raises Undecided if random vectors do not show the null space. ``solve`` raises it for a right-hand
    side that does not, because it is larger along an eigenvector whose eigenvalue is nearly zero.
    """

    def __init__(
        self, multiply: _Apply, regularized: _Apply, scales: np.ndarray, shift: np.ndarray, size: float
    ) -> None:
        self._equilibrated, self._inner, self._scales = multiply, regularized, scales
        self._shift, self._size = shift, size
        self.null_space, self.whole = self._sample(SAMPLED)
        h = self._multiply(np.random.default_rng(3).standard_normal(scales.size))
        if not np.linalg.norm(self._multiply(self.solve(h)) - h) <= _REFINED_ENOUGH * np.linalg.norm(h):
            raise Undecided("a consistent system is not solved")

    @property
    def nullity(self) -> int:
        """dim ker K, or at least that."""
        return self.null_space.shape[1]

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """K⁺ rhs. Raises Undecided."""
        norm = np.linalg.norm(rhs)
        if norm == 0 or not np.isfinite(norm):
            return np.zeros_like(rhs) if norm == 0 else np.full_like(rhs, np.nan)
        check_time()
        consistent = rhs - self.project(rhs)
        z, residual, error = np.zeros_like(rhs), consistent, 1.0
        for _ in range(_MOST_REFINEMENTS):
            candidate = z + self._regularized(residual)
            following = consistent - self._multiply(candidate)
            next_error = float(np.linalg.norm(following) / norm)
            if not next_error < error:
                break
            stalled = next_error > 0.5 * error
            z, residual, error = candidate, following, next_error
            if error <= _REFINED or stalled:
                break
        return z - self.project(z)

    def _multiply(self, h: np.ndarray) -> np.ndarray:
        return self._equilibrated(h / self._scales) / self._scales

    def _regularized(self, h: np.ndarray) -> np.ndarray:
        return self._scales * self._inner(self._scales * h)

    def project(self, h: np.ndarray) -> np.ndarray:
        """Πh, the part of h in ker K."""
        norm, found = float(np.linalg.norm(h)), np.zeros_like(h)
        for _ in range(_PASSES):
            change = self._null_part(h - found, norm)
            found += change
            if np.linalg.norm(change) <= _SETTLED * norm:
                break
        return found

    def _null_part(self, h: np.ndarray, norm: float) -> np.ndarray:
        """The limit of Tᵏh, up to errors along the null space."""
        for _ in range(_MOST_STEPS):
            h = self._step(h)
            if not np.isfinite(h).all():
                raise Undecided("the factor broke down")
            if self._is_null(h, norm):
                return h
        raise Undecided("some eigenvalues are near zero")

    def _is_null(self, h: np.ndarray, norm: float) -> bool:
        """Whether h is a null vector, by the test of eigenvalues that a decomposition makes, or is rounding relative to
        ``norm``.
        """
        u = h / self._scales
        image, size = np.linalg.norm(self._equilibrated(u)), np.linalg.norm(u)
        return bool(image <= SINGULAR_BELOW * self._size * size or np.linalg.norm(h) <= _NOTHING * norm)

    def _step(self, h: np.ndarray) -> np.ndarray:
        """T h, refined once, because a factor of K + δS without pivoting solves to half the digits only."""
        rhs = self._shift * h
        solution = self._regularized(rhs)
        return solution + self._regularized(rhs - self._multiply(solution) - self._shift * solution)

    def _sample(self, width: int) -> tuple[np.ndarray, bool]:
        """An orthonormal basis of the span of the projections of random vectors, and whether this is all of ker K."""
        rng, order = np.random.default_rng(1), self._shift.size
        projections = np.empty((order, min(width, order)))
        for k in range(projections.shape[1]):
            check_time()
            h = rng.standard_normal(order)
            projections[:, k] = self.project(h / np.linalg.norm(h))
        basis, sizes, _ = np.linalg.svd(projections, full_matrices=False)
        rank = int((sizes > _PRESENT).sum())
        return basis[:, :rank], rank < width

    @cached_property
    def whole_null_space(self) -> np.ndarray:
        """An orthonormal basis of ker K, or of a part of it if it is very large."""
        basis, whole = self.null_space, self.whole
        for width in _WIDTHS:
            if whole or width * self._shift.size > _LARGEST_BLOCK:
                break
            basis, whole = self._sample(width)
        return basis
