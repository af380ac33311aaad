"""B t = r for N instances at once, B = ∂F/∂z: what the solvers of both frameworks share.

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
_MOST_GROWTH = 2.0**-8  # of a vector by the inverse of a scaled matrix, over 1/ε: beyond, the matrix counts as singular
_ITERATIVE = 10.0  # times rtol: what the recomputed residual of an iterative method is held to
_SINGLE = 1e-3  # the relative residual that a dense solve in single precision is held to at least


@final
class Answer(NamedTuple):
    """t (..., N, n), its relative residuals ‖B t − r‖/‖r‖ (..., N), and the tolerance that they are held to."""

    t: Any
    residual: Any
    tolerance: float


def answer_of(arrays: Arrays, t: Any, product: Any, r: Any, settings: LinearSolver) -> Answer:
    """t with its residual, from ``product`` = B t; single precision does not reach what double precision does."""
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
    """h over its size, and 0 where that is 0."""
    where, positive = arrays.xp.where, size > 0
    return where(positive[..., None], h / where(positive, size, 1.0)[..., None], 0.0)


def probes(arrays: Arrays, B: Any) -> tuple[Any, Any]:
    """Two fixed vectors (N, n, 2) in the units of B's rows, and the sizes (N, n) of B's columns, its rows scaled to 1.

    A consistent right-hand side has a small residual even where B is singular, with a multiple of B's null vector in t.
    So B⁻¹ is applied to these vectors too: with rows and columns scaled to 1, the results are as long as B is near to a
    singular matrix.
    """
    xp = arrays.xp
    rows = _scale(arrays, xp.amax(xp.abs(B), axis=2))
    columns = _scale(arrays, xp.amax(xp.abs(B) / rows[..., None], axis=1))
    angles = (arrays.counts(B) - 1) ** 2
    return rows[..., None] * xp.stack([xp.cos(angles), xp.sin(angles)], axis=1), columns


def growth_is_regular(arrays: Arrays, applied: Any, columns: Any) -> Any:
    """Whether B is regular to working precision (N,).

    applied: B⁻¹ times the probes. columns: the sizes that came with them.
    """
    xp = arrays.xp
    growth = xp.amax(xp.abs(columns[..., None] * applied), axis=(1, 2))
    return growth <= _MOST_GROWTH / arrays.rounding(applied)


def _scale(arrays: Arrays, size: Any) -> Any:
    xp = arrays.xp
    return xp.where((size > 0) & xp.isfinite(size), size, 1.0)


@final
class _Krylov(NamedTuple):
    """BiCGStab's t, residual e, direction p and ρ = ⟨r, e⟩; the best t and its residual's size; the steps taken."""

    t: Any
    e: Any
    p: Any
    rho: Any
    best: Any
    least: Any
    k: Any


def bicgstab(arrays: Arrays, times: Callable[[Any], Any], r: Any, settings: BiCGStab) -> Any:
    """The t of least residual on the way to the tolerance, for each instance."""
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
