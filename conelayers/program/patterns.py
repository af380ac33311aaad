"""Sparsity patterns that a batch of matrices shares, and products with such a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import scipy.sparse as sp

__all__ = ["BatchOperator", "DenseOperator", "Pattern", "Segments", "instance_values", "largest", "values_of_part"]

_SMALL = 2500  # rows times columns up to which a dense product is cheaper
_DENSE_FROM = 0.2  # density from which a dense product is cheaper


def instance_values(shared: np.ndarray, i: int) -> np.ndarray:
    """Instance i of an array whose leading axis is the batch, or 1 if all instances share one."""
    return shared[i] if shared.shape[0] > 1 else shared[0]


def values_of_part(shared: np.ndarray, index: Any) -> np.ndarray:
    """A part of the batch of such an array, which is left as it is if all instances share one."""
    return shared[index] if shared.shape[0] > 1 else shared


def largest(h: np.ndarray) -> np.ndarray:
    """‖h‖ in the maximum norm along the last axis."""
    return np.maximum.reduce(np.abs(h), axis=-1, initial=0.0)


class Segments:
    """The segments [starts[k], starts[k + 1]) of an axis, the last up to ``size``; some may be empty."""

    def __init__(self, starts: np.ndarray, size: int) -> None:
        filled = np.diff(np.append(starts, size)) > 0
        self._filled, self._starts, self._count = (None if filled.all() else filled), starts[filled], starts.size

    def maxima(self, values: np.ndarray) -> np.ndarray:
        """The maximum of each segment of the last axis of nonnegative values; 0 for an empty one."""
        if self._filled is None and self._count:
            return np.maximum.reduceat(values, self._starts, axis=1)
        out = np.zeros((values.shape[0], self._count))
        if self._starts.size:
            out[:, self._filled] = np.maximum.reduceat(values, self._starts, axis=1)
        return out

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each segment of the last axis; 0 for an empty one."""
        if self._filled is None and self._count:
            return np.add.reduceat(values, self._starts, axis=1, dtype=float)
        out = np.zeros((values.shape[0], self._count))
        if self._starts.size:
            out[:, self._filled] = np.add.reduceat(values, self._starts, axis=1, dtype=float)
        return out


