"""Bounds that contradict each other, or one row: what a presolve finds in one pass over the entries, for a whole batch.

Rows of A with one entry bound a variable, l ≤ x ≤ u. Where lⱼ > uⱼ, those two rows add up to a contradiction. And where the least value of
a row over the box, its activity Σ min(aᵢⱼlⱼ, aᵢⱼuⱼ), exceeds bᵢ, the row and the bounds that its terms are taken from do
(Andersen and Andersen, "Presolving in linear programming", 1995; Brearley, Mitra, Williams 1975). An equality is looked at from both sides.
"""

from __future__ import annotations

import numpy as np

from conelayers.program import ConeProgram, Structure

__all__ = ["contradiction_of_bounds"]


def contradiction_of_bounds(program: ConeProgram) -> np.ndarray:
    """y (B, m) ≥ 0 on the inequality rows with Aᵀy = 0, up to rounding, and bᵀy < 0; zero where there is no such contradiction."""
    y = np.zeros_like(program.b)
    if not program.structure.singletons[0].size:
        return y
    lower, upper = _bounds(program, 1), _bounds(program, -1)
    _crossing(program, lower, upper, y)
    for sign in (1.0, -1.0):
        _exceeding(program, lower, upper, sign, y)
    return y


class _Bounds:
    """The tightest bound of each variable, its row and that row's entry, (B, n) each; infinite, −1 and 1 where there is none."""

    def __init__(self, shape: tuple[int, int], worst: float) -> None:
        self.value = np.full(shape, worst)
        self.row = np.full(shape, -1)
        self.entry = np.ones(shape)


def _bounds(program: ConeProgram, side: int) -> _Bounds:
    """Lower bounds for side = 1, upper ones for −1."""
    structure = program.structure
    rows, cols = structure.singletons
    order, starts = structure.A.by_row
    entries = np.broadcast_to(program.A[:, order[starts[rows]]], (program.batch, rows.size))
    bound = np.divide(program.b[:, rows], entries, out=np.full(entries.shape, np.nan), where=entries != 0)
    counts = (rows < structure.cones.zero) | (side * entries < 0)
    value = np.where(counts & np.isfinite(bound), side * bound, -np.inf)
    found = _Bounds(program.q.shape, -side * np.inf)
    best = np.full(program.q.shape, -np.inf)
    for layer in _layers(cols):  # rows that bound different variables
        j, r = cols[layer], rows[layer]
        better = value[:, layer] > best[:, j]
        best[:, j] = np.where(better, value[:, layer], best[:, j])
        found.value[:, j] = np.where(better, bound[:, layer], found.value[:, j])
        found.row[:, j] = np.where(better, r, found.row[:, j])
        found.entry[:, j] = np.where(better, entries[:, layer], found.entry[:, j])
    return found


def _layers(cols: np.ndarray) -> list[np.ndarray]:
    """The positions in groups in which no column comes twice."""
    order = np.argsort(cols, kind="stable")
    _, first, counts = np.unique(cols[order], return_index=True, return_counts=True)
    rank = np.empty(cols.size, dtype=np.int64)
    rank[order] = np.arange(cols.size) - np.repeat(first, counts)
    return [np.flatnonzero(rank == k) for k in range(int(counts.max(initial=0)))]


def _crossing(program: ConeProgram, lower: _Bounds, upper: _Bounds, y: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        gap = lower.value - upper.value
        gap = np.where(gap > 0, gap / (np.abs(lower.value) + np.abs(upper.value)), 0.0)
    worst = np.argmax(gap, axis=1)
    i = np.flatnonzero(gap[np.arange(len(gap)), worst] > 0)
    j = worst[i]
    y[i, lower.row[i, j]] = -1 / lower.entry[i, j]  # an inequality's lower bound has a negative entry
    y[i, upper.row[i, j]] += 1 / upper.entry[i, j]


def _exceeding(program: ConeProgram, lower: _Bounds, upper: _Bounds, sign: float, y: np.ndarray) -> None:
    """Row i with the bounds of its terms, times −1 for equalities seen from above."""
    structure = program.structure
    A, batch = structure.A, program.batch
    values = sign * np.broadcast_to(program.A, (batch, A.nnz))
    taken = np.where(values > 0, lower.value[:, A.cols], upper.value[:, A.cols])
    with np.errstate(invalid="ignore"):
        terms = np.where(values == 0, 0.0, values * taken)
    bounded = np.isfinite(terms)
    unbounded = A.row_sums((~bounded).astype(float)) > 0
    terms = np.where(bounded, terms, 0.0)
    b = sign * program.b
    excess = A.row_sums(terms) - b
    size = A.row_sums(np.abs(terms)) + np.abs(b)
    usable = ~unbounded & (excess > 0) & np.isfinite(size)
    usable[:, structure.singletons[0]] = False
    if sign < 0:
        usable[:, structure.cones.zero :] = False
    relative = np.divide(excess, size, out=np.zeros_like(excess), where=usable & (size > 0))
    worst = np.argmax(relative, axis=1)
    open_ = (relative[np.arange(batch), worst] > 0) & ~y.any(axis=1)
    for row in np.unique(worst[open_]):
        i = np.flatnonzero(open_ & (worst == row))
        entries = _entries(structure, int(row))
        cols = A.cols[entries]
        a = values[i][:, entries]
        own = np.zeros((i.size, y.shape[1]))
        for side, bounds in ((a > 0, lower), (a < 0, upper)):
            k, e = np.nonzero(side)
            at = i[k], cols[e]
            np.add.at(own, (k, bounds.row[at]), -a[k, e] / bounds.entry[at])
        own[:, row] += sign
        y[i] = own


def _entries(structure: Structure, row: int) -> np.ndarray:
    order, starts = structure.A.by_row
    last = starts[row + 1] if row + 1 < len(starts) else structure.A.nnz
    return order[starts[row] : last]
