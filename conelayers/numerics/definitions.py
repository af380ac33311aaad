"""The definition rows of a program, which presolve eliminates: found in its patterns, once for each structure.

A definition row is a row of the zero cone that has an entry a in a column t which no other row has, and which P has on
its diagonal only: it defines t by the other variables (presolve.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.program.cone_program import Structure
from conelayers.program.patterns import Pattern
from conelayers.program.per_structure import once_per_structure

__all__ = ["Definitions", "find_definitions"]

_MANY_PAIRS = 20  # products l_j l_k per stored entry from which dense matrix products are cheaper
_NEARLY_FULL = 4  # multiplications of the dense product per necessary one up to which the dense product is faster
_FILL = 3  # entries of P' per entry eliminated above which elimination would cost more than it saves
_SHORT = 8  # number of entries up to which a row is eliminated whatever the fill of all rows together


@final
@dataclass(frozen=True)
class Definitions:
    """What the pattern determines: the eliminated rows and columns, and the positions of all other values."""

    structure: Structure  # of the smaller program
    rows: np.ndarray  # eliminated rows, and the kept ones
    kept_rows: np.ndarray
    cols: np.ndarray  # eliminated columns, and the kept ones
    kept_cols: np.ndarray
    pivots: np.ndarray  # positions of the a in A's values
    diagonals: np.ndarray  # positions of the p in P's values, −1 for a structural zero
    L: Pattern  # eliminated rows × kept columns
    L_values: np.ndarray  # positions in A's values
    A_values: np.ndarray
    P_kept: Pattern  # P on the kept columns
    P_values: np.ndarray
    P_targets: np.ndarray  # where the kept values of P go in those of P'
    touched: np.ndarray  # the columns where L has entries
    products: tuple[np.ndarray, np.ndarray, np.ndarray, sp.csr_array] | None  # row, l_j, l_k, their sum; None: dense


def _candidates(structure: Structure) -> np.ndarray:
    """The positions in A's values of the pivots, one for each definition row."""
    A, P = structure.A, structure.P
    alone = np.diff(A.indptr) == 1
    alone[P.cols[P.rows != P.cols]] = False
    candidates = np.flatnonzero(alone[A.cols] & (A.rows < structure.cones.zero))
    _, first = np.unique(A.rows[candidates], return_index=True)
    return candidates[first]


@once_per_structure
def find_definitions(structure: Structure) -> Definitions | None:
    """The definition rows worth eliminating, found once per structure; None if there are none."""
    A, pivots = structure.A, _candidates(structure)
    if pivots.size == 0:
        return None
    lengths = np.bincount(A.rows, minlength=structure.m)
    others = lengths[A.rows[pivots]] - 1
    entries = np.isin(A.rows, A.rows[pivots])
    touched = np.unique(A.cols[entries]).size - pivots.size
    fill = min(int(np.sum(others.astype(np.int64) ** 2)), touched**2)
    if fill > _FILL * (int(others.sum()) + structure.P.nnz + pivots.size):
        # Squaring long rows would fill P, such as the factor of a covariance matrix: only short rows are eliminated.
        pivots = pivots[others <= _SHORT]
    return _eliminate(structure, pivots)


def _eliminate(structure: Structure, pivots: np.ndarray) -> Definitions | None:
    """The definitions with these pivots; None if there are none, or if no column would be left."""
    A, P, n, m = structure.A, structure.P, structure.n, structure.m
    rows, cols = A.rows[pivots], A.cols[pivots]
    kept_rows, kept_cols = np.setdiff1d(np.arange(m), rows), np.setdiff1d(np.arange(n), cols)
    if rows.size == 0 or kept_cols.size == 0:
        return None
    new_row, new_col, eliminated_row = np.full(m, -1), np.full(n, -1), np.full(m, -1)
    new_row[kept_rows], new_col[kept_cols] = np.arange(kept_rows.size), np.arange(kept_cols.size)
    eliminated_row[rows] = np.arange(rows.size)
    diagonals = np.full(n, -1)
    on_diagonal = np.flatnonzero(P.rows == P.cols)
    diagonals[P.cols[on_diagonal]] = on_diagonal

    A_values = np.flatnonzero((new_row[A.rows] >= 0) & (new_col[A.cols] >= 0))
    L_values = np.flatnonzero((eliminated_row[A.rows] >= 0) & (new_col[A.cols] >= 0))
    P_values = np.flatnonzero((new_col[P.rows] >= 0) & (new_col[P.cols] >= 0))
    size = kept_cols.size
    L = _pattern(eliminated_row[A.rows[L_values]], new_col[A.cols[L_values]], (rows.size, size))
    P_kept = _pattern(new_col[P.rows[P_values]], new_col[P.cols[P_values]], (size, size))
    P_keys = P_kept.rows + P_kept.cols * size
    per_row = np.bincount(L.rows, minlength=rows.size).astype(np.int64)
    pairs = int(np.sum(per_row**2))
    products = None
    touched = np.flatnonzero(np.diff(L.indptr))
    nearly_full = rows.size * touched.size**2 <= _NEARLY_FULL * pairs
    if nearly_full or pairs > _MANY_PAIRS * (L.nnz + P.nnz + size):
        product_keys = (touched[:, None] + touched[None, :] * size).ravel()
        keys = np.union1d(P_keys, product_keys)
    else:
        order = np.argsort(L.rows, kind="stable")
        starts = np.concatenate([[0], np.cumsum(per_row)])
        pair_row = np.repeat(np.arange(rows.size), per_row**2)
        within = np.arange(pairs) - np.repeat(np.cumsum(per_row**2) - per_row**2, per_row**2)
        j = order[starts[pair_row] + within // per_row[pair_row]]
        k = order[starts[pair_row] + within % per_row[pair_row]]
        product_keys = L.cols[j] + L.cols[k] * size
        keys = np.union1d(P_keys, product_keys)
        entries = (np.ones(pairs), (np.searchsorted(keys, product_keys), np.arange(pairs)))
        products = (pair_row, j, k, sp.csr_array(entries, shape=(keys.size, pairs)))
    smaller = Structure(
        _pattern(keys % size, keys // size, (size, size)),
        _pattern(new_row[A.rows[A_values]], new_col[A.cols[A_values]], (kept_rows.size, size)),
        replace(structure.cones, zero=structure.cones.zero - rows.size),
    )
    return Definitions(
        structure=smaller,
        rows=rows,
        kept_rows=kept_rows,
        cols=cols,
        kept_cols=kept_cols,
        pivots=pivots,
        diagonals=diagonals[cols],
        L=L,
        L_values=L_values,
        A_values=A_values,
        P_kept=P_kept,
        P_values=P_values,
        P_targets=np.searchsorted(keys, P_keys),
        touched=touched,
        products=products,
    )


def _pattern(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> Pattern:
    """A Pattern from entries sorted by column, then row."""
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cols, minlength=shape[1]))])
    return Pattern(shape, rows, indptr)
