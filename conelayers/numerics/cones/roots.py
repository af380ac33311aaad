"""A safeguarded Newton method for arrays: each entry has its own increasing function."""

from __future__ import annotations

from collections.abc import Callable

from conelayers.numerics.cones.arrays import Array, namespace

__all__ = ["increasing_root"]

_MAX_STEPS = 200  # enough for bisection of any bracket of doubles
_EPS = 2.0**-52  # unit of rounding
_CLOSE = 16 * _EPS  # relative distance within which a Newton step outside of the bracket is due to rounding


def increasing_root(function: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, start: Array) -> Array:
    """The root of each entry's function in (low, high), where its value goes from negative to positive.

    ``function`` returns values and slopes. A Newton step that leaves the bracket, or is not at most half as long as the
    step before, is replaced by the middle of the bracket in asinh r. That halves exponents as well as mantissas, so
    that brackets may reach to 1e300.
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
        # These comparisons are false for NaN, which counts as outside.
        trusted = (newton >= low) & (newton <= high) & (xp.abs(newton - r) < 0.5 * previous)
        size = xp.abs(r)
        # A step below the rounding of r may point out of the bracket, but nothing is left to gain then.
        settled = finished | (value == 0) | (xp.abs(newton - r) <= _EPS * size)
        # If rounding puts the Newton step just outside, the other side of the root is a few units of rounding away.
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
