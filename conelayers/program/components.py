"""The independent components of a program: columns and rows that no chain of entries or cones connects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from conelayers.program.cones import Cones
from conelayers.program.patterns import Pattern, Segments

__all__ = ["Components"]


@final
@dataclass(frozen=True)
class Components:
    """The component of each column (n,) and of each row (m,), by number, and how many components there are."""

    columns: np.ndarray
    rows: np.ndarray
    number: int

    @classmethod
    def of(cls, P: Pattern, A: Pattern, cones: Cones) -> Components | None:
        """The components by the patterns of P and A; the rows of one cone are connected.

        None if there is only one component.
        """
        n, block = P.shape[0], np.repeat(np.arange(cones.block_sizes.size), cones.block_sizes)
        ends = np.concatenate([P.rows, n + block[A.rows]]), np.concatenate([P.cols, A.cols])
        size = n + cones.block_sizes.size
        links = sp.coo_array((np.ones(ends[0].size), ends), shape=(size, size))
        number, labels = connected_components(links, directed=False)
        return cls(labels[:n], labels[n + block], int(number)) if number > 1 else None

    @cached_property
    def _sorted(self) -> tuple[tuple[np.ndarray, Segments], ...]:
        """The columns in the order of their components, and where each component starts; the same for the rows."""
        labels = np.arange(self.number)
        found = []
        for of in (self.columns, self.rows):
            order = np.argsort(of, kind="stable")
            found.append((order, Segments(np.searchsorted(of[order], labels), of.size)))
        return tuple(found)

    def column_maxima(self, values: np.ndarray) -> np.ndarray:
        """The largest of nonnegative values (B, n) in each component, (B, number); 0 if it has no column."""
        order, segments = self._sorted[0]
        return segments.maxima(values[:, order])

    def row_maxima(self, values: np.ndarray) -> np.ndarray:
        """The largest of nonnegative values (B, m) of the rows in each component, (B, number); 0 if it has no row."""
        order, segments = self._sorted[1]
        return segments.maxima(values[:, order])
