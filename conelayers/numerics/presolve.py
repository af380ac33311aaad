"""Presolve: definition rows are eliminated from a program before it is solved or factored.

cvxpy writes ‖Lx − c‖² as ‖t‖² with t = Lx − c. A row i of the zero cone with an entry a in a column t that no other row
has, and that P has on its diagonal only (p), reads a t + lᵀx = c. With t = (c − lᵀx)/a the objective ½p t² + q_t t
becomes

    P' = P + (p/a²) l lᵀ,   q' = q − (p c/a² + q_t/a) l

over the remaining variables, and the row's multiplier follows from the column's stationarity: y_i = −(q_t + p t)/a. The
KKT matrix of the smaller program is the Schur complement of that of the whole (kkt/elimination.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.numerics.cones import ProductElement, product_cone
from conelayers.program.cone_program import ConeProgram, Structure
from conelayers.program.patterns import BatchOperator, DenseOperator, Pattern, values_of_part
from conelayers.program.per_structure import once_per_structure

__all__ = ["Definitions", "Elimination", "Presolved", "presolve"]

_PIVOT = 1e-8  # |a| relative to its row below which a is not used as a pivot
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


@final
@dataclass(frozen=True)
class Elimination:
    """The values of a batch's eliminated rows."""

    definitions: Definitions
    a: np.ndarray  # the pivots (B, k), or (1, k) if all instances share them
    p: np.ndarray  # P's diagonal in their columns, (B, k) or (1, k)
    L: BatchOperator  # the eliminated rows on the kept columns

    def take(self, index: np.ndarray | list[int]) -> Elimination:
        """The elimination of a part of the batch."""
        return Elimination(
            self.definitions, values_of_part(self.a, index), values_of_part(self.p, index), self.L.take(index)
        )


@final
@dataclass(frozen=True)
class Presolved:
    """A batch of programs, ``whole``, and the smaller ones that are left of them.

    If anything is eliminated, ``whole`` multiplies by P and A with the blocks that the smaller programs share, and
    holds no values of its own.
    """

    whole: ConeProgram
    smaller: ConeProgram
    elimination: Elimination | None = None

    def take(self, index: np.ndarray | list[int]) -> Presolved:
        """The programs of a part of the batch, at ascending positions."""
        if len(index) == self.smaller.batch:
            return self
        smaller = self.smaller.take(index)
        if self.elimination is None:
            return Presolved(smaller, smaller)
        return Presolved(self.whole.take(index), smaller, self.elimination.take(index))

    def expand(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, v) of the whole program from (x, v) of the smaller one."""
        if self.elimination is None:
            return x, v
        d, a = self.elimination.definitions, self.elimination.a
        t = (self.whole.b[:, d.rows] - self.elimination.L.matvec(x)) / a
        y = -(self.whole.q[:, d.cols] + self.elimination.p * t) / a
        whole_x, whole_v = np.empty_like(self.whole.q), np.empty_like(self.whole.b)
        whole_x[:, d.kept_cols], whole_x[:, d.cols] = x, t
        whole_v[:, d.kept_rows], whole_v[:, d.rows] = v, y
        return whole_x, whole_v

    def restrict(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, v) of the smaller program from (x, v) of the whole one."""
        if self.elimination is None:
            return x, v
        d = self.elimination.definitions
        return x[:, d.kept_cols], v[:, d.kept_rows]

    def element(self, element: ProductElement) -> ProductElement:
        """D of the smaller program. The eliminated rows all lie in the zero cone, which belongs to the first group."""
        if self.elimination is None:
            return element
        d = self.elimination.definitions
        orthant, *others = element.elements
        cones = d.structure.cones
        kept = d.kept_rows[d.kept_rows < element.cones.zero + element.cones.nonneg]
        parts = (type(orthant)(orthant.values[:, kept]), *others) if kept.size or not cones.dimension else tuple(others)
        return ProductElement(product_cone(cones), parts)


