"""Definition rows are eliminated before factoring.

cvxpy writes ‖Ax − b‖² as ‖t‖² with t = Ax − b. A row i of the zero cone with an entry a in a column t that no other row
has, and that P has on its diagonal only, couples (t, yᵢ) to the rest of K through its other entries l alone:

    [ p  a  0  ]
    [ a  0  lᵀ ]   the pivot block's inverse is [0, 1/a; 1/a, −p/a²], its Schur complement adds (p/a²) l lᵀ to P.
    [ 0  l  …  ]

All such pairs are eliminated at once: what remains is the K of a program with P' = P + Lᵀ diag(p/a²) L, without these rows
and columns. The operator obtained is symmetric, for singular K too.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import final
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from conelayers.cones import Cones, ProductElement
from conelayers.kkt.factorization import Factorization
from conelayers.program import BatchOperator, ConeProgram, Pattern, Structure

__all__ = ["ReducedFactorization", "Reduction", "reduce_program"]

_PIVOT = 1e-3  # |a| below this, relative to its row, is no pivot
_MANY_PAIRS = 20  # products l_j l_k per stored entry from which dense matrix products are cheaper


@final
@dataclass(frozen=True)
class Reduction:
    """What the pattern alone tells: the eliminated rows and columns, and where the values of the rest go."""

    structure: Structure  # of the reduced program
    rows: np.ndarray  # eliminated rows, and the kept ones
    kept_rows: np.ndarray
    cols: np.ndarray  # eliminated columns, and the kept ones
    kept_cols: np.ndarray
    pivots: np.ndarray  # positions of the a in A's values
    diagonals: np.ndarray  # positions of the p in P's values, −1 for a structural zero
    L: Pattern  # eliminated rows × kept columns
    L_values: np.ndarray  # positions in A's values
    A_values: np.ndarray
    P_values: np.ndarray
    P_targets: np.ndarray  # where the kept values of P go in those of P'
    products: (
        tuple[np.ndarray, np.ndarray, np.ndarray, sp.csr_array] | None
    )  # row, l_j, l_k, their sum into P'; None: dense


_KNOWN: WeakKeyDictionary[Structure, Reduction | None] = WeakKeyDictionary()


def _reduction(structure: Structure) -> Reduction | None:
    if structure not in _KNOWN:
        _KNOWN[structure] = _find(structure)
    return _KNOWN[structure]


def _find(structure: Structure) -> Reduction | None:
    A, P, n, m = structure.A, structure.P, structure.n, structure.m
    alone = np.diff(A.indptr) == 1
    off_diagonal = P.rows != P.cols
    alone[P.cols[off_diagonal]] = False
    candidates = np.flatnonzero(alone[A.cols] & (A.rows < structure.cones.zero))
    rows, first = np.unique(A.rows[candidates], return_index=True)  # one pivot a row
    if rows.size == 0:
        return None
    pivots = candidates[first]
    cols = A.cols[pivots]
    kept_rows, kept_cols = np.setdiff1d(np.arange(m), rows), np.setdiff1d(np.arange(n), cols)
    if kept_cols.size == 0:
        return None
    new_row, new_col = np.full(m, -1), np.full(n, -1)
    new_row[kept_rows], new_col[kept_cols] = np.arange(kept_rows.size), np.arange(kept_cols.size)
    eliminated_row = np.full(m, -1)
    eliminated_row[rows] = np.arange(rows.size)
    diagonals = np.full(n, -1)
    on_diagonal = np.flatnonzero(~off_diagonal)
    diagonals[P.cols[on_diagonal]] = on_diagonal

    A_values = np.flatnonzero((new_row[A.rows] >= 0) & (new_col[A.cols] >= 0))
    L_values = np.flatnonzero((eliminated_row[A.rows] >= 0) & (new_col[A.cols] >= 0))
    P_values = np.flatnonzero((new_col[P.rows] >= 0) & (new_col[P.cols] >= 0))
    size = kept_cols.size
    L = _pattern(eliminated_row[A.rows[L_values]], new_col[A.cols[L_values]], (rows.size, size))
    per_row = np.bincount(L.rows, minlength=rows.size)
    pairs = int(np.sum(per_row.astype(np.int64) ** 2))
    if pairs > _MANY_PAIRS * (L.nnz + P.nnz + size):
        products = None
        keys = np.arange(size * size)
    else:
        order = np.argsort(L.rows, kind="stable")
        starts = np.concatenate([[0], np.cumsum(per_row)])
        pair_row = np.repeat(np.arange(rows.size), per_row**2)
        within = np.arange(pairs) - np.repeat(np.cumsum(per_row**2) - per_row**2, per_row**2)
        j = order[starts[pair_row] + within // per_row[pair_row]]
        k = order[starts[pair_row] + within % per_row[pair_row]]
        product_keys = L.cols[j] + L.cols[k] * size
        keys = np.union1d(new_col[P.rows[P_values]] + new_col[P.cols[P_values]] * size, product_keys)
        entries = (np.ones(pairs), (np.searchsorted(keys, product_keys), np.arange(pairs)))
        products = (pair_row, j, k, sp.csr_array(entries, shape=(keys.size, pairs)))
    targets = np.searchsorted(keys, new_col[P.rows[P_values]] + new_col[P.cols[P_values]] * size)
    cones = replace(structure.cones, zero=structure.cones.zero - rows.size)
    reduced = Structure(
        _pattern(keys % size, keys // size, (size, size)),
        _pattern(new_row[A.rows[A_values]], new_col[A.cols[A_values]], (kept_rows.size, size)),
        cones,
    )
    return Reduction(
        structure=reduced,
        rows=rows,
        kept_rows=kept_rows,
        cols=cols,
        kept_cols=kept_cols,
        pivots=pivots,
        diagonals=diagonals[cols],
        L=L,
        L_values=L_values,
        A_values=A_values,
        P_values=P_values,
        P_targets=targets,
        products=products,
    )


def _pattern(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> Pattern:
    """A Pattern from entries sorted by column, then row."""
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cols, minlength=shape[1]))])
    return Pattern(shape, rows, indptr)


def reduce_program(
    program: ConeProgram, element: ProductElement
) -> tuple[ConeProgram, ProductElement, Reduction] | None:
    """The program and element without the definition rows; None if there are none, or a pivot is too small."""
    reduction = _reduction(program.structure)
    if reduction is None:
        return None
    a = program.A[:, reduction.pivots]
    L = program.A[:, reduction.L_values]
    largest = np.zeros_like(a)
    np.maximum.at(largest.T, reduction.L.rows, np.abs(L).T)
    if not np.all(np.abs(a) > _PIVOT * largest) or not np.all(a != 0):
        return None
    weight = _diagonal(program, reduction) / a**2
    P = np.zeros((program.batch, reduction.structure.P.nnz))
    if reduction.products is None:
        dense = reduction.L.dense(L)
        product = np.swapaxes(dense, 1, 2) @ (weight[:, :, None] * dense)
        P += np.swapaxes(product, 1, 2).reshape(program.batch, P.shape[1])
    else:
        row, j, k, scatter = reduction.products
        values = weight[:, row] * L[:, j] * L[:, k]
        P += (scatter @ values.T).T
    P[:, reduction.P_targets] += program.P[:, reduction.P_values]
    reduced = ConeProgram(
        reduction.structure,
        P,
        program.q[:, reduction.kept_cols],
        program.A[:, reduction.A_values],
        program.b[:, reduction.kept_rows],
    )
    return reduced, _restricted(element, reduction), reduction


def _diagonal(program: ConeProgram, reduction: Reduction) -> np.ndarray:
    """The p of each pivot, (B, pivots)."""
    p = np.zeros((program.batch, reduction.rows.size))
    stored = reduction.diagonals >= 0
    p[:, stored] = program.P[:, reduction.diagonals[stored]]
    return p


def _restricted(element: ProductElement, reduction: Reduction) -> ProductElement:
    """The element without eliminated rows, which all lie in the zero cone, the first group."""
    cones: Cones = reduction.structure.cones
    zero, *others = element.elements
    kept = reduction.kept_rows[reduction.kept_rows < element.cones.zero]
    elements = (type(zero)(zero.values[:, kept]), *others) if kept.size or not cones.dimension else tuple(others)
    return ProductElement(cones, elements)


@final
class ReducedFactorization(Factorization):
    """A factorization of the reduced program's K, extended to the whole."""

    def __init__(self, program: ConeProgram, reduction: Reduction, inner: Factorization) -> None:
        self._reduction, self._inner = reduction, inner
        self._a = program.A[:, reduction.pivots]
        self._p = _diagonal(program, reduction)
        self._L_values = program.A[:, reduction.L_values]
        self._L: BatchOperator = reduction.L.operator(self._L_values)
        self._shape = (program.structure.n, program.structure.m)

    @property
    def singular(self) -> np.ndarray:
        return self._inner.singular

    def solve(self, p1: np.ndarray, p2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, a, p = self._reduction, self._a, self._p
        f_t, f_y = p1[:, r.cols], p2[:, r.rows]
        inner_p1 = p1[:, r.kept_cols] - self._L.rmatvec(f_t / a - p / a**2 * f_y)
        inner_x, inner_y = self._inner.solve(inner_p1, p2[:, r.kept_rows])
        rest = f_y - self._L.matvec(inner_x)
        dx, dy = np.empty_like(p1), np.empty_like(p2)
        dx[:, r.kept_cols], dx[:, r.cols] = inner_x, rest / a
        dy[:, r.kept_rows], dy[:, r.rows] = inner_y, f_t / a - p / a**2 * rest
        return dx, dy

    def null_vectors(self, instance: int) -> tuple[np.ndarray, np.ndarray] | None:
        null = self._inner.null_vectors(instance)
        if null is None:
            return None
        r, a, p = self._reduction, self._a[instance], self._p[instance]
        inner_x, inner_y = null
        rest = -(r.L.matrix(self._L_values[instance]) @ inner_x.T).T
        n, m = self._shape
        dx, dy = np.zeros((len(inner_x), n)), np.zeros((len(inner_x), m))
        dx[:, r.kept_cols], dx[:, r.cols] = inner_x, rest / a
        dy[:, r.kept_rows], dy[:, r.rows] = inner_y, -p / a**2 * rest
        return dx, dy

    def use_pseudo_inverse(self, instances: np.ndarray) -> ReducedFactorization:
        other = copy.copy(self)
        other._inner = self._inner.use_pseudo_inverse(instances)
        return other
