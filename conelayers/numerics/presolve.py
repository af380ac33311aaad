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

from conelayers.numerics.cones import ProductElement, product_cone
from conelayers.numerics.definitions import Definitions, find_definitions
from conelayers.program.cone_program import ConeProgram
from conelayers.program.patterns import BatchOperator, DenseOperator, Pattern, values_of_part

__all__ = ["Elimination", "Presolved", "presolve"]

_PIVOT = 1e-8  # |a| relative to its row below which a is not used as a pivot
# Entry of (p/a²) l lᵀ from which nothing is eliminated. The other numbers of an equilibrated program are about 1, and
# lose as many digits in the sum: beside a squared penalty of 1e8 the rest of P' and q' has 8 left. The rows themselves
# keep all.
_STIFF = 1e6


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

    Nothing is eliminated if there are none, if a pivot is too small for its row, or if what is added to P is too large
    for the digits of P.
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
    if not np.all(weight * largest**2 <= _STIFF):
        return Presolved(program, program)
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
