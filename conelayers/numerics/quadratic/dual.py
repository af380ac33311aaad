"""The dual active-set method of Goldfarb and Idnani (1983) on one instance's S = AP⁻¹Aᵀ and d = −(b + AP⁻¹q).

It keeps y_a ≥ 0 optimal for an active set a whose rows are linearly independent, and the dual objective rises with
every step, so that it ends at the solution or at a row that no point can satisfy. The tableau T = [−S_aa⁻¹, S_aa⁻¹S_ai;
S_ia S_aa⁻¹, S_ii − S_ia S_aa⁻¹S_ai] changes by a symmetric pivot whenever a row enters or leaves a.
"""

from __future__ import annotations

import numpy as np

from conelayers.numerics.quadratic.solution import Code

__all__ = ["PIVOT_FLOOR", "SIGN", "dual_active_set"]

PIVOT_FLOOR = 1e-11  # a pivot below this fraction of its diagonal entry counts as zero
_START_FLOOR = 1e-6  # the same for rows that need not be active at the start, because small pivots spoil the tableau
SIGN = 1e-12  # size below which a wrong sign of y or s is rounding, relative to what it was computed from
_FARKAS = 1e-9  # relative size of Aᵀz up to which it counts as zero; −bᵀz has to exceed ten times this


def _pivot(T: np.ndarray, active: np.ndarray, k: int) -> None:
    """Pivot T symmetrically on k, which enters or leaves the active set: T_kk becomes −1/T_kk, T_ij loses T_ik
    T_kj/T_kk.
    """
    column, value = T[k].copy(), T[k, k]
    T -= np.outer(column / value, column)
    T[k], T[:, k] = column / abs(value), column / abs(value)
    T[k, k] = -1 / value
    active[k] = not active[k]


def _is_certificate(A: np.ndarray, b: np.ndarray, z: np.ndarray) -> bool:
    """Whether z ≥ 0 proves infeasibility: Aᵀz = 0 and bᵀz < 0, while bᵀz = sᵀz ≥ 0 for every feasible s.

    The check is needed because a nearly singular P makes independent rows look dependent.
    """
    terms, rows = b * z, A * z[:, None]
    impossible = terms.sum() < -10 * _FARKAS * (np.abs(terms).sum() + np.max(np.abs(b)))
    return bool(impossible and np.max(np.abs(rows.sum(axis=0))) <= _FARKAS * np.max(np.abs(rows)))


def dual_active_set(
    S: np.ndarray,
    d: np.ndarray,
    A: np.ndarray,
    b: np.ndarray,
    length: float,
    always: np.ndarray,
    start: np.ndarray,
) -> tuple[np.ndarray, Code, np.ndarray]:
    """The active set (m,) bool from a start, with the rows ``always`` in it; ``length`` = ‖R⁻ᵀq‖ scales the rounding.

    Returns also the code and, if that is INFEASIBLE, the certificate z ≥ 0 with Aᵀz = 0 and bᵀz < 0, else zero.
    """
    m, floor, w = d.size, PIVOT_FLOOR * np.diagonal(S), np.sqrt(np.diagonal(S))
    T, active, nothing = S.copy(), np.zeros(d.size, dtype=bool), np.zeros(d.size)
    for i in np.flatnonzero(start):
        if T[i, i] > (floor[i] if always[i] else _START_FLOOR * S[i, i]):
            _pivot(T, active, int(i))
        elif always[i]:
            return active, Code.DEPENDENT, nothing
    negative = True
    while negative:  # drop the rows with a negative y_a = S_aa⁻¹d_a until there are none
        value = T @ np.where(active, d, 0.0)
        y, s = np.where(active, -value, 0.0), np.where(active, 0.0, value - d)
        dropped = np.flatnonzero(active & ~always & (y < 0))
        negative = dropped.size > 0
        for i in dropped:
            _pivot(T, active, int(i))
    entering = -1
    for _ in range(6 * m + 30):
        if entering < 0:
            noise = np.abs(b) + w * (length + w @ np.abs(y))  # ‖g‖ + ‖W y‖, or more
            violated = ~active & ~always & (s < -SIGN * noise)
            if not violated.any():
                return active, Code.SOLVED, nothing
            entering = int(np.argmin(np.where(violated, s / w, np.inf)))
        # y_i rises by t, y_a falls by t S_aa⁻¹S_ai, s_i rises by t times the Schur complement.
        column = T[entering].copy()
        dependent = not column[entering] > floor[entering]
        step, following = np.inf if dependent else -s[entering] / column[entering], entering
        blocking = np.flatnonzero(active & ~always & (column > 0))
        if blocking.size:
            ratios = y[blocking] / column[blocking]
            if ratios.min() < step:
                step, following = ratios.min(), int(blocking[ratios.argmin()])
        if not step < np.inf:
            z = np.where(active, -column, 0.0)
            z[entering] = 1.0
            proves = _is_certificate(A, b, z)
            return active, Code.INFEASIBLE if proves else Code.STALLED, z if proves else nothing
        y, s = np.where(active, y - step * column, y), np.where(active, s, s + step * column)
        y[entering] += step
        if following == entering:
            entering = -1
        _pivot(T, active, following)
        (s if active[following] else y)[following] = 0.0
    return active, Code.STALLED, nothing
