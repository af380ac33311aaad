"""Directions in which the slacks of a block may move for ever, and blocks that then hold always.

A direction is one of recession of a closed convex cone K iff it is a member. Those that are asked for here are members
by their entries alone, but for second-order cones, where head ≥ ‖tail‖ is computed. Exponential and power cones are
left alone: their rows cannot be brought to one size by the equilibration, and a bound in one of them, far from 1, makes
them hard to solve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.problem.simplify.form import Form
from conelayers.program.cones import Cones
from conelayers.program.void_blocks import gaining

__all__ = ["Gains", "void_at_infinity"]


@final
@dataclass(frozen=True)
class Gains:
    """Whether slacks that move by ``moves`` in these rows, for each column, stay in their cone; and by −``moves``."""

    forward: np.ndarray
    backward: np.ndarray

    @classmethod
    def of(cls, cones: Cones, rows: np.ndarray, cols: np.ndarray, moves: np.ndarray) -> Gains:
        """Entry by entry; the entries of one second-order block and column all together."""
        gains = gaining(cones)[rows]
        forward, backward = gains & (moves > 0), gains & (moves < 0)
        first = cones.zero + cones.nonneg
        inside = np.flatnonzero((rows >= first) & (rows < first + sum(cones.soc)))
        if inside.size:
            starts = first + np.concatenate([[0], np.cumsum(cones.soc)])[:-1].astype(np.int64)
            block = np.searchsorted(starts, rows[inside], side="right") - 1
            _, group = np.unique(block + starts.size * cols[inside], return_inverse=True)
            is_head = rows[inside] == starts[block]
            head = np.bincount(group, np.where(is_head, moves[inside], 0.0))
            tail = np.sqrt(np.bincount(group, np.where(is_head, 0.0, moves[inside] ** 2)))
            forward[inside], backward[inside] = (head >= tail)[group], (-head >= tail)[group]
        return cls(forward, backward)

    def in_direction(self, direction: float) -> np.ndarray:
        """Entry by entry, for columns that grow (1) or fall (−1)."""
        return self.forward if direction > 0 else self.backward


def void_at_infinity(
    form: Form, chosen: np.ndarray, rows: np.ndarray, cols: np.ndarray, moves: np.ndarray
) -> np.ndarray:
    """Those of the chosen columns t, (n,) bool, whose blocks hold always when t is infinite; ``moves`` are those of the
    slacks.

    Second-order: s + t·d with d in the cone is in it for large t, whatever s is, if d is inside; if d is on the
    boundary, iff s₀d₀ − s₁ᵀd₁ > 0, which has to be constant. Semidefinite: d has to be diagonal and positive definite.
    """
    cones, curved = form.cones, rows >= form.cones.zero + form.cones.nonneg
    result = chosen.copy()
    # Infinity would meet infinity there; in a bound that is an error that names the parameters.
    result[cols[curved & form.may_be_infinite[rows]]] = False
    heads = np.zeros(form.m, dtype=bool)
    heads[cones.block_starts[cones.zero + cones.nonneg :][: len(cones.soc)]] = True
    for t in np.unique(cols[curved & ~heads[rows] & result[cols]]).tolist():
        own = np.flatnonzero((cols == t) & curved)
        result[t] = _is_void(form, rows[own], moves[own])
    return result


def _is_void(form: Form, rows: np.ndarray, moves: np.ndarray) -> bool:
    """Whether the blocks of these rows hold nothing when their slacks have moved infinitely far."""
    cones, starts, sizes = form.cones, form.cones.block_starts, form.cones.block_sizes
    blocks = np.searchsorted(starts, rows, side="right") - 1
    for block in np.unique(blocks).tolist():
        start, size = int(starts[block]), int(sizes[block])
        move = np.zeros(size)
        move[rows[blocks == block] - start] = moves[blocks == block]
        if start >= cones.zero + cones.nonneg + sum(cones.soc):
            if np.count_nonzero(move > 0) != np.count_nonzero(gaining(cones)[start : start + size]):
                return False
            continue
        on_boundary = move[0] <= np.linalg.norm(move[1:])
        if on_boundary and not _is_positive(form, start, np.concatenate([move[:1], -move[1:]])):
            return False
    return True


def _is_positive(form: Form, start: int, weights: np.ndarray) -> bool:
    """Whether the weighted sum of a block's slacks is a positive constant."""
    used = np.flatnonzero(weights)
    total = np.asarray(weights[used] @ form.T[start + used]).ravel()
    return bool(total[-1] > 0 and not total[:-1].any())