@final
@dataclass(frozen=True)
class Pattern:
    """A fixed sparsity pattern in CSC order; the values of a batch are an array (B, nnz) in the same order."""

    shape: tuple[int, int]
    indices: np.ndarray
    indptr: np.ndarray

    @classmethod
    def of(cls, matrix: sp.csc_array) -> Pattern:
        """The pattern of a CSC matrix with sorted indices and no duplicates."""
        return cls(
            (int(matrix.shape[0]), int(matrix.shape[1])),
            matrix.indices.astype(np.int64),
            matrix.indptr.astype(np.int64),
        )

    @property
    def nnz(self) -> int:
        """The number of stored entries."""
        return int(self.indices.size)

    @property
    def rows(self) -> np.ndarray:
        """The row of each stored entry."""
        return self.indices

    @cached_property
    def cols(self) -> np.ndarray:
        """The column of each stored entry."""
        return np.repeat(np.arange(self.shape[1]), np.diff(self.indptr))

    @cached_property
    def upper(self) -> np.ndarray:
        """Which stored entries lie in the upper triangle."""
        return np.flatnonzero(self.rows <= self.cols)

    @cached_property
    def diagonal_entries(self) -> int:
        """How many entries of the diagonal are stored."""
        return int((self.rows == self.cols).sum())

    @cached_property
    def by_row(self) -> tuple[np.ndarray, np.ndarray]:
        """The stored entries in the order of rows, and where each row starts in it."""
        order = np.argsort(self.rows, kind="stable")
        return order, np.searchsorted(self.rows[order], np.arange(self.shape[0]))

    @cached_property
    def _segments(self) -> tuple[Segments, Segments]:
        """The segments of the entries that are the columns, and those that are the rows in the order of ``by_row``."""
        return Segments(self.indptr[:-1], self.nnz), Segments(self.by_row[1], self.nnz)

    def column_maxima(self, values: np.ndarray) -> np.ndarray:
        """The largest value in each column, 0 for an empty one, (B, cols) from (B, nnz) nonnegative values."""
        return self._segments[0].maxima(values)

    def row_maxima(self, values: np.ndarray) -> np.ndarray:
        """The largest value in each row, 0 for an empty one, (B, rows) from (B, nnz) nonnegative values."""
        return self._segments[1].maxima(np.take(values, self.by_row[0], axis=1))

    def column_sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each column, (B, cols) from (B, nnz)."""
        if self.full:
            return values.reshape(-1, self.shape[1], self.shape[0]).sum(axis=2, dtype=float)
        return self._segments[0].sums(values)

    def row_sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each row, (B, rows) from (B, nnz)."""
        if self.full:
            return values.reshape(-1, self.shape[1], self.shape[0]).sum(axis=1, dtype=float)
        return self._segments[1].sums(np.take(values, self.by_row[0], axis=1))

    def scale(self, values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The values of diag(left) M diag(right), for values (B, nnz), left (B, rows) and right (B, cols)."""
        rows, cols = self.shape
        if self.full:
            scaled = values.reshape(-1, cols, rows) * left[:, None, :]
            scaled *= right[:, :, None]
            return scaled.reshape(scaled.shape[0], self.nnz)
        scaled = np.take(left, self.rows, axis=1)
        scaled *= np.take(right, self.cols, axis=1)
        return scaled * values

    def entries_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the entries of some rows, row by row, and the number of entries of each row."""
        order, starts = self.by_row
        lengths = np.diff(np.append(starts, self.nnz))[rows]
        ends = np.cumsum(lengths)
        positions = np.arange(ends[-1] if ends.size else 0) + np.repeat(starts[rows] - ends + lengths, lengths)
        return order[positions], lengths

    def rows_of(self, values: np.ndarray, rows: np.ndarray) -> sp.csr_array:
        """Some rows of one instance's matrix, from its values (nnz,)."""
        entries, lengths = self.entries_of(rows)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return sp.csr_array((values[entries], self.cols[entries], indptr), shape=(rows.size, self.shape[1]))

    def matrix(self, values: np.ndarray) -> sp.csc_array:
        """One instance's matrix, from its values (nnz,)."""
        return sp.csc_array((values, self.indices, self.indptr), shape=self.shape)

    @property
    def full(self) -> bool:
        """Whether every entry is stored."""
        return self.nnz == self.shape[0] * self.shape[1] > 0

    def dense(self, values: np.ndarray) -> np.ndarray:
        """(B, rows, cols) from (B, nnz): a view of the values if all entries are stored."""
        if self.full:
            return np.swapaxes(values.reshape(values.shape[0], self.shape[1], self.shape[0]), 1, 2)  # a view
        out = np.zeros((values.shape[0], self.shape[0] * self.shape[1]))
        out[:, self._places] = values
        return out.reshape(values.shape[0], *self.shape)

    @cached_property
    def _places(self) -> np.ndarray:
        """Where each stored entry lies in the full matrix, row by row."""
        return self.rows * self.shape[1] + self.cols

    def operator(self, values: np.ndarray) -> BatchOperator:
        """x ↦ A x and y ↦ Aᵀy for a batch of values (B, nnz), by dense products if these are cheaper."""
        rows, cols = self.shape
        if rows * cols <= _SMALL or self.nnz > _DENSE_FROM * rows * cols:
            return DenseOperator(self.dense(values))
        return BlockOperator(self, values)


class BatchOperator(ABC):
    """A batch of matrices, or one that all instances share, as the maps x ↦ A x and y ↦ Aᵀy."""

    @abstractmethod
    def matvec(self, x: np.ndarray) -> np.ndarray:
        """A x for each instance: (B, rows) from (B, cols)."""

    @abstractmethod
    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        """Aᵀy for each instance: (B, cols) from (B, rows)."""

    @abstractmethod
    def take(self, index: np.ndarray | list[int]) -> BatchOperator:
        """The matrices of a part of the batch."""

    @abstractmethod
    def absolute(self) -> BatchOperator:
        """|A|, entry by entry."""


@final
@dataclass(frozen=True)
class DenseOperator(BatchOperator):
    """The matrices as one array (B, rows, cols), or (1, rows, cols)."""

    array: np.ndarray

    def matvec(self, x: np.ndarray) -> np.ndarray:
        return (self.array @ x[:, :, None])[:, :, 0]

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        return (y[:, None, :] @ self.array)[:, 0]

    def take(self, index: np.ndarray | list[int]) -> DenseOperator:
        return DenseOperator(values_of_part(self.array, index))

    def absolute(self) -> DenseOperator:
        return DenseOperator(np.abs(self.array))


@final
@dataclass(frozen=True)
class BlockOperator(BatchOperator):
    """The matrices as one sparse block-diagonal matrix, so that a product needs no loop over the batch."""

    pattern: Pattern
    values: np.ndarray

    @cached_property
    def _matrix(self) -> sp.csc_array:
        batch, (rows, cols) = self.values.shape[0], self.pattern.shape
        if batch == 1:
            return self.pattern.matrix(self.values[0])
        offsets = np.arange(batch)[:, None]
        indices = (self.pattern.indices[None, :] + offsets * rows).ravel()
        starts = (self.pattern.indptr[None, :-1] + offsets * self.pattern.nnz).ravel()
        shape = (batch * rows, batch * cols)
        return sp.csc_array((self.values.ravel(), indices, np.append(starts, self.values.size)), shape=shape)

    @cached_property
    def _transposed(self) -> sp.csr_array:
        return self._matrix.T

    def matvec(self, x: np.ndarray) -> np.ndarray:
        if self.values.shape[0] != x.shape[0]:
            return np.ascontiguousarray((self._matrix @ x.T).T)
        return (self._matrix @ x.ravel()).reshape(-1, self.pattern.shape[0])

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        if self.values.shape[0] != y.shape[0]:
            return np.ascontiguousarray((self._transposed @ y.T).T)
        return (self._transposed @ y.ravel()).reshape(-1, self.pattern.shape[1])

    def take(self, index: np.ndarray | list[int]) -> BlockOperator:
        return BlockOperator(self.pattern, values_of_part(self.values, index))

    def absolute(self) -> BlockOperator:
        return BlockOperator(self.pattern, np.abs(self.values))
