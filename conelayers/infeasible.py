"""Certificates of infeasibility are tested before they are believed:

    y ∈ K*, Aᵀy = 0, bᵀy < 0            no x has b − Ax ∈ K
    Px = 0, −Ax ∈ K, qᵀx < 0            the objective is unbounded where it is feasible

Every equation is relative to the largest entry of its own row or column and to the ray, so that the test says the same whatever the
units of the variables are, and those of the rows but for their equilibration (scaling.py). In a presolved program
(presolve.py) it is that of the whole one: eliminated rows have no part in such a y, and eliminated columns follow such an x.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from conelayers.cones import Cones

__all__ = ["is_dual_ray", "is_primal_ray"]

_SMALL = 1e-5  # of an equation's coefficients times the ray: what contradicts it would be 1e5 times as far as the data suggest
_FALLS = 1e-8  # of the sum's own absolute values: what bᵀy or qᵀx have to be at least
_FAR = 1e-4  # what is left of Aᵀy lets only x that are so many times larger than b asks for be feasible


def is_primal_ray(A: sp.csc_array, b: np.ndarray, cones: Cones, y: np.ndarray) -> bool:
    """Whether y shows that no x has b − Ax ∈ K."""
    if not np.isfinite(y).all() or not b @ y < -_FALLS * (np.abs(b) @ np.abs(y)):
        return False
    size = np.abs(y).max()
    outside = np.abs(y - cones.project_dual(y[None])[0][0])
    # Feasible are x with −bᵀy ≤ |Aᵀy|ᵀ|x| at most.
    left = min(_SMALL * size, _FAR * -(b @ y) / np.abs(b).max())
    return bool((outside <= _SMALL * size).all() and (np.abs(A.T @ y) <= left * _largest(A, 0)).all())


def is_dual_ray(P: sp.csc_array, q: np.ndarray, A: sp.csc_array, cones: Cones, x: np.ndarray) -> bool:
    """Whether the objective falls along x for ever, and the constraints let it."""
    if not np.isfinite(x).all() or not q @ x < -_FALLS * (np.abs(q) @ np.abs(x)):
        return False
    size = np.abs(x).max()
    if not (np.abs(P @ x) <= _SMALL * size * _largest(P, 1)).all():
        return False
    if not cones.dimension:
        return True
    outside = np.abs(cones.project_dual((A @ x)[None])[0][0])
    rows = np.maximum.reduceat(_largest(A, 1), cones.block_starts)
    return bool((outside <= _SMALL * size * np.repeat(rows, cones.block_sizes)).all())


def _largest(matrix: sp.csc_array, axis: int) -> np.ndarray:
    """The largest absolute values of columns (0) or rows (1)."""
    if not matrix.nnz:
        return np.zeros(matrix.shape[1 - axis])
    return np.asarray(abs(matrix).max(axis=axis).todense()).ravel()
