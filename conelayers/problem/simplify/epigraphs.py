"""‖x‖ ≤ c, |x| ≤ c, max(x) ≤ c: the variable t of f(x) ≤ t, t ≤ c is replaced by c.

Let t be a column that is not the user's, in neither q nor P, with constant coefficients a in A. Let one row r of the
nonnegative cone bound it, αt + ℓᵀx ≤ β with α > 0 (for α < 0 take −t), and let all its other rows only gain by a larger
t: their slacks s = b − A x move by −a·dt, and −a ∈ K for each block. Then

    a point (x, t) that satisfies all of them stays feasible, at the same objective, when t grows to t* = (β − ℓᵀx)/α:

the other blocks hold s − a(t* − t) ∈ K + K = K, and row r with slack zero. So the solutions x are those of the program
in
which t* stands for t: row r and column t are gone, and row i becomes row i − (aᵢ/α)·row r. It is affine in the
parameters, since a and α are constant.

Multipliers. Those of the new rows are those of the old ones; with y_r = −Σ aᵢyᵢ/α ≥ 0 (y ∈ K* and −a ∈ K) column t is
stationary, Σ aᵢyᵢ + αy_r = 0, the other columns have the same Aᵀy as before, and s_r y_r = 0: a solution of cvxpy's
form. For ‖x‖ ≤ c, y_r is the multiplier of the cone's head; for |x| ≤ c the sum of those of the two rows. If t ends
below t* in another solution of cvxpy's form, y_r = 0 there, and here too where multipliers are unique.

Infinite bounds. Where β may be infinite, the blocks of t are to be void with it: those of the nonnegative cone are,
those of curved cones if ``void_at_infinity`` (blocks.py). They are taken away then, and set aside where β dwarfs
everything else (program/void_blocks.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conelayers.problem.simplify.blocks import Gains, void_at_infinity
from conelayers.problem.simplify.form import Form, without_fill

__all__ = ["substitute_epigraphs"]


def substitute_epigraphs(form: Form) -> Form | None:
    """The form after one round of it, in which no bound holds another such variable; None where there is none."""
    e, n = form.entries, form.n
    candidate = form.auxiliary & ~form.removed & ~form.in_P & form.is_constant
    candidate[form.q.rows] = False
    candidate &= form.q.constant == 0
    of_candidate = np.append(candidate, False)[e.cols]
    if not of_candidate.any():
        return None
    at = np.flatnonzero(of_candidate)
    rows, cols, values = e.rows[at], e.cols[at], e.values[at]
    gains = Gains.of(form.cones, rows, cols, -values)
    is_bound = np.zeros(form.m, dtype=bool)
    is_bound[form.cones.zero : form.cones.zero + form.cones.nonneg] = True

    pivot, sign = np.full(n, -1), np.zeros(n)
    for direction in (1.0, -1.0):
        holds = ~gains.in_direction(direction)
        count = np.bincount(cols[holds], minlength=n)
        bounds = holds & is_bound[rows] & (count[cols] == 1) & (pivot[cols] < 0)
        pivot[cols[bounds]], sign[cols[bounds]] = np.flatnonzero(bounds), direction
    chosen = pivot >= 0
    chosen &= np.bincount(cols, minlength=n) > 1  # else nothing but the bound holds it
    chosen = _without_fill(form, chosen, rows, cols, pivot)
    void = void_at_infinity(form, chosen, rows, cols, -values * sign[cols])
    chosen[chosen] = (void | ~form.may_be_infinite[np.where(chosen, rows[pivot], 0)])[chosen]
    chosen = _without_chains(form, chosen, rows, pivot)
    if not chosen.any():
        return None
    gone = np.flatnonzero(chosen)
    bound_rows = rows[pivot[gone]]
    others = chosen[cols]
    others[pivot[gone]] = False
    to = pivot[cols[others]]
    form = _with_void_blocks(form, rows[others], void[cols[others]])
    return form.combined(bound_rows, (rows[others], rows[to], -values[others] / values[to]), gone)


def _with_void_blocks(form: Form, rows: np.ndarray, void: np.ndarray) -> Form:
    """The form that knows which of the blocks of these rows hold always where the bounds that come into them are
    infinite.
    """
    flat = form.cones.zero + form.cones.nonneg
    starts, sizes = form.cones.block_starts, form.cones.block_sizes
    block = np.searchsorted(starts, rows, side="right") - 1
    found = np.add.reduceat(form.void, starts) > 0 if starts.size else np.zeros(0, dtype=bool)
    found[block[void & (rows >= flat)]] = True
    found[block[~void]] = False
    return replace(form, void=np.repeat(found, sizes))


def _without_fill(form: Form, chosen: np.ndarray, rows: np.ndarray, cols: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """Those whose bound is short enough, and whose bound holds no other auxiliary variables, unless it is one by
    itself.

    In Σtᵢ ≤ c one tᵢ is like another: to replace one by all the others makes nothing simpler.
    """
    found = np.flatnonzero(chosen)
    bound = rows[pivot[found]]
    others = np.bincount(cols, minlength=form.n)[found] - 1
    length = form.lengths_within(np.ones(form.n, dtype=bool))[bound] - 1
    helpers = form.lengths_within(form.auxiliary)[bound] - 1
    good = (without_fill(others, length)) & ((helpers == 0) | (length <= 1))
    result = np.zeros_like(chosen)
    result[found[good]] = True
    return result


def _without_chains(form: Form, chosen: np.ndarray, rows: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """Those whose bound belongs to one of them only: t ≤ t' ≤ c is two rounds, t' first."""
    e = form.entries
    held = np.append(chosen, False)[e.cols]
    per_row = np.bincount(e.rows[held], minlength=form.m)
    result = chosen.copy()
    found = np.flatnonzero(chosen)
    result[found[per_row[rows[pivot[found]]] > 1]] = False
    return result
