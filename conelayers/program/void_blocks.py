"""Blocks of curved cones with a bound that is void where it is infinite: ‖x‖ ≤ c, λ_max(X) ≤ c.

Such a bound c has taken the place of an epigraph variable (problem/simplify/epigraphs.py): the block gains by a larger
one, and in the limit holds for every x. Where it is infinite, or so large that it is set aside (numerics/bounds.py),
0·x + s = e stands for
the block, with e inside the cone: that holds with the multiplier zero, and touches nothing. Where it is −∞, −e stands
for it, which nothing satisfies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.program.cones import Cones

__all__ = ["VoidBlocks", "gaining"]


def gaining(cones: Cones) -> np.ndarray:
    """Which rows of second-order, semidefinite and nonnegative cones have slacks that may grow for ever by themselves,
    (m,) bool.

    Heads of second-order cones and diagonals of matrices. Their units together lie inside the cone.
    """
    found = np.zeros(cones.dimension, dtype=bool)
    row = cones.zero
    found[row : row + cones.nonneg] = True
    row += cones.nonneg
    found[row + np.concatenate([[0], np.cumsum(cones.soc)])[:-1].astype(np.int64)] = True
    row += sum(cones.soc)
    for orders, is_complex in ((cones.psd, False), (cones.hermitian, True)):
        for n in orders:
            found[row + np.cumsum([0, *range(n, 1, -1)])] = True
            row += n * n if is_complex else n * (n + 1) // 2
    return found


@final
@dataclass(frozen=True)
class VoidBlocks:
    """heads: the first row of each. rows: all of their rows, (k,), and ``of``, which of them each belongs to. interior:
    e on all rows (m,), 1 on those of the nonnegative cone.
    """

    heads: np.ndarray
    rows: np.ndarray
    of: np.ndarray
    interior: np.ndarray

    @classmethod
    def at(cls, cones: Cones, is_void: np.ndarray) -> VoidBlocks | None:
        """Of the blocks of rows (m,) bool; None if there are none."""
        if not is_void.any():
            return None
        block = np.repeat(np.arange(cones.block_sizes.size), cones.block_sizes)
        rows = np.flatnonzero(is_void)
        blocks, of = np.unique(block[rows], return_inverse=True)
        return cls(cones.block_starts[blocks], rows, of, gaining(cones).astype(float))

    def maxima(self, values: np.ndarray) -> np.ndarray:
        """The largest value in each block, (B, blocks) from (B, m)."""
        starts = np.searchsorted(self.of, np.arange(self.heads.size))
        return np.maximum.reduceat(values[:, self.rows], starts, axis=1)

    def spread(self, chosen: np.ndarray) -> np.ndarray:
        """On the rows of the blocks whose heads are chosen, (B, m) bool, and what is chosen otherwise."""
        found = chosen.copy()
        found[:, self.rows] = chosen[:, self.heads][:, self.of]
        return found

    def without_infinite(self, entry_rows: np.ndarray, A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A's values (B or 1, nnz) in these rows and b (B, m) with e, or −e, for the blocks with an infinite bound."""
        infinite = np.zeros(b.shape, dtype=bool)
        infinite[:, self.heads] = np.isinf(b[:, self.heads])
        if not infinite.any():
            return A, b
        signs = np.sign(b[:, self.heads])[:, self.of]
        infinite, e = self.spread(infinite), np.zeros(b.shape)
        e[:, self.rows] = signs * self.interior[self.rows]
        return np.where(infinite[:, entry_rows], 0.0, A), np.where(infinite, e, b)
