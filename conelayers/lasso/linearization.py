"""The optimality conditions of a solution, linearized in the hyperparameters: one factorization for every derivative.

On the support they are smooth equations F(u, θ) = 0, u the coordinates that move, so that M du + B dθ = 0 with M =
∂F/∂u symmetric and B = ∂F/∂θ, and z moves by U du. For the Lasso with λ = e^θ, S its support and s its signs, this is
the closed form

    dw_S/dθ = −n λ (X_SᵀX_S)⁻¹ s,    dw = 0 off S.

M = FᵀF, F = X_S/√n for the Lasso, has the square of F's condition: where columns are nearly dependent, LU of M loses
twice the digits that F = QR loses, M⁻¹b = R⁻¹R⁻ᵀb. So where M's condition is large F is factored instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import scipy.linalg as sla

from conelayers.support.errors import SingularDerivativeWarning

__all__ = ["RANK", "Basis", "Forcing", "Linearization"]

# F's least over its largest singular value, with columns of length one, below which F counts as singular, since at most
# six digits are left.
RANK = 1e-10
# The reciprocal condition number of M below which a least-squares solution is taken, if there is no F.
_SINGULAR = 1e-13
_SQUARED = 1e-5  # the reciprocal condition number of M below which F is factored


@final
@dataclass(frozen=True, eq=False)
class Basis:
    """The directions in which z moves, U (d, k).

    rows, columns, values: row rows[t] of U holds values[t] in column columns[t], and zeros elsewhere.
    shape: (d, k).

    A direction is a unit vector, or the unit vector of a group. Every coordinate belongs to at most one direction, so
    that no sparse matrix is needed.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def units(cls, rows: np.ndarray, d: int, k: int | None = None) -> Basis:
        """The unit vectors of the coordinates ``rows``.

        k: the number of directions, including further ones that do not move z.
        """
        return cls(rows, np.arange(rows.size), np.ones(rows.size), (d, rows.size if k is None else k))

    def lift(self, u: np.ndarray) -> np.ndarray:
        """Uu, (d, …) of (k, …)."""
        z = np.zeros((self.shape[0], *u.shape[1:]))
        z[self.rows] = _times(self.values, u[self.columns])
        return z

    def restrict(self, z: np.ndarray) -> np.ndarray:
        """Uᵀz, (k, …) of (d, …)."""
        u = np.zeros((self.shape[1], *z.shape[1:]))
        np.add.at(u, self.columns, _times(self.values, z[self.rows]))
        return u

    def congruence(self, M: np.ndarray) -> np.ndarray:
        """UᵀMU (k, k) of M on the rows' coordinates."""
        if self.rows.size == self.shape[1] and (self.values == 1).all():
            return M
        V = self.dense()
        return V.T @ M @ V

    def dense(self) -> np.ndarray:
        """U's nonzero rows, in the order of ``rows``, (t, k)."""
        V = np.zeros((self.rows.size, self.shape[1]))
        V[np.arange(self.rows.size), self.columns] = self.values
        return V


@final
@dataclass(frozen=True, eq=False)
class Forcing:
    """∂F/∂θ on z's coordinates, (d, m) with few entries in each row.

    values, columns: row i holds values[i, r] in column columns[i, r], for every r; both are (d, r).
    hyperparameters: m.
    """

    values: np.ndarray
    columns: np.ndarray
    hyperparameters: int

    def push(self, direction: np.ndarray) -> np.ndarray:
        """(∂F/∂θ)dθ, (d, …) of (m, …)."""
        moved = np.zeros((len(self.values), *direction.shape[1:]))
        for v, c in zip(self.values.T, self.columns.T, strict=True):
            moved += _times(v, direction[c])
        return moved

    def pull(self, z: np.ndarray) -> np.ndarray:
        """(∂F/∂θ)ᵀz, (m, …) of (d, …)."""
        theta = np.zeros((self.hyperparameters, *z.shape[1:]))
        for v, c in zip(self.values.T, self.columns.T, strict=True):
            np.add.at(theta, c, _times(v, z))
        return theta


def _times(values: np.ndarray, array: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (array.ndim - 1)) * array


