"""The quasi-definite LDLᵀ (QDLDL) of one regularized sparse K, refined on K itself, and SuperLU if that fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import final

import numpy as np
import qdldl
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from scipy.sparse.csgraph import structural_rank

from conelayers.numerics.kkt.assembly import Assembled
from conelayers.numerics.kkt.factorization import SINGULAR_BELOW

__all__ = ["REGULARIZATION", "QuasiDefinite", "pivoted_lu"]

REGULARIZATION = 1e-8  # δ
_REFINED = 1e-14  # relative residual on K at which refinement stops
_REFINED_ENOUGH = 1e-11  # relative residual above which an LU with pivoting replaces QDLDL's factor
# A factor that broke down gives infinities, which are checked for.
_QUIET = np.errstate(over="ignore", invalid="ignore")


@final
class QuasiDefinite:
    """LDLᵀ of EKE + δ·diag(I, −I), which exists for every ordering since P + δI ≻ 0 ≻ −(N + δI); δ is refined away.

    QDLDL accepts any nonzero pivot and does not report growth. So the residual of every solve is computed here, and
    SuperLU's factor replaces one that does not solve to the accuracy.
    """

    def __init__(self, assembled: Assembled, apply: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.assembled = assembled
        self._apply = apply or _ldl(assembled)
        self._delta = REGULARIZATION if apply is None else 0.0

    @cached_property
    @_QUIET
    def suspect(self) -> bool:
        """Whether K is nearly singular: inverse iteration with the regularized factor finds a unit z with a tiny ‖EKE
        z‖.
        """
        if self.assembled.order == 0:
            return False
        z = self._probe
        for _ in range(4):
            z = self._apply(z / np.linalg.norm(z))
            if not np.all(np.isfinite(z)):
                return True
        return bool(np.linalg.norm(self.assembled.multiply(z)) <= SINGULAR_BELOW * np.linalg.norm(z))

    @property
    def _probe(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(self.assembled.order)

    @cached_property
    def delivers(self) -> bool:
        """Whether refinement solves a random system. It cannot if K is singular, since δ stays along null vectors."""
        probe = self._probe
        return not probe.size or self._refine(probe / np.linalg.norm(probe))[1] <= _REFINED_ENOUGH

    def pivoted(self) -> QuasiDefinite:
        """The same matrix with an LU with pivoting, which needs no δ."""
        return QuasiDefinite(self.assembled, pivoted_lu(self.assembled.matrix))

    @_QUIET
    def smallest(self, width: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """‖EKE z‖ (width,) and z (order, width) after ``steps`` of block inverse iteration; infinite if the factor
        broke down.
        """
        Z = np.random.default_rng(1).standard_normal((self.assembled.order, width))
        for _ in range(steps):
            Z = np.column_stack([self._apply_refined(z) for z in np.linalg.qr(Z)[0].T])
            if not np.isfinite(Z).all():
                return np.full(width, np.inf), np.zeros_like(Z)
        Z = np.linalg.qr(Z)[0]
        image = np.column_stack([self.assembled.multiply(z) for z in Z.T])
        _, values, V = np.linalg.svd(image, full_matrices=False)
        return values, Z @ V.T

    def _apply_refined(self, z: np.ndarray) -> np.ndarray:
        """(EKE + δ·diag(I, −I))⁻¹z, refined once: without pivoting the factor solves to 1e−8 only if K is singular."""
        solution = self._apply(z)
        signs = np.where(np.arange(z.size) < self.assembled.factored_positive, 1.0, -1.0)
        residual = z - self.assembled.multiply(solution) - self._delta * signs * solution
        return solution + self._apply(residual)

    @_QUIET
    def _refine(self, rhs: np.ndarray) -> tuple[np.ndarray, float]:
        norm = np.linalg.norm(rhs)
        if norm == 0:
            return np.zeros_like(rhs), 0.0
        solution = self._apply(rhs)
        residual = rhs - self.assembled.multiply(solution)
        error = np.linalg.norm(residual) / norm
        for _ in range(30):
            if error <= _REFINED:
                break
            candidate = solution + self._apply(residual)
            next_residual = rhs - self.assembled.multiply(candidate)
            next_error = np.linalg.norm(next_residual) / norm
            if not next_error < 0.9 * error:
                break
            solution, residual, error = candidate, next_residual, next_error
        return solution, float(error if np.isfinite(error) else np.inf)

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        e = self.assembled.scales
        return e * self._refine(e * rhs)[0]


def _ldl(assembled: Assembled) -> Callable[[np.ndarray], np.ndarray]:
    if assembled.order == 0:  # everything is pinned
        return np.copy
    try:
        return qdldl.Solver(assembled.regularized(REGULARIZATION), upper=True).solve
    except RuntimeError:  # a pivot of exactly zero: at a poor point rounding may make N slightly indefinite
        return pivoted_lu(assembled.matrix)


def pivoted_lu(matrix: sp.csc_array) -> Callable[[np.ndarray], np.ndarray]:
    """The solves by SuperLU's factor of the matrix; infinite if the matrix is singular."""
    # On structurally singular matrices SuperLU reads memory that it never wrote, and the process may crash.
    if structural_rank(matrix) == matrix.shape[0]:
        try:
            return spla.splu(sp.csc_matrix(matrix)).solve
        except RuntimeError:  # exactly singular
            pass
    return lambda rhs: np.full_like(rhs, np.inf)  # the singularity test finds the infinities
