"""Safeguarded Newton iterations for one increasing function an array entry."""

from __future__ import annotations

from collections.abc import Callable

from conelayers.cones.arrays import Array, namespace

__all__ = ["increasing_root"]

_MAX_STEPS = 200
_EPS = 2.0**-52


def increasing_root(function: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, start: Array) -> Array:
    """The root of each entry's function in (low, high), where its value goes from negative to positive.

    ``function`` returns values and slopes. A Newton step that leaves the bracket, or does not halve it twice as fast as
    it should, is replaced by the middle in asinh r, which halves exponents as well as mantissas: brackets may span 1e300.
    """
    xp = namespace(low)
    r = start
    previous = high - low
    for _ in range(_MAX_STEPS):
        value, slope = function(r)
        below = value < 0
        low, high = xp.where(below, r, low), xp.where(below, high, r)
        newton = r - value / xp.where(slope == 0, xp.ones_like(slope), slope)
        width = high - low
        wide = width > 1
        middle = xp.where(wide, xp.sinh(0.5 * (xp.asinh(low) + xp.asinh(high))), 0.5 * (low + high))
        # Compared so that a NaN counts as outside.
        trusted = (newton > low) & (newton < high) & (xp.abs(newton - r) < 0.5 * previous)
        following = xp.where(value == 0, r, xp.where(trusted, newton, middle))
        step = xp.abs(following - r)
        previous = xp.where(trusted, step, width)
        r = following
        if not bool(xp.any((step > _EPS * xp.abs(r)) & (width > _EPS * xp.abs(r)))):
            break
    return r
