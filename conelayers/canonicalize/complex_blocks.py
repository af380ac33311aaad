"""Semidefinite blocks that hold a Hermitian matrix H as the real [Re H, −Im H; Im H, Re H], of twice its order.

Such a block is found by its rows of A and b: they satisfy the structure for all values of the parameters. Multipliers that differ by
something orthogonal to all structured matrices are then the same to A and b: they are never unique, and nobody feels it.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from conelayers.parametric import AffineMap
from conelayers.program import Structure

__all__ = ["complex_structure"]

_SAME = 1e-12


def complex_structure(structure: Structure, maps: dict[str, AffineMap]) -> sp.csr_array | None:
    """The projection (m × m) onto the structured matrices in each such block, the identity elsewhere; None without one."""
    blocks = [
        (rows, _projection(n // 2))
        for rows, n in zip(structure.cones.psd_rows, structure.cones.psd, strict=True)
        if n % 2 == 0 and n
    ]
    found = [(rows, S) for rows, S in blocks if _holds(rows, S, structure, maps)]
    if not found:
        return None
    whole = sp.lil_array(sp.eye_array(structure.m))
    for rows, S in found:
        whole[np.ix_(rows, rows)] = S.toarray()
    return sp.csr_array(whole)


def _projection(n: int) -> sp.csr_array:
    """On the lower triangle of a matrix of order 2n, column by column: Y ↦ ½(Y + JYJᵀ), J = [0, −I; I, 0]."""
    order = 2 * n
    cols, rows = np.triu_indices(order)  # the lower triangle column by column
    place = np.empty((order, order), dtype=np.int64)
    place[rows, cols] = place[cols, rows] = np.arange(rows.size)
    turned_rows, turned_cols = (rows + n) % order, (cols + n) % order
    sign = np.where((rows >= n) == (cols >= n), 1.0, -1.0)
    other = place[turned_rows, turned_cols]
    size = rows.size
    J = sp.csr_array((sign, (np.arange(size), other)), shape=(size, size))
    return sp.csr_array(0.5 * (sp.eye_array(size) + J))


def _holds(rows: np.ndarray, S: sp.csr_array, structure: Structure, maps: dict[str, AffineMap]) -> bool:
    """Whether S leaves these rows of A and b as they are, whatever the parameters."""
    local = np.full(structure.m, -1)
    local[rows] = np.arange(rows.size)
    rest = sp.csr_array(sp.eye_array(rows.size) - S)
    inside = np.flatnonzero(local[structure.A.rows] >= 0)
    # The entries of these rows of A, as a matrix from (row, column) to (constant, parameters); then of b.
    for places, row, col, name in (
        (inside, local[structure.A.rows[inside]], structure.A.cols[inside], "A"),
        (rows, np.arange(rows.size), np.zeros(rows.size, dtype=np.int64), "b"),
    ):
        values = _values(maps[name])[places]
        for j in np.unique(col):
            column = col == j
            scattered = sp.csr_array(
                (np.ones(column.sum()), (row[column], np.arange(column.sum()))), shape=(rows.size, int(column.sum()))
            )
            left = rest @ scattered @ values[column]
            if left.nnz and np.abs(left.data).max() > _SAME:
                return False
    return True


def _values(map_: AffineMap) -> sp.csr_array:
    """(constant, linear) of every entry."""
    linear = sp.csr_array((map_.constant.size, map_.linear.shape[1]))
    if map_.rows.size:
        place = sp.csr_array(
            (np.ones(map_.rows.size), (map_.rows, np.arange(map_.rows.size))),
            shape=(map_.constant.size, map_.rows.size),
        )
        linear = place @ map_.linear
    return sp.csr_array(sp.hstack([sp.csr_array(map_.constant[:, None]), linear]))