@final
@dataclass(frozen=True, eq=False)
class Linearization:
    """M du + B dθ = 0, dz = U du.

    matrix: M (k, k).
    forcing: ∂F/∂θ, with which B = Uᵀ∂F/∂θ.
    basis: U (d, k).
    root: gives F (r, k) with M = FᵀF; None if there is none.
    """

    matrix: np.ndarray
    forcing: Forcing
    basis: Basis
    root: Callable[[], np.ndarray] | None = None

    @cached_property
    def _scaling(self) -> np.ndarray:
        size = np.sqrt(np.abs(self.matrix).max(axis=1, initial=0.0))
        return 1 / np.where(size > 0, size, 1.0)

    @cached_property
    def _factor(self) -> _Factor | None:
        """The factorization of the scaled matrix; None if it is singular to rounding."""
        d = self._scaling
        M = d[:, None] * self.matrix * d
        norm = np.abs(M).sum(axis=0).max(initial=0.0)
        getrf, gecon = sla.get_lapack_funcs(("getrf", "gecon"), (M,))
        lu, pivots, info = getrf(M)
        condition = 0.0 if info > 0 else gecon(lu, norm)[0]
        if self.root is not None and condition < _SQUARED:
            return self._root_factor
        return None if condition < _SINGULAR else _Factor(lu, pivots, None)

    @cached_property
    def _root_factor(self) -> _Factor | None:
        assert self.root is not None
        F = self.root()
        lengths = np.sqrt(np.einsum("ij,ij->j", F, F))
        if F.shape[0] < F.shape[1] or not lengths.all():
            return None
        values = np.linalg.svd(np.linalg.qr(F / lengths, mode="r"), compute_uv=False)
        if not values[-1] > RANK * values[0]:
            return None
        F = F * self._scaling
        return _Factor(np.asarray(np.linalg.qr(F, mode="r")), None, F)

    @property
    def singular(self) -> bool:
        """Whether M is singular to rounding."""
        return self.matrix.size > 0 and self._factor is None

    def solve(self, b: np.ndarray) -> np.ndarray:
        """M⁻¹b, b (k, …), with one refinement.

        If M is singular, it is the minimum-norm least-squares solution, with a warning.
        """
        if not self.matrix.size:
            return np.zeros_like(b)
        d = self._scaling.reshape(-1, *[1] * (b.ndim - 1))
        factor = self._factor
        if factor is None:
            warnings.warn(
                "The optimality conditions are singular on the support: features in it are linearly dependent (or "
                "samples on the margin, or they do not fix the intercept). The derivative is a least-squares solution; "
                "certify() names the culprits.",
                SingularDerivativeWarning,
                stacklevel=3,
            )
            return d * (
                np.linalg.pinv(d.ravel()[:, None] * self.matrix * d.ravel(), rcond=1e-12, hermitian=True) @ (d * b)
            )
        x = factor.solve(d * b)
        return d * (x + factor.solve(factor.residual(self.matrix, d, b, x)))

    def forward(self, direction: np.ndarray) -> np.ndarray:
        """dz (d, …) for dθ (m, …)."""
        return -self.basis.lift(self.solve(self.basis.restrict(self.forcing.push(direction))))

    def adjoint(self, z_bar: np.ndarray) -> np.ndarray:
        """The cotangent of θ, (m, …), for one of z, (d, …): one solve for any number of hyperparameters."""
        return -self.forcing.pull(self.basis.lift(self.solve(self.basis.restrict(z_bar))))


@final
@dataclass(frozen=True, eq=False)
class _Factor:
    """A factorization of the scaled M: LU with its pivots, or R of F = QR with the scaled root F.

    triangular: L and U, or R.
    pivots: those of LU; None for QR.
    root: F; None for LU.
    """

    triangular: np.ndarray
    pivots: np.ndarray | None
    root: np.ndarray | None

    def solve(self, b: np.ndarray) -> np.ndarray:
        """M⁻¹b."""
        if self.pivots is not None:
            return sla.lu_solve((self.triangular, self.pivots), b, check_finite=False)
        y = sla.solve_triangular(self.triangular, b, trans="T", check_finite=False)
        return sla.solve_triangular(self.triangular, y, check_finite=False)

    def residual(self, M: np.ndarray, d: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
        """d b − (d M d)x, by F if there is one, which is more accurate."""
        return d * (b - M @ (d * x)) if self.root is None else d * b - self.root.T @ (self.root @ x)
