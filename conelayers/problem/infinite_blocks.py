"""Blocks of curved cones whose right-hand side may be infinite: ‖x‖ ≤ c with c = ∞ does not bound.

The bound c has taken the place of an epigraph variable (simplify/epigraphs.py), which only gains by a larger one. Where it
is infinite the block is void: 0·x + s = e with e inside the cone stands for it, which holds, with the multiplier zero, and
touches nothing. Where it is infinite the other way, −e stands for it, which nothing satisfies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from conelayers.program.cone_program import ConeProgram
from conelayers.program.cones import Cones

__all__ = ["InfiniteBlocks", "gaining"]


def gaining(cones: Cones) -> np.ndarray:
    """The sign in which each row's slack may move for ever by itself, (m,): 0 where it may not."""
    signs = np.zeros(cones.dimension)
    row = cones.zero
    signs[row : row + cones.nonneg] = 1.0
    row += cones.nonneg
    for d in cones.soc:
        signs[row] = 1.0
        row += d
    for orders, is_complex in ((cones.psd, False), (cones.hermitian, True)):
        for n in orders:
            signs[row + _diagonal(n)] = 1.0
            row += n * n if is_complex else n * (n + 1) // 2
    for _ in range(cones.exp):  # (−1, 0, 0) and (0, 0, 1) are in cl{y e^{x/y} ≤ z}
        signs[row], signs[row + 2] = -1.0, 1.0
        row += 3
    row += 3 * cones.exp_dual
    for _ in cones.power:
        signs[row : row + 2] = 1.0
        row += 3
    return signs


def _diagonal(n: int) -> np.ndarray:
    """Where the diagonal of a matrix of order n lies among its rows, column by column."""
    return np.cumsum([0, *range(n, 1, -1)])


@final
@dataclass(frozen=True)
class InfiniteBlocks:
    """The rows (k,) of curved cones that may be infinite; and for all rows the block, the sign that gains and e."""

    rows: np.ndarray
    block: np.ndarray
    gains: np.ndarray
    interior: np.ndarray

    @classmethod
    def of(cls, cones: Cones, may_be_infinite: np.ndarray) -> InfiniteBlocks | None:
        """None where only bounds may be, for ``may_be_infinite`` (m,) bool."""
        rows = np.flatnonzero(may_be_infinite & ~cones.nonneg_rows)
        if not rows.size:
            return None
        block = np.repeat(np.arange(cones.block_sizes.size), cones.block_sizes)
        gains = gaining(cones)
        interior = gains.copy()
        first = cones.dimension - 3 * (cones.exp + cones.exp_dual + len(cones.power))
        interior[first : first + 3 * cones.exp] = np.tile([-1.0, 1.0, 1.0], cones.exp)
        return cls(rows, block, gains, interior)

    def emptied(self, program: ConeProgram) -> ConeProgram:
        """The program without the blocks that are infinite, in each instance."""
        b = program.b
        infinite = np.zeros(b.shape, dtype=bool)
        infinite[:, self.rows] = np.isinf(b[:, self.rows])
        if not infinite.any():
            return program
        instances, rows = np.nonzero(infinite)
        count = int(self.block[-1]) + 1
        sign = np.zeros((len(b), count))
        np.add.at(sign, (instances, self.block[rows]), self.gains[rows] * np.sign(b[instances, rows]))
        empty = np.zeros((len(b), count), dtype=bool)
        empty[instances, self.block[rows]] = True
        empty_rows = empty[:, self.block]
        A = np.where(empty_rows[:, program.structure.A.rows], 0.0, program.A)
        return replace(program, A=A, b=np.where(empty_rows, np.sign(sign)[:, self.block] * self.interior, b))
