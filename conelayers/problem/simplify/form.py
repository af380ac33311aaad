"""A parametric cone program as rows and columns of coefficients, on which the rules work.

Row i of [A | b] is affine in φ: the coefficient of φ_k in A_ij stands at (i, j·w + k), that of the constant at k = w −
1, and b is column j = n. A row operation for all parameters at once is then one sparse product, T' = R T. If y' are
multipliers of the new rows, y = Rᵀy' are some of the old ones with the same y'ᵀT' = yᵀT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.problem.parametric import AffineMap
from conelayers.program.cone_program import Structure
from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern

__all__ = ["Entries", "Form", "matrix_of", "without_fill"]

_FILL = 2  # entries of A that come for each one that goes, up to which a row and a column less are worth it


@final
@dataclass(frozen=True)
class Entries:
    """The coefficients of [A | b]: rows and columns, which parameter they multiply, and their values."""

    rows: np.ndarray
    cols: np.ndarray
    parameters: np.ndarray
    values: np.ndarray


@final
@dataclass(frozen=True)
class Form:
    """The program while the rules work on it.

    T: [A | b], (m, (n + 1)·w). q, and d, the objective's constant, as they come: few rules touch them.
    in_P: which columns P has entries in. auxiliary: which belong to no variable of the user's. removed: which are gone.
    origin: which of cvxpy's rows each one was. R: (m, rows of cvxpy's form), what it is made of; None for
    these themselves.
    written: the rows that held no auxiliary variable, and so are as the user wrote them, (m,) bool.
    void: those of curved blocks that hold always where their bound is infinite.
    wanted: which of cvxpy's rows have a multiplier that is returned. infinite: which entries of φ may be ±inf, (w,)
    bool.
    """

    cones: Cones
    width: int
    T: sp.csr_array
    q: AffineMap
    d: AffineMap
    in_P: np.ndarray
    auxiliary: np.ndarray
    removed: np.ndarray
    origin: np.ndarray
    written: np.ndarray
    void: np.ndarray
    R: sp.csr_array | None
    wanted: np.ndarray
    infinite: np.ndarray

    @classmethod
    def of(
        cls,
        structure: Structure,
        maps: Mapping[str, AffineMap],
        auxiliary: np.ndarray,
        wanted: np.ndarray,
        infinite: np.ndarray,
    ) -> Form:
        """That of a program in cvxpy's form."""
        A, n, m = structure.A, structure.n, structure.m
        width = maps["b"].linear.shape[1] + 1
        of_A, of_b = _coefficients(maps["A"]), _coefficients(maps["b"])
        rows = np.concatenate([A.rows[of_A[0]], of_b[0]])
        cols = np.concatenate([A.cols[of_A[0]] * width + of_A[1], n * width + of_b[1]])
        T = sp.csr_array(sp.coo_array((np.concatenate([of_A[2], of_b[2]]), (rows, cols)), shape=(m, (n + 1) * width)))
        written = np.ones(m, dtype=bool)
        written[A.rows[auxiliary[A.cols]]] = False
        in_P = np.zeros(n, dtype=bool)
        in_P[structure.P.cols] = True
        return cls(
            cones=structure.cones,
            width=width,
            T=T,
            q=maps["q"],
            d=maps["d"],
            in_P=in_P,
            auxiliary=auxiliary,
            removed=np.zeros(n, dtype=bool),
            origin=np.arange(m),
            written=written,
            void=np.zeros(m, dtype=bool),
            R=None,
            wanted=wanted,
            infinite=infinite,
        )

    @property
    def n(self) -> int:
        """The number of columns, those removed included."""
        return self.in_P.size

    @property
    def m(self) -> int:
        """The number of rows."""
        return int(self.T.shape[0])

    @cached_property
    def entries(self) -> Entries:
        """All coefficients, row by row."""
        index = self.T.indices.astype(np.int64)
        rows = np.repeat(np.arange(self.m), np.diff(self.T.indptr))
        return Entries(rows, index // self.width, index % self.width, self.T.data)

    @cached_property
    def is_constant(self) -> np.ndarray:
        """Which columns of A have constant coefficients only, (n,) bool."""
        e = self.entries
        found = np.ones(self.n + 1, dtype=bool)
        found[e.cols[e.parameters < self.width - 1]] = False
        return found[: self.n]

    def lengths_within(self, columns: np.ndarray) -> np.ndarray:
        """How many of these columns, (n,) bool, each row of A has entries in, (m,)."""
        e = self.entries
        inside = np.append(columns, False)[e.cols]
        keys = np.unique(e.rows[inside] * self.n + e.cols[inside])
        return np.bincount(keys // max(self.n, 1), minlength=self.m)

    @cached_property
    def may_be_infinite(self) -> np.ndarray:
        """Which rows have a right-hand side that may be infinite, (m,) bool."""
        e = self.entries
        of_b = e.cols == self.n
        found = np.zeros(self.m, dtype=bool)
        found[e.rows[of_b & (self.infinite[e.parameters] | ~np.isfinite(e.values))]] = True
        return found

    @property
    def requested(self) -> np.ndarray:
        """Which rows have part in a multiplier that is returned, (m,) bool."""
        return self.wanted if self.R is None else np.asarray(abs(self.R) @ self.wanted.astype(float) > 0)

    def combined(
        self, dropped: np.ndarray, operations: tuple[np.ndarray, np.ndarray, np.ndarray], gone: np.ndarray
    ) -> Form:
        """With ``row i += factor · row r`` for the operations (i, r, factor), and without some rows and columns.

        dropped: rows of the zero and the nonnegative cone. gone: columns that only dropped rows hold then.
        """
        m, zero = self.m, self.cones.zero
        left = np.ones(m, dtype=bool)
        left[dropped] = False
        i, r, factor = operations
        entries = np.concatenate([np.ones(m), factor]), (np.concatenate([np.arange(m), i]), np.append(np.arange(m), r))
        R = sp.csr_array(sp.csr_array(sp.coo_array(entries, shape=(m, m)))[np.flatnonzero(left)])
        removed = self.removed.copy()
        removed[gone] = True
        T = sp.csr_array(R @ self.T)
        T.data[np.append(removed, False)[T.indices.astype(np.int64) // self.width]] = 0.0  # but for rounding they are
        T.eliminate_zeros()
        T.sort_indices()
        flat = zero + self.cones.nonneg
        cones = replace(self.cones, zero=int(left[:zero].sum()), nonneg=int(left[zero:flat].sum()))
        origin, whole = self.origin[left], R if self.R is None else sp.csr_array(R @ self.R)
        return replace(
            self,
            cones=cones,
            T=T,
            removed=removed,
            origin=origin,
            written=self.written[left],
            void=self.void[left],
            R=whole,
        )

    def data(self, P: Pattern, of_P: AffineMap) -> tuple[Structure, dict[str, AffineMap]]:
        """The structure and the maps of the columns that are left."""
        n, m, w = self.n, self.m, self.width
        kept = np.flatnonzero(~self.removed)
        new = np.full(n + 1, -1)
        new[kept], new[n] = np.arange(kept.size), kept.size
        e = self.entries
        cols, is_b = new[e.cols], e.cols == n
        keys, inverse = np.unique(cols[~is_b] * m + e.rows[~is_b], return_inverse=True)
        of_A = sp.csr_array(sp.coo_array((e.values[~is_b], (inverse, e.parameters[~is_b])), shape=(keys.size, w)))
        of_b = sp.csr_array(sp.coo_array((e.values[is_b], (e.rows[is_b], e.parameters[is_b])), shape=(m, w)))
        structure = Structure(
            _pattern(new[P.rows], new[P.cols], kept.size),
            Pattern((m, kept.size), keys % max(m, 1), _starts(keys // max(m, 1), kept.size)),
            self.cones,
        )
        inside = ~self.removed[self.q.rows]
        q = AffineMap(self.q.constant[kept], new[self.q.rows[inside]], sp.csr_array(self.q.linear[inside]))
        return structure, {"P": of_P, "q": q, "A": AffineMap.of(of_A), "b": AffineMap.of(of_b), "d": self.d}


def without_fill(others: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Whether a column in so many other rows may be replaced by an expression of this length: it enters each of
    them.
    """
    return others * length <= _FILL * (1 + others + length)


def _coefficients(affine: AffineMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The value, the parameter and the coefficient of each term."""
    constant, linear = np.flatnonzero(affine.constant), affine.linear.tocoo()
    last = affine.linear.shape[1]
    return (
        np.concatenate([constant, affine.rows[linear.row]]),
        np.concatenate([np.full(constant.size, last), linear.col]).astype(np.int64),
        np.concatenate([affine.constant[constant], linear.data]),
    )


def matrix_of(affine: AffineMap) -> sp.csr_array:
    """The matrix that multiplies (φ, 1)."""
    rows, cols, values = _coefficients(affine)
    shape = (affine.constant.size, affine.linear.shape[1] + 1)
    return sp.csr_array(sp.coo_array((values, (rows, cols)), shape=shape))


def _pattern(rows: np.ndarray, cols: np.ndarray, size: int) -> Pattern:
    return Pattern((size, size), rows, _starts(cols, size))


def _starts(cols: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(cols, minlength=size))]).astype(np.int64)
