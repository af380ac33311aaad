"""Solving z = f(z) for a batch of instances z (N, n), each with its own convergence, in either framework.

The adapters add Anderson acceleration, whose memory PyTorch lets grow and JAX keeps in an array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

from conelayers.implicit.arrays import Arrays
from conelayers.implicit.points import Best, Point, better_of
from conelayers.implicit.rounding import ROUNDINGS, row_sizes
from conelayers.implicit.settings import Anderson, Picard

__all__ = ["DIVERGED", "Residual", "checked_fixed_point", "fixed_point_of", "mixed_step"]

_Map = Callable[[Any], Any]
_RIDGE = 1e-14  # added to the diagonal of the Gram matrix, whose rows have unit length
DIVERGED = 1e3  # times the best residual so far: an instance with a larger one goes back to its best point


@final
@dataclass(frozen=True, eq=False)
class Residual:
    """The residual of each instance (N,): the largest of |F_i| over max(|z_i|, start_i).

    start: |F| at z0.
    strict: if False, an instance whose F is rounding of its largest entry counts as within the tolerance.
    """

    arrays: Arrays
    start: Any
    tolerance: float
    strict: bool = False

    def __call__(self, F: Any, z: Any) -> Any:
        xp, most = self.arrays.xp, self.arrays.most
        r = most(self.arrays.ratio(xp.abs(F), xp.maximum(xp.abs(z), self.start)))
        if self.strict:
            return r
        rounding = ROUNDINGS * self.arrays.rounding(z) * xp.maximum(most(xp.abs(z)), most(self.start))
        return xp.where(most(xp.abs(F)) <= rounding, xp.clip(r, None, self.tolerance), r)


def fixed_point_of(
    arrays: Arrays,
    f: _Map,
    z0: Any,
    settings: Anderson | Picard,
    tolerance: float,
    anderson: Callable[[_Map, Best, Residual, Anderson], Best],
) -> Point:
    """The fixed point that the settings' method finds.

    Instances that Anderson acceleration does not finish go on by plain iteration.
    """
    xp = arrays.xp
    residual = Residual(arrays, arrays.sizes(f(z0) - z0), tolerance)
    start = Best(z0, xp.full_like(z0.sum(1), xp.inf))
    if isinstance(settings, Picard):
        best = _picard(f, start, residual, settings.max_iter, settings.damping)
    else:
        best = anderson(f, start, residual, settings)
        if arrays.may_lack(best.residual <= tolerance):
            best = _picard(f, best, residual, settings.max_iter, 1.0)
        best = _mapped(f, best, residual)
    point = checked_fixed_point(arrays, f, best.z, residual.start, tolerance)
    damping = settings.damping if isinstance(settings, Picard) else 1.0

    def further() -> Point:
        """Plain iteration to the strict tolerance.

        What is rounding of the largest entry is none of smaller entries that do not depend on it.
        """
        strict = replace(residual, strict=True)
        found = _picard(f, Best(best.z, start.residual), strict, settings.max_iter, damping)
        z = xp.where((point.accepted | (best.residual > tolerance))[:, None], best.z, found.z)
        return checked_fixed_point(arrays, f, z, residual.start, tolerance)

    return arrays.either((~point.accepted & (best.residual <= tolerance)).any(), further, lambda: point)


def checked_fixed_point(arrays: Arrays, f: _Map, z: Any, start: Any, tolerance: float) -> Point:
    """Whether every row is within the tolerance of max(|z_i|, start_i), or is rounding of what it is computed from."""
    xp, most, ratio = arrays.xp, arrays.most, arrays.ratio
    value = f(z)
    F = xp.abs(value - z)
    residual = most(ratio(F, xp.maximum(xp.abs(z), start)))
    accepted = residual <= tolerance
    if arrays.may_lack(accepted):
        sizes = xp.maximum(row_sizes(arrays, f, z, value), xp.abs(z))
        accepted = accepted | (most(ratio(F, sizes)) <= ROUNDINGS * arrays.rounding(z))
    return Point(z, residual, accepted, xp.zeros_like(accepted))


def _mapped(f: _Map, best: Best, residual_of: Residual) -> Best:
    """f(z) instead of z where that is a solution too.

    A combination of points lacks the exact zeros of f, and may lie outside of f's range.
    """
    where = residual_of.arrays.xp.where
    z = f(best.z)
    residual = residual_of(f(z) - z, z)
    better = residual <= residual_of.tolerance
    return Best(where(better[:, None], z, best.z), where(better, residual, best.residual))


def _picard(f: _Map, start: Best, residual_of: Residual, steps: int, damping: float) -> Best:
    """Plain iteration from the start's z, until every instance is done or no longer finite."""
    arrays, tolerance = residual_of.arrays, residual_of.tolerance
    xp = arrays.xp

    def unfinished(state: tuple[Best, Any, Any]) -> Any:
        best, z, k = state
        return (k < steps) & ((best.residual > tolerance) & xp.isfinite(z).all(1)).any()

    def step(state: tuple[Best, Any, Any]) -> tuple[Best, Any, Any]:
        best, z, k = state
        g = f(z) - z
        best = better_of(arrays, best, z, residual_of(g, z))
        done = best.residual <= tolerance
        return best, xp.where(done[:, None], z, z + damping * g), k + 1

    return arrays.loop(unfinished, step, (start, start.z, arrays.counter()))[0]


def mixed_step(
    arrays: Arrays, z: Any, g: Any, Z: Any, G: Any, live: Any, beta: float, solve: Callable[[Any, Any, Any], Any]
) -> Any:
    """Anderson's step βg − Σ γᵢ (Δzᵢ + βΔgᵢ): γ minimizes ‖g − Σ γᵢ Δgᵢ‖, and Δ are differences to earlier points.

    z, g: the point, and f(z) − z, (N, n).
    Z, G: the earlier points and their f(z) − z, (m, N, n).
    live: which of the earlier points an instance may use, (m, N).
    solve: takes the Gram matrices (N, m, m), what is added to their diagonals (N, m), and right-hand sides (N, m, 1).

    If the step is not finite, the plain one, βg, takes its place.
    """
    xp = arrays.xp
    dz, dg = (xp.swapaxes(h - H, 0, 1) for h, H in ((z, Z), (g, G)))
    size = xp.linalg.norm(dg, axis=2)
    usable = xp.swapaxes(live, 0, 1) & (size > 0) & xp.isfinite(size)
    scale = xp.where(usable, 1 / xp.where(usable, size, 1.0), 0.0)
    rows = xp.where(usable[..., None], dg, 0.0) * scale[..., None]
    ridge = max(_RIDGE, arrays.rounding(z))
    diagonal = xp.where(usable, xp.full_like(size, ridge), 1.0)
    gamma = solve(rows @ rows.mT, diagonal, rows @ g[..., None])[..., 0] * scale
    dz = xp.where(usable[..., None], dz, 0.0)
    plain = beta * g
    mixed = plain - (gamma[..., None] * (dz + beta * rows * size[..., None])).sum(1)
    return xp.where(xp.isfinite(mixed).all(1, keepdims=True), mixed, plain)
