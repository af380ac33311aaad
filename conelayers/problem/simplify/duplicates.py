"""Linear constraints that others make superfluous, for all values of the parameters.

Two rows of the nonnegative cone whose coefficients in A and in the parameters of b are the same up to a factor κ > 0
read aᵀx ≤ β and aᵀx ≤ β + γ after division, with a constant γ. If γ > 0 the second one never holds with equality: it is
gone, its multiplier zero. If γ = 0 they are one constraint: with y for the first and 0 for the second, the solutions,
and the sum of the two multipliers, are the same. Which part of that sum each has is not determined, and whoever asks
for the multiplier of one of them is to hear of that: then both stay. So they do if both are as the user wrote them, for
certificates name redundant constraints; gone is one that cvxpy made in rewriting another one. Rows of the zero cone
likewise, with γ = 0 and κ of any sign.

A row without entries in A and with a constant b > 0, or with b = ∞, holds always: it is gone, its multiplier zero; with
b = 0 it is gone if its multiplier, which is arbitrary, is not asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.problem.simplify.form import Form

__all__ = ["drop_superfluous"]

_APART = 1e-9  # of the larger one: constants that differ by less may be meant to be the same


def drop_superfluous(form: Form) -> Form | None:
    """The form without such rows; None if there are none."""
    flat = form.cones.zero + form.cones.nonneg
    if not flat:
        return None
    rows = _Rows.of(form, flat)
    dropped = rows.void | rows.repeated
    if not dropped.any():
        return None
    none = np.zeros(0, dtype=np.int64)
    return form.combined(np.flatnonzero(dropped), (none, none, np.zeros(0)), none)


@final
@dataclass(frozen=True)
class _Rows:
    """Which rows of the zero and the nonnegative cone hold always, and which say what another one says, (flat,)
    bool.
    """

    void: np.ndarray
    repeated: np.ndarray

    @classmethod
    def of(cls, form: Form, flat: int) -> _Rows:
        e, is_equality, requested = form.entries, np.arange(flat) < form.cones.zero, form.requested[:flat]
        inside = e.rows < flat
        is_constant = inside & (e.cols == form.n) & (e.parameters == form.width - 1)
        constant = np.zeros(flat)
        constant[e.rows[is_constant]] = e.values[is_constant]
        rest = np.flatnonzero(inside & ~is_constant)
        length = np.bincount(e.rows[rest], minlength=flat)
        void = (length == 0) & np.where(is_equality, constant == 0, constant >= 0) & ~((constant == 0) & requested)
        void |= ~is_equality & np.isposinf(constant)
        starts = np.concatenate([[0], np.cumsum(length)])[:-1]
        first = np.ones(flat)
        filled = (length > 0) & ~void
        first[filled] = e.values[rest[starts[filled]]]
        scale = np.where(is_equality, first, np.abs(first))
        values, index = e.values[rest] / scale[e.rows[rest]], e.cols[rest] * form.width + e.parameters[rest]
        constant = constant / scale
        # Rows with the same sum of pseudo-random weights are compared entry by entry.
        weights = ((index + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)) / 2.0**53 + 1.0
        sums = np.bincount(e.rows[rest], values * weights, minlength=flat)
        repeated = np.zeros(flat, dtype=bool)
        candidates = np.flatnonzero(filled & np.isfinite(constant))
        written = form.written[:flat]
        order = candidates[
            np.lexsort((constant[candidates], sums[candidates], length[candidates], is_equality[candidates]))
        ]
        leader = -1
        for row in order[_in_groups(is_equality[order], length[order], sums[order])].tolist():
            same = leader >= 0 and _agree(values, index, starts, length, leader, row)
            if not same or is_equality[leader] != is_equality[row]:
                leader = row
                continue
            gap = constant[row] - constant[leader]
            both = (written[row] and written[leader]) or requested[row] or requested[leader]
            if not is_equality[row] and gap > _APART * max(abs(constant[row]), abs(constant[leader])):
                repeated[row] = True
            elif both or (gap and is_equality[row]):
                leader = row
            elif gap == 0 and written[row]:
                repeated[leader], leader = True, row
            else:
                repeated[row] = True
        return cls(void, repeated)


def _in_groups(*keys: np.ndarray) -> np.ndarray:
    """Which of these sorted rows have a neighbour with the same keys."""
    size = keys[0].size
    same = np.ones(max(size - 1, 0), dtype=bool)
    for key in keys:
        same &= key[1:] == key[:-1]
    return np.append(same, False) | np.append(False, same) if size else np.zeros(0, dtype=bool)


def _agree(values: np.ndarray, index: np.ndarray, starts: np.ndarray, length: np.ndarray, one: int, other: int) -> bool:
    """Whether two rows have the same coefficients in the same places."""
    if length[one] != length[other]:
        return False
    a, b = (slice(starts[k], starts[k] + length[k]) for k in (one, other))
    return bool(np.array_equal(index[a], index[b]) and np.array_equal(values[a], values[b]))
