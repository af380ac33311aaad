"""Strictly convex quadratic programs by primal-dual active-set steps, batched in NumPy: kernel.c's method without a
compiler.

With P = RᵀR, W = R⁻ᵀAᵀ, S = WᵀW = AP⁻¹Aᵀ, g = R⁻ᵀq and d = −(b + Wᵀg) the rows a that are active satisfy

    S_aa y_a = d_a,    s = S y − d,    x = −R⁻¹(g + W y)

and the next active set is where v = y − s is positive: semismooth Newton on the KKT conditions (Hintermüller, Ito,
Kunisch, 2002). If that does not settle, the dual active-set method (dual.py) finds the set. Then x and y are refined on
K = [P, A_aᵀ; A_a, 0]. The triangular factors are kept as their inverses, because NumPy has no batched triangular solve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from conelayers.numerics.quadratic.dual import PIVOT_FLOOR, SIGN, dual_active_set
from conelayers.numerics.quadratic.solution import ActiveSetSolution, Code, Factors
from conelayers.support.limits import out_of_time

__all__ = ["ArrayFactors", "solve"]

_RIDGE = 1e-9  # added to the diagonal (relative) of an active block that has no Cholesky factor
_FINE_SIGN = 1e-14  # size below which a wrong sign is rounding after the refinement; before it SIGN
_PATIENCE = 3  # steps without a new least number of wrong signs after which Newton's method is given up
_NEWTON_STEPS, _FINAL_STEPS = 15, 5
_ROUNDS = 3  # rounds of Newton's or the dual active-set method and refinement, until the refined signs are right
_REFINEMENTS = 3
_ENOUGH, _ACCEPT = 4e-16, 1e-9  # relative residuals at which refinement stops, and up to which a point is a solution


def _times(M: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (M @ x[..., None])[..., 0]


def _times_transposed(M: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (x[..., None, :] @ M)[..., 0, :]


def _largest(h: np.ndarray) -> np.ndarray:
    return np.max(np.abs(h), axis=-1, initial=0.0)


def _cholesky(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L⁻¹ with M = LLᵀ, and whether L exists; the identity if it does not."""
    floor = PIVOT_FLOOR * np.diagonal(M, axis1=1, axis2=2)
    # NaN has to be found here: LAPACK may not report it.
    definite = np.isfinite(M).all(axis=(1, 2)) & (floor > 0).all(axis=1)
    safe = np.where(definite[:, None, None], M, np.eye(M.shape[1]))
    try:
        L = np.linalg.cholesky(safe)
    except np.linalg.LinAlgError:
        L = np.empty_like(safe)
        for i, one in enumerate(safe):
            try:
                L[i] = np.linalg.cholesky(one)
            except np.linalg.LinAlgError:
                L[i], definite[i] = np.eye(len(one)), False
    definite &= (np.diagonal(L, axis1=1, axis2=2) ** 2 > floor).all(axis=1)
    L[~definite] = np.eye(M.shape[1])
    return np.linalg.inv(L), definite


@final
@dataclass(frozen=True)
class ArrayFactors(Factors):
    """R⁻ᵀ (B or 1, n, n), W (B or 1, n, m), and for the k active rows, listed first, F⁻ᵀ (B, k, k) with FᵀF = S_aa."""

    inverse_R: np.ndarray
    W: np.ndarray
    inverse_F: np.ndarray
    rows: np.ndarray  # (B, k): the active rows, then others
    active: np.ndarray

    def solve(self, p1: np.ndarray, p2: np.ndarray, jobs: int) -> tuple[np.ndarray, np.ndarray]:
        u = _times(self.inverse_R, p1)
        eta = np.zeros_like(p2)
        if self.rows.shape[1]:
            live = np.take_along_axis(self.active, self.rows, axis=1)
            rest = np.take_along_axis(_times_transposed(self.W, u) - p2, self.rows, axis=1) * live
            e = _times_transposed(self.inverse_F, _times(self.inverse_F, rest))
            np.put_along_axis(eta, self.rows, e * live, axis=1)
            u = u - _times(self.W, eta)
        return _times_transposed(self.inverse_R, u), eta

    def take(self, index: np.ndarray | list[int]) -> ArrayFactors:
        inverse_R = self.inverse_R if self.inverse_R.shape[0] == 1 else self.inverse_R[index]
        W = self.W if self.W.shape[0] == 1 else self.W[index]
        return ArrayFactors(inverse_R, W, self.inverse_F[index], self.rows[index], self.active[index])


@final
class _Problem(NamedTuple):
    """The data of a batch and what is computed from them once; P, A, R, W and S may be shared (1, …)."""

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    inverse_R: np.ndarray
    W: np.ndarray
    S: np.ndarray
    g: np.ndarray
    d: np.ndarray
    free: np.ndarray  # (m,): the inequality rows

    def take(self, index: np.ndarray) -> _Problem:
        return _Problem(*(h if h.ndim == 1 or h.shape[0] == 1 < self.q.shape[0] else h[index] for h in self))


