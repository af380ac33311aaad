"""The zero cone and the nonnegative orthant, the cones of linear constraints, in one group, so that one array operation
does.
"""

from __future__ import annotations

from typing import final

import numpy as np

from conelayers.numerics.cones.arrays import Array, device, namespace
from conelayers.numerics.cones.cone import Cone, Element, Extremes, IdentityBasisElement
from conelayers.numerics.cones.selection import Selection, between

__all__ = ["Orthant"]


@final
class Orthant(Cone):
    """K = {0}^zero × R₊…, K* = R^zero × R₊…, blocks of one row: Π(v) is v on the first ``zero`` blocks and max(v, 0) on
    the others.

    D = 1 for v > 0 and on the zero cone's rows, 0 for v < 0. At the kink v = 0 of R₊ the default element is 0.
    """

    def __init__(self, zero: int, blocks: int) -> None:
        self._free = (np.arange(blocks) < zero)[:, None]
        self._all_free, self._none_free = zero == blocks, zero == 0

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        xp = namespace(v)
        if self._all_free:
            return v, IdentityBasisElement(xp.ones_like(v))
        free = self._free if xp is np else xp.asarray(self._free, device=device(v))
        positive = v > 0 if self._none_free else (v > 0) | free
        values = xp.astype(positive, v.dtype)
        if selection is not Selection.DEFAULT:
            values = between(values, xp.astype((v >= 0) | free, v.dtype), selection)
        return xp.where(positive, v, xp.zeros_like(v)), IdentityBasisElement(values)

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        """D_min = 0 and D_max = 1 if |v| is within the tolerance."""
        xp = namespace(v)
        free = self._free if xp is np else xp.asarray(self._free, device=device(v))
        near = tolerance[..., None]
        low, high = (IdentityBasisElement(xp.astype(h | free, v.dtype)) for h in (v > near, v >= -near))
        distance = xp.where(free, xp.inf * xp.ones_like(v), xp.abs(v))
        return Extremes(low, high, distance[..., 0])

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        """0: Π is piecewise linear."""
        return namespace(v).zeros_like(v + a + c)

    def distances(self, y: Array, s: Array) -> tuple[Array, Array]:
        """The distances of y from R^zero × R₊… and of s from {0}^zero × R₊…."""
        xp = namespace(y)
        free = self._free if xp is np else xp.asarray(self._free, device=device(y))
        zero = xp.zeros_like(y)
        below = xp.where(free | (y > 0), zero, -y)
        outside = xp.where(free, xp.abs(s), xp.where(s > 0, zero, -s))
        return below[..., 0], outside[..., 0]
