"""Directions in which the slacks of a block may move for ever, and bounds that are void at infinity.

A direction is a recession direction of a closed convex cone K iff it is a member. Those of curved cones that are asked for
here are members by one entry alone, but for second-order cones, where head ≥ ‖tail‖ is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.problem.infinite_blocks import gaining
from conelayers.problem.simplify.form import Form
from conelayers.program.cones import Cones

__all__ = ["Gains", "void_at_infinity"]


@final
@dataclass(frozen=True)
class Gains:
    """Whether slacks that move by ``moves`` in these rows, for each column, stay in their block's cone; and by −``moves``."""

    forward: np.ndarray
    backward: np.ndarray

    @classmethod
    def of(cls, cones: Cones, rows: np.ndarray, cols: np.ndarray, moves: np.ndarray) -> Gains:
        """Entry by entry; the entries of one second-order block and column all together."""
        signs = gaining(cones)[rows]
        forward, backward = signs * moves > 0, signs * moves < 0
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
    form: Form,
    chosen: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    values: np.ndarray,
    pivot: np.ndarray,
    sign: np.ndarray,
) -> np.ndarray:
    """Those columns t whose bound is finite, or whose blocks hold nothing when t is infinite.

    Second-order: s + t·d with d in the cone is in it for large t, whatever s is, if d is inside; if d is on the boundary, iff
    s₀d₀ − s₁ᵀd₁ > 0, which has to be constant. Semidefinite: d has to be diagonal and positive definite.
    Exponential: (x, y, ∞) is in the cone iff y > 0, which has to be constant; other curved blocks are left alone.
    """
    found = np.flatnonzero(chosen)
    open_ = form.may_be_infinite[rows[pivot[found]]] if found.size else np.zeros(0, dtype=bool)
    result = chosen.copy()
    for t in found[open_].tolist():
        own = np.flatnonzero(cols == t)
        own = own[own != pivot[t]]
        result[t] = _is_void(form, rows[own], -sign[t] * values[own])
    return result


def _is_void(form: Form, rows: np.ndarray, moves: np.ndarray) -> bool:
    """Whether the blocks of these rows hold nothing when their slacks have moved infinitely far."""
    cones = form.cones
    flat = cones.zero + cones.nonneg
    if form.may_be_infinite[rows[rows >= flat]].any():
        return False  # infinity may meet infinity; in a bound that is an error that names the parameters
    starts, sizes = cones.block_starts, cones.block_sizes
    blocks = np.searchsorted(starts, rows, side="right") - 1
    first_exp = flat + sum(cones.soc) + sum(r.size for r in cones.psd_rows) + sum(n * n for n in cones.hermitian)
    for block in np.unique(blocks[rows >= flat]).tolist():
        start, size = int(starts[block]), int(sizes[block])
        move = np.zeros(size)
        move[rows[blocks == block] - start] = moves[blocks == block]
        if start < flat + sum(cones.soc):
            tail = float(np.linalg.norm(move[1:]))
            if move[0] <= tail and not _is_positive(form, start, np.concatenate([move[:1], -move[1:]])):
                return False
        elif start < first_exp:
            if np.count_nonzero(move > 0) != np.count_nonzero(gaining(cones)[start : start + size]):
                return False
        elif start >= first_exp + 3 * cones.exp or move[0] or not _is_positive(form, start, np.array([0.0, 1.0, 0.0])):
            return False
    return True


def _is_positive(form: Form, start: int, weights: np.ndarray) -> bool:
    """Whether the weighted sum of a block's slacks is a positive constant."""
    used = np.flatnonzero(weights)
    total = np.asarray(weights[used] @ form.T[start + used]).ravel()
    constant = total[-1]
    return bool(constant > 0 and not total[:-1].any())
