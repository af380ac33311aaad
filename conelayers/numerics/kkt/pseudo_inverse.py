"""K⁺ for a singular K: the minimum-norm least-squares solution, and the null space."""

from __future__ import annotations

from typing import final

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from conelayers.numerics.kkt.factorization import SINGULAR_BELOW
from conelayers.support.limits import check_time

__all__ = ["DensePseudoInverse", "KrylovPseudoInverse", "Unfinished", "equilibrate"]

_LARGEST_SCALE = 1e3  # largest e, relative to 1/√(largest entry)


def equilibrate(matrix: np.ndarray | sp.csc_array, passes: int = 3) -> np.ndarray:
    """Ruiz scaling: e with diag(e) K diag(e) of unit row maxima, approximately. Ruiz, RAL-TR-2001-034."""
    e = np.ones(matrix.shape[0])
    magnitude = abs(matrix)
    for _ in range(passes):
        if sp.issparse(magnitude):
            scaled = sp.diags_array(e) @ magnitude @ sp.diags_array(e)
            largest = np.asarray(scaled.max(axis=1).todense()).ravel()
        else:
            largest = np.max(magnitude * e[:, None] * e[None, :], axis=1, initial=0.0)
        e /= np.sqrt(np.where(largest > 0, largest, 1.0))
    # A row of size 1e−11 in an equilibrated program is rounding errors; scaled up to 1 it would raise the rank.
    return np.minimum(e, _LARGEST_SCALE / np.sqrt(max(float(magnitude.max()), 1e-300))) if e.size else e


@final
class DensePseudoInverse:
    """K⁺ from a symmetric eigendecomposition of the equilibrated matrix.

    Ranks are decided on EKE, E = diag(e), at ``cutoff`` of its largest eigenvalue. K⁺ is that of K itself: with Z an
    orthonormal basis of ker K = E ker(EKE), K⁺ = (I − ZZᵀ) E (EKE)⁺ E (I − ZZᵀ).
    """

    def __init__(self, matrix: np.ndarray, cutoff: float = SINGULAR_BELOW) -> None:
        e = equilibrate(matrix)
        eigenvalues, vectors = np.linalg.eigh(matrix * e[:, None] * e[None, :])
        magnitude = np.abs(eigenvalues)
        null = magnitude <= cutoff * magnitude.max(initial=0.0)
        self.null_space = np.linalg.qr(e[:, None] * vectors[:, null])[0]
        self._vectors = e[:, None] * vectors[:, ~null]
        self._eigenvalues = eigenvalues[~null]

    @property
    def nullity(self) -> int:
        """dim ker K."""
        return self.null_space.shape[1]

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """K⁺ rhs."""
        Z = self.null_space
        h = rhs - Z @ (Z.T @ rhs)
        h = self._vectors @ ((self._vectors.T @ h) / self._eigenvalues)
        return h - Z @ (Z.T @ h)


@final
class KrylovPseudoInverse:
    """K⁺ by LSMR (Fong, Saunders 2011), for singular matrices that are too large to decompose."""

    nullity = 1  # at least 1: the exact dimension is not known

    def __init__(self, matrix: sp.csc_array) -> None:
        self._matrix = matrix

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """K⁺ rhs; the caller judges it by its residual on J."""
        order = self._matrix.shape[0]

        def multiply(h: np.ndarray) -> np.ndarray:
            check_time()
            return self._matrix @ h

        symmetric = spla.LinearOperator((order, order), matvec=multiply, rmatvec=multiply, dtype=np.float64)
        return spla.lsmr(symmetric, rhs, atol=1e-13, btol=1e-13, conlim=1e14, maxiter=max(1000, 4 * order))[0]


@final
class Unfinished:
    """Takes the place of a K⁺ for which there was no time."""

    nullity = 1  # K may be singular, which was not found out

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """NaN in place of a solution."""
        return np.full_like(rhs, np.nan)
