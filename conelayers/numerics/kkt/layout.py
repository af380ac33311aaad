"""The symbolic part of a sparse K: where its entries go, and which of them are pins.

Layouts are kept with the structure: Newton's steps, calls and instances differ in their values far more often than in
their active rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import scipy.sparse as sp

from conelayers.program.cone_program import Structure
from conelayers.program.patterns import Segments
from conelayers.program.per_structure import once_per_structure

__all__ = ["Layout", "PinLayout", "Sums"]

_PIN = 1e-3  # |a| below which a row does not pin its variable
_MOST_KEPT, _MOST_ENTRIES = 8, 1_000_000  # number of layouts kept with a structure, and of entries in all of them


def _by_row(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    """A CSR matrix of the numbers of the entries; entries with one position stay apart, next to each other."""
    positions = sp.coo_array((np.arange(rows.size), (rows, cols)), shape=shape)
    positions.has_canonical_format = True  # so that SciPy does not sum the numbers
    return positions.tocsr()


@final
class Sums:
    """A CSR pattern for entries (rows, cols); values of entries with one position are summed."""

    def __init__(self, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> None:
        by_row = _by_row(rows, cols, shape)
        by_row.sort_indices()
        row, col = rows[by_row.data], by_row.indices
        first = np.ones(row.size, dtype=bool)
        first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
        self._targets = np.empty(row.size, dtype=np.int64)
        self._targets[by_row.data] = np.cumsum(first) - 1
        self._shape, self.indices = shape, col[first]
        self.indptr = np.concatenate([[0], np.cumsum(np.bincount(row[first], minlength=shape[0]))]).astype(np.int32)

    def data(self, values: np.ndarray) -> np.ndarray:
        """The stored values."""
        # bincount returns integers if there are no values.
        return np.bincount(self._targets, values, minlength=self.indices.size).astype(np.float64, copy=False)

    def matrix(self, values: np.ndarray) -> sp.csr_array:
        return sp.csr_array((self.data(values), self.indices, self.indptr), shape=self._shape)


@final
@dataclass(frozen=True)
class PinLayout:
    """The positions of the parts of K around its pins (``Pins`` in assembly.py)."""

    kept: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    entries: np.ndarray  # the pins' positions among all entries
    empty: np.ndarray
    across: np.ndarray  # positions of the entries between kept and pinned indices; ``between``: between pinned ones
    coupling: Sums
    between: np.ndarray
    within: Sums

    def fit(self, data: np.ndarray) -> bool:
        """Whether the pins' entries are still large enough."""
        return bool((np.abs(data[self.entries]) > _PIN).all())


