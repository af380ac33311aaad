"""Which columns and rows of a program have something to do with each other, be it through others."""

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
    """Parts of a program that have nothing to do with each other: the number of each column's (n,) and row's (m,), and how many there are."""

    columns: np.ndarray
    rows: np.ndarray
    number: int

    @classmethod
    def of(cls, P: Pattern, A: Pattern, cones: Cones) -> Components | None:
        """Those of a program with these patterns of P and A, where a cone's rows belong together; None where there is one only."""
        n, block = P.shape[0], np.repeat(np.arange(cones.block_sizes.size), cones.block_sizes)
        ends = np.concatenate([P.rows, n + block[A.rows]]), np.concatenate([P.cols, A.cols])
        size = n + cones.block_sizes.size
        links = sp.coo_array((np.ones(ends[0].size), ends), shape=(size, size))
        number, labels = connected_components(links, directed=False)
        return cls(labels[:n], labels[n + block], int(number)) if number > 1 else None

    @cached_property
    def _sorted(self) -> tuple[tuple[np.ndarray, Segments], ...]:
        """The columns, and the rows, component by component."""
        labels = np.arange(self.number)
        found = []
        for of in (self.columns, self.rows):
            order = np.argsort(of, kind="stable")
            found.append((order, Segments(np.searchsorted(of[order], labels), of.size)))
        return tuple(found)

    def column_maxima(self, values: np.ndarray) -> np.ndarray:
        """The largest of nonnegative values (B, n) in each component, (B, number); 0 where it has no column."""
        order, segments = self._sorted[0]
        return segments.maxima(values[:, order])

    def row_maxima(self, values: np.ndarray) -> np.ndarray:
        """The same for the rows, from (B, m)."""
        order, segments = self._sorted[1]
        return segments.maxima(values[:, order])
