"""Safeguarded Newton iterations for one increasing function an array entry."""

from __future__ import annotations

from collections.abc import Callable

from conelayers.numerics.cones.arrays import Array, namespace

__all__ = ["increasing_root"]

_MAX_STEPS = 200
_EPS = 2.0**-52
_CLOSE = 16 * _EPS


def increasing_root(function: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, start: Array) -> Array:
    """The root of each entry's function in (low, high), where its value goes from negative to positive.

    ``function`` returns values and slopes. A Newton step that leaves the bracket, or does not halve it twice as fast as
    it should, is replaced by the middle in asinh r, which halves exponents as well as mantissas: brackets may span 1e300.
    """
    xp = namespace(low)
    r = start
    previous = high - low
    finished = xp.zeros_like(r) != 0
    for _ in range(_MAX_STEPS):
        value, slope = function(r)
        below = value < 0
        low, high = xp.where(below, r, low), xp.where(below, high, r)
        newton = r - value / xp.where(slope == 0, xp.ones_like(slope), slope)
        width = high - low
        wide = width > 1
        middle = xp.where(wide, xp.sinh(0.5 * (xp.asinh(low) + xp.asinh(high))), 0.5 * (low + high))
        # Compared so that a NaN counts as outside.
        trusted = (newton >= low) & (newton <= high) & (xp.abs(newton - r) < 0.5 * previous)
        size = xp.abs(r)
        # A step below the rounding of r may point out of the bracket: there is nothing left to gain.
        settled = finished | (value == 0) | (xp.abs(newton - r) <= _EPS * size)
        # Where rounding puts the Newton step just outside, the other side of the root is a few units away.
        nudged = r - xp.sign(value) * 4 * _EPS * size
        close = ~trusted & (xp.abs(newton - r) <= _CLOSE * size) & (nudged > low) & (nudged < high)
        following = xp.where(settled, r, xp.where(trusted, newton, xp.where(close, nudged, middle)))
        step = xp.abs(following - r)
        previous = xp.where(trusted, step, width)
        r = following
        finished = settled | (step <= _EPS * size) | (width <= _EPS * size)
        if bool(xp.all(finished)):
            break
    return r