def solve(
    P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray, equalities: int, active: np.ndarray | None, jobs: int
) -> ActiveSetSolution:
    """``solve_quadratic`` (solve.py) in NumPy, which ignores ``jobs``."""
    (count, n), m = q.shape, b.shape[1]
    with np.errstate(all="ignore"):  # data that are not finite end with a Code
        inverse_R, definite = _cholesky(P)
        W = inverse_R @ np.swapaxes(A, 1, 2)
        S = np.swapaxes(W, 1, 2) @ W
        g = _times(inverse_R, q)
        free = np.arange(m) >= equalities
        problem = _Problem(P, q, A, b, inverse_R, W, S, g, -(b + _times_transposed(W, g)), free)
        start = np.zeros((count, m), dtype=bool) if active is None else active
        code = np.where(np.broadcast_to(definite, count), Code.STALLED, Code.NOT_DEFINITE).astype(np.int32)
        x, v, reached = np.zeros((count, n)), np.zeros((count, m)), start | ~free
        finite = np.isfinite(q).all(axis=1) & np.isfinite(S).all(axis=(1, 2)) & np.isfinite(problem.d).all(axis=1)
        todo = np.flatnonzero((code == Code.STALLED) & finite)
        if todo.size:
            x[todo], v[todo], reached[todo], code[todo] = _solve(problem.take(todo), reached[todo])
    reached &= (code == Code.SOLVED)[:, None]
    rows, inverse_F, _ = _factor(S, reached, 0.0)
    return ActiveSetSolution(x, v, code, ArrayFactors(inverse_R, W, inverse_F, rows, reached))


