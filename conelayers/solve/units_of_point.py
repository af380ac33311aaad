"""Units in which a large or unbalanced point keeps its digits: another solve in them finds what rounding hides in
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from conelayers.numerics.presolve import Presolved
from conelayers.numerics.residual import ACCURACY, Point
from conelayers.numerics.scaling import Scaling
from conelayers.program.cones import Cones
from conelayers.program.patterns import largest
from conelayers.support.errors import Status, usable_mask

__all__ = ["LARGE", "units_of_the_point"]

LARGE = 1e3  # size of x or v, in the equilibrated units, from which rounding may cost a point digits that matter
_UNBALANCED = 1e6  # ratio of the sizes of y and s in a block from which v = y − s loses digits of the smaller one
_NOTHING = 1e-12  # size of a block's y or s that may be rounding


def units_of_the_point(presolved: Presolved, point: Point, status: Sequence[Status]) -> Scaling | None:
    """The units for another solve of instances that ended roughly at a large point, or None if none did.

    Where x is 1e6, digits are lost in units in which the data are 1. The units also bring y and s to one size in
    those blocks in which v = y − s has no digits of the smaller one. None too where the points are in such units
    already.
    """
    whole = presolved.whole
    cones = whole.structure.cones
    balance = _balance(cones, point)
    far = np.maximum(largest(point.x), largest(point.v)) >= LARGE
    if far.any():
        rough = usable_mask(status) & ~(point.errors(whole).worst <= ACCURACY)
        far &= rough & np.isfinite(point.x).all(axis=1) & np.isfinite(point.v).all(axis=1)
    if not far.any():
        return balance
    found = Scaling.of_point(cones, point.x, point.y, point.s)
    units = Scaling(*(np.where(far[:, None], h, 1.0) for h in (found.d, found.e, found.beta, found.gamma)))
    if balance is not None:
        units = replace(units, e=np.where(far[:, None], units.e, balance.e))
    return None if units.trivial else units


def _balance(cones: Cones, point: Point) -> Scaling | None:
    """Units that bring y and s to one size in second-order and semidefinite blocks where they are far apart.

    A block whose y or s may be rounding is left alone. None if no block is unbalanced.
    """
    first = cones.zero + cones.nonneg
    # The last rows are left out: exponential and power cones compute y and s directly, not from their difference.
    last = cones.dimension - 3 * (cones.exp + cones.exp_dual + len(cones.power))
    if first == last:
        return None
    y, s = (cones.block_maxima(np.abs(h))[:, first:last] for h in (point.y, point.s))
    least, most = np.minimum(y, s), np.maximum(y, s)
    apart = (least >= _NOTHING) & (most >= _UNBALANCED * least) & (most < np.inf)
    if not apart.any():
        return None
    units = Scaling.identity_of(point.x, point.v)
    units.e[:, first:last][apart] = np.exp2(np.rint(0.5 * np.log2(y[apart] / s[apart])))
    return units