@final
@dataclass(frozen=True)
class Layout:
    """The positions of the entries of K's upper triangle: those that are factored (``inside``), and those around the
    pins.
    """

    key: tuple[np.ndarray, ...]
    inside: np.ndarray
    rows: np.ndarray  # rows and columns of the inside entries in the factored matrix
    cols: np.ndarray
    order: int
    positive: int
    pins: PinLayout | None

    @classmethod
    def of(
        cls, structure: Structure, data: np.ndarray, rows: np.ndarray, cols: np.ndarray, order: int, positive: int
    ) -> Layout:
        """The layout of K's upper triangle (rows ≤ cols) without its pins, made only if it is not kept already."""
        # Two matrices with the same entries may have different orders, if one has rows that are zero.
        key = rows, cols, data != 0, np.array([order, positive])
        known = _remembered(structure)
        for layout in known:
            if all(map(_same, layout.key, key)) and (layout.pins is None or layout.pins.fit(data)):
                return layout
        layout = _find(key, np.abs(data) > _PIN, order, positive, structure.n)
        kept, entries = [layout], rows.size
        for other in known[: _MOST_KEPT - 1]:
            entries += other.key[0].size
            if entries <= _MOST_ENTRIES:
                kept.append(other)
        known[:] = kept
        return layout

    @classmethod
    def whole(cls, rows: np.ndarray, cols: np.ndarray, order: int, positive: int) -> Layout:
        """The layout without pins: all entries are inside."""
        return cls((rows, cols), np.arange(rows.size), rows, cols, order, positive, None)

    @cached_property
    def _upper(self) -> Sums:
        """The upper triangle's CSC pattern, the CSR one of its transpose, with all of the diagonal."""
        diagonal = np.arange(self.order)
        return Sums(
            np.concatenate([self.cols, diagonal]), np.concatenate([self.rows, diagonal]), (self.order, self.order)
        )

    @property
    def diagonal(self) -> np.ndarray:
        """The positions of the diagonal entries: each is the last one of its column."""
        return self._upper.indptr[1:] - 1

    def upper(self, values: np.ndarray) -> sp.csc_matrix:
        """The matrix of the inside entries."""
        padded = np.concatenate([values, np.zeros(self.order)])
        upper = self._upper
        return sp.csc_matrix((upper.data(padded), upper.indices, upper.indptr), shape=(self.order, self.order))

    @cached_property
    def _touching(self) -> tuple[np.ndarray, Segments]:
        """The entries of each row of both triangles."""
        both = np.concatenate([self.rows, self.cols]), np.concatenate([self.cols, self.rows])
        by_row = _by_row(*both, (self.order, self.order))
        return by_row.data % max(self.rows.size, 1), Segments(by_row.indptr[:-1], by_row.nnz)

    def equilibrate(self, magnitude: np.ndarray, passes: int = 3) -> np.ndarray:
        """Ruiz scaling of the symmetric matrix from the magnitudes of its inside entries."""
        e = np.ones(self.order)
        touching, segments = self._touching
        for _ in range(passes):
            scaled = magnitude * e[self.rows]
            scaled *= e[self.cols]
            largest = segments.maxima(scaled[touching][None])[0]
            e /= np.sqrt(np.where(largest > 0, largest, 1.0))
        return e


@once_per_structure
def _remembered(structure: Structure) -> list[Layout]:
    """The layouts kept for the structure, the latest first."""
    return []


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.size == b.size and bool((a == b).all())


def _find(key: tuple[np.ndarray, ...], large: np.ndarray, order: int, positive: int, n: int) -> Layout:
    rows, cols, nonzero, _ = key
    stored = np.flatnonzero(nonzero)
    rows, cols, large = rows[stored], cols[stored], large[stored]
    below = cols >= positive
    single = np.bincount(cols[below], minlength=order) == 1
    pin = np.flatnonzero(below & single[cols] & (rows < n) & large)
    touched = np.zeros(order, dtype=bool)
    touched[rows] = touched[cols] = True
    empty = np.flatnonzero(~touched[:n])
    if not pin.size and not empty.size:
        return Layout(key, stored, rows, cols, order, positive, None)
    pin = pin[np.unique(rows[pin], return_index=True)[1]]  # one row a column
    columns, pinning = rows[pin], cols[pin]
    out = np.zeros(order, dtype=bool)
    out[columns] = out[pinning] = out[empty] = True
    kept = np.flatnonzero(~out)
    place = np.empty(order, dtype=np.int64)
    place[kept] = np.arange(kept.size)
    place[columns] = np.arange(columns.size)
    is_pin = np.zeros(rows.size, dtype=bool)
    is_pin[pin] = True
    out_row, out_col = out[rows], out[cols]
    inside = np.flatnonzero(~out_row & ~out_col)
    across = np.flatnonzero(out_row ^ out_col)
    within = np.flatnonzero(out_row & out_col & ~is_pin)
    i = np.where(out_row, cols, rows)[across]
    j = np.where(out_row, rows, cols)[across]
    coupling = Sums(place[i], place[j], (kept.size, columns.size))
    i, j = place[rows[within]], place[cols[within]]
    off = i != j
    both = Sums(np.append(i, j[off]), np.append(j, i[off]), (columns.size,) * 2)
    pins = PinLayout(
        kept=kept,
        columns=columns,
        rows=pinning,
        entries=stored[pin],
        empty=empty,
        across=stored[across],
        coupling=coupling,
        between=np.append(stored[within], stored[within[off]]),
        within=both,
    )
    factored_positive = int(np.searchsorted(kept, positive))
    inner = place[rows[inside]], place[cols[inside]]
    return Layout(key, stored[inside], *inner, kept.size, factored_positive, pins)