def _solve(problem: _Problem, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, v, the active rows and the code of each instance."""
    count = problem.q.shape[0]
    x, v, code = np.zeros_like(problem.q), np.zeros_like(problem.b), np.full(count, -1, dtype=np.int32)
    active, settled = _newton(problem, active, _NEWTON_STEPS)
    for _ in range(_ROUNDS):
        if out_of_time():
            break
        lost = np.zeros(count, dtype=bool)
        for i in np.flatnonzero((code < 0) & ~settled):
            if out_of_time():
                break
            one = problem.take(np.array([i]))
            length = float(_norms(one.g)[0])
            active[i], verdict, v[i] = dual_active_set(
                one.S[0], one.d[0], one.A[0], one.b[0], length, ~one.free, active[i]
            )
            if verdict in (Code.DEPENDENT, Code.INFEASIBLE):
                code[i] = verdict
            # Rounding can spoil the tableau; the next round starts from the data, at the set that was reached.
            lost[i] = verdict is Code.STALLED or active[i].sum() > problem.q.shape[1]
        todo = np.flatnonzero((code < 0) & ~lost)
        if not todo.size:
            continue
        part, a = problem.take(todo), active[todo]
        x[todo], y, s, noise, error = _refine(part, a)
        accurate = error <= _ACCEPT
        # At a degenerate vertex Newton may find no set, and the signs of the dual method's set are right up to rounding
        # only.
        flipped = _flip_wrong(part, y, s, noise, a, np.where(settled[todo], _FINE_SIGN, SIGN))
        right = (flipped == a).all(axis=1)
        code[todo[accurate & right]] = Code.SOLVED
        # The sign of v tells which rows are active, so rounding must not change it.
        positive = np.where(part.free, np.maximum(y, np.finfo(float).tiny), y)
        v[todo] = np.where(a, positive, np.minimum(-s, 0))
        settled[todo] = False
        again = todo[accurate & ~right]
        if again.size:
            active[again], settled[again] = _newton(problem.take(again), flipped[accurate & ~right], _FINAL_STEPS)
    code[code < 0] = Code.STALLED
    x[code != Code.SOLVED], v[(code != Code.SOLVED) & (code != Code.INFEASIBLE)] = 0.0, 0.0
    return x, v, active, code


def _norms(h: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(h * h, axis=-1))


def _factor(S: np.ndarray, active: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The active rows (B, k), padded with others; F⁻ᵀ with FᵀF = S_aa, the identity on the padding; and whether F
    exists.
    """
    counts = active.sum(axis=1)
    rows = np.argsort(~active, axis=1, kind="stable")[:, : int(counts.max(initial=0))]
    live = np.arange(rows.shape[1]) < counts[:, None]
    instance = np.arange(len(active))[:, None, None] if S.shape[0] == len(active) else 0
    S_aa = np.where(live[:, :, None] & live[:, None, :], S[instance, rows[:, :, None], rows[:, None, :]], 0.0)
    diagonal = np.arange(rows.shape[1])
    S_aa[:, diagonal, diagonal] = np.where(live, S_aa[:, diagonal, diagonal] * (1 + ridge), 1.0)
    return rows, *_cholesky(S_aa)


def _flip_wrong(
    problem: _Problem, y: np.ndarray, s: np.ndarray, noise: np.ndarray, active: np.ndarray, tolerance: np.ndarray
) -> np.ndarray:
    """The active set after flipping the inequality rows whose sign is wrong by more than the tolerance (B,)."""
    weighted = y * np.sqrt(np.diagonal(problem.S, axis1=1, axis2=2))
    most = np.maximum(
        _norms(problem.g), _largest(weighted)
    )  # W y = −(g + R x), whose size the rounding of y is relative to
    wrong = np.where(active, weighted < -(tolerance * most)[:, None], s < -tolerance[:, None] * noise)
    return active ^ (wrong & problem.free)


def _newton(problem: _Problem, active: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The active sets after at most ``steps`` steps, and which of them have the right signs and a factor."""
    active, count = active.copy(), len(active)
    settled, best, patience = (
        np.zeros(count, dtype=bool),
        np.full(count, active.shape[1] + 1),
        np.full(count, _PATIENCE),
    )
    going = np.arange(count)
    w, lengths = np.sqrt(np.diagonal(problem.S, axis1=1, axis2=2)), _norms(problem.g)
    for _ in range(steps):
        if not going.size:
            break
        part, a = problem.take(going), active[going]
        rows, inverse_F, exact = _factor(part.S, a, 0.0)
        exact &= a.sum(axis=1) <= problem.q.shape[1]
        usable = exact.copy()
        if not exact.all():
            inexact = np.flatnonzero(~exact)
            S = part.S if part.S.shape[0] < going.size else part.S[inexact]
            k = int(a[inexact].sum(axis=1).max(initial=0))
            _, ridged, usable[inexact] = _factor(S, a[inexact], _RIDGE)
            inverse_F[inexact, :k, :k] = ridged
        t = _times(inverse_F, np.take_along_axis(part.d, rows, axis=1) * np.take_along_axis(a, rows, axis=1))
        y = np.zeros_like(part.d)
        np.put_along_axis(y, rows, _times_transposed(inverse_F, t), axis=1)
        noise = np.abs(part.b) + (w if len(w) < count else w[going]) * (lengths[going] + _norms(t))[:, None]
        flipped = _flip_wrong(part, y, _times(part.S, y) - part.d, noise, a, np.full(going.size, SIGN))
        wrong = (flipped != a).sum(axis=1)
        settled[going] = (wrong == 0) & exact
        active[going] = flipped
        better = wrong < best[going]
        patience[going] = np.where(better, _PATIENCE, patience[going] - 1)
        best[going] = np.minimum(best[going], wrong)
        going = going[(wrong > 0) & usable & (patience[going] >= 0)]
    return active, settled


def _refine(problem: _Problem, active: np.ndarray) -> tuple[np.ndarray, ...]:
    """x, y, s, the scale of the rounding in s and the relative residual, by iterative refinement on K from zero."""
    rows, inverse_F, _ = _factor(problem.S, active, 0.0)
    factors = ArrayFactors(problem.inverse_R, problem.W, inverse_F, rows, active)
    x, y = factors.solve(-problem.q, problem.b, 1)
    r, s, noise, error = _residual(problem, x, y, active)
    for _ in range(_REFINEMENTS):
        if (error <= _ENOUGH).all():
            break
        dx, dy = factors.solve(r, s, 1)
        new = _residual(problem, x + dx, y + dy, active)
        better = new[3] < error
        x[better], y[better] = x[better] + dx[better], y[better] + dy[better]
        improved = bool((new[3] < 0.5 * error).any())
        for old, array in zip((r, s, noise, error), new, strict=True):
            old[better] = array[better]
        if not improved:
            break
    return x, y, s, noise, error


def _residual(problem: _Problem, x: np.ndarray, y: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, ...]:
    """−(Px + q + Aᵀy), b − Ax, the scale of the rounding in the latter, and the relative residual; infinite for NaN."""
    Px, Ax, ATy = _times(problem.P, x), _times(problem.A, x), _times_transposed(problem.A, y)
    r, s = -(Px + problem.q + ATy), problem.b - Ax
    noise = np.abs(problem.b) + np.abs(problem.A).sum(axis=2) * (1 + _largest(x))[:, None]
    rows = 1 + np.maximum(_largest(Ax), _largest(problem.b))
    columns = 1 + np.max([_largest(Px), _largest(ATy), _largest(problem.q)], axis=0)
    primal = np.where(active, np.abs(s), np.maximum(-s, 0))
    low = np.maximum(np.where(active & problem.free, -y, 0), 0)
    parts = [_largest(r) / columns, _largest(primal) / rows, _largest(low) / (1 + _largest(y))]
    error = np.max(parts, axis=0)
    return r, s, noise, np.where(np.isnan(error), np.inf, error)
