"""Solving B t = r for N instances at once, B = ∂F/∂z: the formulas that the solvers of both frameworks share.

t and r are (..., N, n); products with B take and return arrays of that shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

from conelayers.implicit.arrays import Arrays
from conelayers.implicit.rounding import effective
from conelayers.implicit.settings import BiCGStab, Dense, LinearSolver

__all__ = ["Answer", "answer_of", "bicgstab", "growth_is_regular", "probes", "target_of", "unit"]

_DOUBLE = 1e-12  # units of rounding below this are of double precision
# Times 1/ε: if the inverse of a scaled matrix makes a vector longer than that, the matrix counts as singular.
_MOST_GROWTH = 2.0**-8
_ITERATIVE = 10.0  # times rtol: the tolerance for the recomputed residual of an iterative method
_SINGLE = 1e-3  # the least tolerance for the relative residual of a dense solve in single precision


@final
class Answer(NamedTuple):
    """The solution of a linear system.

    t: (..., N, n).
    residual: the relative residuals ‖B t − r‖/‖r‖, (..., N).
    tolerance: the largest residual that is accepted.
    """

    t: Any
    residual: Any
    tolerance: float


def answer_of(arrays: Arrays, t: Any, product: Any, r: Any, settings: LinearSolver) -> Answer:
    """t with its residual, from ``product`` = B t, and the tolerance, which is larger in single precision."""
    xp, eps = arrays.xp, arrays.rounding(r)
    tolerance = effective(settings.rtol, eps)
    if not isinstance(settings, Dense):
        tolerance *= _ITERATIVE
    elif eps > _DOUBLE:
        tolerance = max(tolerance, _SINGLE)
    size, error = xp.linalg.norm(r, axis=-1), xp.linalg.norm(product - r, axis=-1)
    return Answer(t, xp.where(size > 0, error / xp.where(size > 0, size, 1.0), error), tolerance)


def target_of(arrays: Arrays, r: Any, rtol: float) -> Any:
    """The size (..., N) of the residual at which an iterative method ends."""
    eps = arrays.rounding(r)
    return (rtol if eps < _DOUBLE else effective(rtol, eps)) * arrays.xp.linalg.norm(r, axis=-1)


def unit(arrays: Arrays, h: Any, size: Any) -> Any:
    """h divided by its size; 0 where the size is 0."""
    where, positive = arrays.xp.where, size > 0
    return where(positive[..., None], h / where(positive, size, 1.0)[..., None], 0.0)


def probes(arrays: Arrays, B: Any) -> tuple[Any, Any]:
    """Two fixed right-hand sides that show whether B is singular, and the sizes of B's columns.

    The vectors (N, n, 2) are in the units of B's rows; the sizes (N, n) are those of the columns once the rows are
    scaled to 1. If B is singular, a consistent right-hand side still has a small residual, with a multiple of B's null
    vector in t. So B⁻¹ is applied to these vectors too: with rows and columns scaled to 1, the results are the longer,
    the nearer B is to a singular matrix.
    """
    xp = arrays.xp
    rows = _scale(arrays, xp.amax(xp.abs(B), axis=2))
    columns = _scale(arrays, xp.amax(xp.abs(B) / rows[..., None], axis=1))
    angles = (arrays.counts(B) - 1) ** 2
    return rows[..., None] * xp.stack([xp.cos(angles), xp.sin(angles)], axis=1), columns


def growth_is_regular(arrays: Arrays, applied: Any, columns: Any) -> Any:
    """Whether B is regular to working precision (N,).

    applied: B⁻¹ times the vectors of ``probes``.
    columns: the sizes that ``probes`` gave with them.
    """
    xp = arrays.xp
    growth = xp.amax(xp.abs(columns[..., None] * applied), axis=(1, 2))
    return growth <= _MOST_GROWTH / arrays.rounding(applied)


def _scale(arrays: Arrays, size: Any) -> Any:
    xp = arrays.xp
    return xp.where((size > 0) & xp.isfinite(size), size, 1.0)


@final
class _Krylov(NamedTuple):
    """The state of BiCGStab.

    t, e, p, rho: the solution, its residual, the direction and ρ = ⟨r, e⟩.
    best, least: the t of the smallest residual so far, and that residual's size.
    k: the number of steps.
    """

    t: Any
    e: Any
    p: Any
    rho: Any
    best: Any
    least: Any
    k: Any


def bicgstab(arrays: Arrays, times: Callable[[Any], Any], r: Any, settings: BiCGStab) -> Any:
    """t by BiCGStab: for each instance that of the least residual on the way."""
    xp = arrays.xp
    target = target_of(arrays, r, settings.rtol)

    def dot(a: Any, b: Any) -> Any:
        return (a * b).sum(-1, keepdims=True)

    def over(a: Any, b: Any) -> Any:
        return xp.where(b == 0, 0.0, a / xp.where(b == 0, 1.0, b))

    def unfinished(s: _Krylov) -> Any:
        return (s.k < settings.max_iter) & (s.least > target).any()

    def step(s: _Krylov) -> _Krylov:
        Bp = times(s.p)
        alpha = over(s.rho, dot(r, Bp))
        half = s.e - alpha * Bp
        Bh = times(half)
        omega = over(dot(Bh, half), dot(Bh, Bh))
        t, e = s.t + alpha * s.p + omega * half, half - omega * Bh
        size = xp.linalg.norm(e, axis=-1)
        better = size < s.least
        rho = dot(r, e)
        p = e + over(rho, s.rho) * over(alpha, omega) * (s.p - omega * Bp)
        best = xp.where(better[..., None], t, s.best)
        return _Krylov(t, e, p, rho, best, xp.where(better, size, s.least), s.k + 1)

    zero = xp.zeros_like(r)
    start = _Krylov(zero, r, r, dot(r, r), zero, xp.linalg.norm(r, axis=-1), arrays.counter())
    return arrays.loop(unfinished, step, start).best