def presolve(program: ConeProgram) -> Presolved:
    """Eliminate the definition rows of a batch.

    Nothing is eliminated if there are none, or if a pivot is too small for its row.
    """
    d = find_definitions(program.structure)
    if d is None:
        return Presolved(program, program)
    a, L_values = np.take(program.A, d.pivots, axis=1), np.take(program.A, d.L_values, axis=1)
    largest = d.L.row_maxima(np.abs(L_values))
    if not np.all(np.abs(a) > _PIVOT * largest) or not np.all(a != 0):
        return Presolved(program, program)
    p = np.zeros((program.P.shape[0], a.shape[1]))
    stored = d.diagonals >= 0
    p[:, stored] = program.P[:, d.diagonals[stored]]
    weight = p / a**2
    L = d.L.operator(L_values)
    if d.products is None:
        dense = L.array if isinstance(L, DenseOperator) else d.L.dense(L_values)
        touched = d.touched
        dense = dense if touched.size == d.L.shape[1] else dense[:, :, touched]
        square = np.swapaxes(dense, 1, 2) @ (weight[:, :, None] * dense)
        if d.structure.P.nnz == touched.size**2:
            P = np.swapaxes(square, 1, 2).reshape(square.shape[0], touched.size**2)
        else:
            P = np.zeros((square.shape[0], d.structure.P.nnz))
            P[:, _positions(d.structure.P, touched)] = np.swapaxes(square, 1, 2).reshape(
                square.shape[0], touched.size**2
            )
    else:
        row, j, k, scatter = d.products
        P = np.ascontiguousarray((scatter @ (weight[:, row] * L_values[:, j] * L_values[:, k]).T).T)
    if P.shape[0] < program.P.shape[0]:
        P = np.repeat(P, program.batch, axis=0)
    P[:, d.P_targets] += program.P[:, d.P_values]
    q = program.q[:, d.kept_cols] - L.rmatvec(weight * program.b[:, d.rows] + program.q[:, d.cols] / a)
    smaller = ConeProgram(d.structure, P, q, np.take(program.A, d.A_values, axis=1), program.b[:, d.kept_rows])
    operators = (
        _WholeP(d, d.P_kept.operator(program.P[:, d.P_values]), p),
        _WholeA(d, L, smaller.A_operator, a),
    )
    # The blocks hold all entries, so the values of the whole program need not be kept until the derivative.
    none = np.empty((1, 0))
    return Presolved(replace(program, P=none, A=none, operators=operators), smaller, Elimination(d, a, p, L))


def _positions(pattern: Pattern, touched: np.ndarray) -> np.ndarray:
    """The positions in P' of the products of touched columns, in column-major order."""
    size = pattern.shape[0]
    keys = (touched[:, None] * size + touched[None, :]).ravel()
    return np.searchsorted(pattern.cols * size + pattern.rows, keys)


@final
@dataclass(frozen=True)
class _WholeP(BatchOperator):
    """P of the whole program: its kept part, and a diagonal on the eliminated columns."""

    definitions: Definitions
    kept: BatchOperator
    p: np.ndarray

    def matvec(self, x: np.ndarray) -> np.ndarray:
        d = self.definitions
        out = np.empty_like(x)
        out[:, d.kept_cols] = self.kept.matvec(x[:, d.kept_cols]) if d.P_kept.nnz else 0.0
        out[:, d.cols] = self.p * x[:, d.cols]
        return out

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        return self.matvec(y)

    def take(self, index: np.ndarray | list[int]) -> _WholeP:
        return _WholeP(self.definitions, self.kept.take(index), values_of_part(self.p, index))

    def absolute(self) -> _WholeP:
        return _WholeP(self.definitions, self.kept.absolute(), np.abs(self.p))


@final
@dataclass(frozen=True)
class _WholeA(BatchOperator):
    """A of the whole program: [L, diag(a); A', 0]."""

    definitions: Definitions
    L: BatchOperator
    kept: BatchOperator
    a: np.ndarray

    @cached_property
    def _shape(self) -> tuple[int, int]:
        d = self.definitions
        return d.rows.size + d.kept_rows.size, d.cols.size + d.kept_cols.size

    def matvec(self, x: np.ndarray) -> np.ndarray:
        d = self.definitions
        out, kept = np.empty((x.shape[0], self._shape[0])), x[:, d.kept_cols]
        out[:, d.rows] = self.L.matvec(kept) + self.a * x[:, d.cols]
        out[:, d.kept_rows] = self.kept.matvec(kept)
        return out

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        d = self.definitions
        out, eliminated = np.empty((y.shape[0], self._shape[1])), y[:, d.rows]
        out[:, d.kept_cols] = self.L.rmatvec(eliminated) + self.kept.rmatvec(y[:, d.kept_rows])
        out[:, d.cols] = self.a * eliminated
        return out

    def take(self, index: np.ndarray | list[int]) -> _WholeA:
        return _WholeA(self.definitions, self.L.take(index), self.kept.take(index), values_of_part(self.a, index))

    def absolute(self) -> _WholeA:
        return _WholeA(self.definitions, self.L.absolute(), self.kept.absolute(), np.abs(self.a))
