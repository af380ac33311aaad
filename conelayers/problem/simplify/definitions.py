"""Variables of cvxpy's that an equality defines, or that take up its slack.

Let t be a column that is not the user's and not in P, with constant coefficients a in A and a constant q_t, and r a row
of the zero cone with α = a_r ≠ 0: αt + ℓᵀx = β. t = (β − ℓᵀx)/α in all other rows and in the objective gives the same
program in x: row i becomes row i − (aᵢ/α)·row r, q becomes q − (q_t/α)·ℓ and the objective's constant grows by q_t β/α;
all affine in the parameters, since a, α and q_t are constant. If t is in no other row this says that t takes whatever
is left: row r is gone.

Multipliers. Those of the other rows stay, and y_r = −(q_t + Σ aᵢyᵢ)/α makes t's column stationary. It is linear in them
if q_t = 0, and is left out where q_t ≠ 0, in which case it must not have been asked for.

Where P holds t the equality is left to numerics/presolve.py, which may use the values of the data.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from conelayers.problem.parametric import AffineMap
from conelayers.problem.simplify.form import Form, matrix_of, without_fill

__all__ = ["eliminate_definitions"]

_PIVOT = 1e-3  # |α| below this, relative to the constants in its row, is no pivot


def eliminate_definitions(form: Form) -> Form | None:
    """The form after one round of it; None where there is nothing to eliminate."""
    e, n, cost = form.entries, form.n, form.q.constant
    candidate = form.auxiliary & ~form.removed & ~form.in_P & form.is_constant
    candidate[form.q.rows] = False
    of_candidate = np.append(candidate, False)[e.cols]
    if not (of_candidate & (e.rows < form.cones.zero)).any():
        return None
    at = np.flatnonzero(of_candidate)
    rows, cols, values = e.rows[at], e.cols[at], e.values[at]
    in_A = e.cols < n
    largest = np.zeros(form.m)
    np.maximum.at(largest, e.rows[in_A], np.abs(e.values[in_A]))
    lengths = form.lengths_within(np.ones(n, dtype=bool)) - 1
    others = np.bincount(cols, minlength=n)[cols] - 1
    usable = (rows < form.cones.zero) & (np.abs(values) >= _PIVOT * largest[rows])
    usable &= without_fill(others, lengths[rows])
    usable &= (cost[cols] == 0) | ~form.requested[rows]
    pivots = _independent(form, rows, cols, np.flatnonzero(usable)[np.argsort(lengths[rows[usable]], kind="stable")])
    if not pivots.size:
        return None
    pivot = np.full(n, -1)
    pivot[cols[pivots]] = pivots
    rest = pivot[cols] >= 0
    rest[pivots] = False
    to = pivot[cols[rest]]
    operations = rows[rest], rows[to], -values[rest] / values[to]
    form = _in_objective(form, rows[pivots], cols[pivots], cost[cols[pivots]] / values[pivots])
    return form.combined(rows[pivots], operations, cols[pivots])


def _independent(form: Form, rows: np.ndarray, cols: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Of the possible pivots, in their order, those whose row holds no other chosen column."""
    columns_of: dict[int, list[int]] = {}
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        columns_of.setdefault(row, []).append(col)
    chosen: list[int] = []
    taken: set[int] = set()  # columns that are chosen, or stand in a row that is
    gone: set[int] = set()
    for k in ordered.tolist():
        row, col = int(rows[k]), int(cols[k])
        if col in taken or any(h in gone for h in columns_of[row]):
            continue
        chosen.append(k)
        taken.update(columns_of[row])
        gone.add(col)
    return np.array(chosen, dtype=np.int64)


def _in_objective(form: Form, rows: np.ndarray, cols: np.ndarray, weights: np.ndarray) -> Form:
    """With weights·(β − ℓᵀx) in the place of the columns' part of the objective."""
    used = np.flatnonzero(weights)
    if not used.size:
        return form
    n, w = form.n, form.width
    total = sp.csr_array(weights[used] @ form.T[rows[used]]).reshape((n + 1, w)).tocsr()
    left = np.ones(n)
    left[cols[used]] = 0.0
    q = sp.csr_array(sp.diags_array(left) @ (matrix_of(form.q) - total[:n]))
    d = sp.csr_array(matrix_of(form.d) + total[[n]])
    return replace(form, q=AffineMap.of(q), d=AffineMap.of(d))
