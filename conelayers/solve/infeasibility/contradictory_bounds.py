"""Bounds that contradict each other, or one row: what a presolve finds in one pass over the entries, for a whole batch.

Rows of A with one entry bound a variable, l ≤ x ≤ u. Where lⱼ > uⱼ, those two rows add up to a contradiction. And where
the least value of a row over the box, its activity Σ min(aᵢⱼlⱼ, aᵢⱼuⱼ), exceeds bᵢ, the row and the bounds that its
terms are taken from do (Andersen and Andersen, "Presolving in linear programming", 1995; Brearley, Mitra, Williams
1975). An equality is looked at from both sides.
"""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np

from conelayers.program.cone_program import ConeProgram

__all__ = ["contradiction_of_bounds"]


def contradiction_of_bounds(program: ConeProgram) -> np.ndarray:
    """y (B, m) ≥ 0 on the inequality rows with Aᵀy = 0, up to rounding, and bᵀy < 0; zero if there is none."""
    y = np.zeros_like(program.b)
    index = np.flatnonzero(_contrary(program))
    if index.size:
        part = program.take(index)
        lower, upper, found = _bounds(part, 1), _bounds(part, -1), np.zeros_like(part.b)
        _crossing(lower, upper, found)
        for sign in (1.0, -1.0):
            _exceeding(part, lower, upper, sign, found)
        y[index] = found
    return y


def _contrary(program: ConeProgram) -> np.ndarray:
    """The instances that may have such a contradiction, (B,) bool, by the bounds without their rows."""
    rows, cols = program.structure.singletons
    none = np.zeros(program.batch, dtype=bool)
    if not rows.size:
        return none
    by_column = np.argsort(cols, kind="stable")
    rows, cols = rows[by_column], cols[by_column]
    first = np.flatnonzero(np.diff(cols, prepend=-1))
    order, starts = program.structure.A.by_row
    entries = program.A[:, order[starts[rows]]]
    equality = rows < program.structure.cones.zero
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = program.b[:, rows] / entries
    lower, upper = np.full(program.q.shape, -np.inf), np.full(program.q.shape, np.inf)
    lower[:, cols[first]] = np.maximum.reduceat(np.where((entries < 0) | equality, bound, -np.inf), first, axis=1)
    upper[:, cols[first]] = np.minimum.reduceat(np.where((entries > 0) | equality, bound, np.inf), first, axis=1)
    contrary: np.ndarray = np.any(lower > upper, axis=1)
    for sign in (1.0, -1.0):
        activity = _Activity.of(program, lower, upper, sign)
        if activity is not None:
            contrary |= activity.usable.any(axis=1)
    return contrary


@final
class _Bounds:
    """The tightest bound of each variable, its row and that row's entry, (B, n) each; infinite, −1 and 1 if it has
    none.
    """

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
    """The positions, in groups in which no column occurs twice."""
    order = np.argsort(cols, kind="stable")
    _, first, counts = np.unique(cols[order], return_index=True, return_counts=True)
    rank = np.empty(cols.size, dtype=np.int64)
    rank[order] = np.arange(cols.size) - np.repeat(first, counts)
    return [np.flatnonzero(rank == k) for k in range(int(counts.max(initial=0)))]


def _crossing(lower: _Bounds, upper: _Bounds, y: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        gap = lower.value - upper.value
        gap = np.where(gap > 0, gap / (np.abs(lower.value) + np.abs(upper.value)), 0.0)
    worst = np.argmax(gap, axis=1)
    i = np.flatnonzero(gap[np.arange(len(gap)), worst] > 0)
    j = worst[i]
    y[i, lower.row[i, j]] = -1 / lower.entry[i, j]  # an inequality's lower bound has a negative entry
    y[i, upper.row[i, j]] += 1 / upper.entry[i, j]


@final
class _Activity(NamedTuple):
    """Rows with more than one entry, times a sign: their entries' positions, row by row, where each row starts and how
    many it has; the entries' columns and values (B or 1, entries), and by what part of its terms the least value of a
    row exceeds b (B, rows).
    """

    rows: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    excess: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, program: ConeProgram, lower: np.ndarray, upper: np.ndarray, sign: float) -> _Activity | None:
        """None without such rows; for sign −1 only equalities count, which bound from both sides."""
        A, cones = program.structure.A, program.structure.cones
        looked_at = np.bincount(A.rows, minlength=cones.dimension) > 1
        if sign < 0:
            looked_at[cones.zero :] = False
        rows = np.flatnonzero(looked_at)
        if not rows.size:
            return None
        entries, lengths = A.entries_of(rows)
        starts, cols = np.cumsum(lengths) - lengths, A.cols[entries]
        values = sign * program.A[:, entries]
        taken = np.where(values > 0, lower[:, cols], upper[:, cols])
        with np.errstate(invalid="ignore"):
            terms = np.where(values == 0, 0.0, values * taken)  # −∞ where there is no bound
        b = sign * program.b[:, rows]
        excess = np.add.reduceat(terms, starts, axis=1) - b
        return cls(
            rows, starts, lengths, cols, values, excess, np.add.reduceat(np.abs(terms), starts, axis=1) + np.abs(b)
        )

    @property
    def usable(self) -> np.ndarray:
        """Which rows exceed b, (B, rows) bool."""
        return (self.excess > 0) & np.isfinite(self.size)


def _exceeding(program: ConeProgram, lower: _Bounds, upper: _Bounds, sign: float, y: np.ndarray) -> None:
    """Write into y the sum of a row and of the bounds of its terms, for instances in which nothing was found yet."""
    activity = _Activity.of(program, lower.value, upper.value, sign)
    if activity is None:
        return
    rows, starts, lengths, cols, values, excess, size = activity
    relative = np.divide(excess, size, out=np.zeros_like(excess), where=activity.usable)
    worst = np.argmax(relative, axis=1)
    open_ = activity.usable.any(axis=1) & ~y.any(axis=1)
    values = np.broadcast_to(values, (program.batch, cols.size))
    for k in np.unique(worst[open_]).tolist():
        i = np.flatnonzero(open_ & (worst == k))
        own = slice(starts[k], starts[k] + lengths[k])
        a, j = values[i, own], cols[own]
        ray = np.zeros((i.size, y.shape[1]))
        for side, bounds in ((a > 0, lower), (a < 0, upper)):
            instance, e = np.nonzero(side)
            at = i[instance], j[e]
            np.add.at(ray, (instance, bounds.row[at]), -a[instance, e] / bounds.entry[at])
        ray[:, rows[k]] += sign
        y[i] = ray
