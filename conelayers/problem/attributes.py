"""Values that miss the attribute of their parameter by rounding, moved onto it.

The checks of parameter_checks.py let values stray from their attribute a little: rounding errors and difference
quotients pass. A problem may not tolerate that: with −1e−12 in the place of a nonnegative weight it is not convex, and
unbounded. A value that strays within the slack is therefore replaced by the nearest one that has the attribute. The
derivative is taken there, and this step counts as the identity.

Linear structure, such as symmetry, needs no such step: the maps from parameters to data read the nearest value that has
it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from conelayers.problem.expressions import Arithmetic
from conelayers.problem.expressions.arithmetic import precision

__all__ = ["FLOOR", "MOVED", "TOLERANCE", "moved_onto"]

# How far a value may stray from its attribute, relative to its largest entry, and absolutely: rounding and difference
# quotients pass, values that make the problem nonconvex do not.
TOLERANCE = 1e-5
FLOOR = 1e-9

MOVED = frozenset({"nonneg", "nonpos", "boolean", "integer", "PSD", "NSD"})  # besides bounds

Array = Any


def moved_onto(
    xp: Arithmetic, value: Array, attributes: Collection[str], bounds: tuple[object, object] | None
) -> Array:
    """The value (B, *shape), moved onto the attributes in the instances that stray within the slack only.

    To derivatives it is the identity.
    """
    if 0 in value.shape:
        return value
    fixed = xp.stop(value)
    size = xp.amax(_flat(xp, xp.where(_finite(fixed), abs(fixed), 0.0)))
    slack = TOLERANCE * size + FLOOR
    for name in sorted(MOVED & set(attributes)):
        if name in ("PSD", "NSD"):
            shift, far = _to_semidefinite(xp, fixed, slack, 1.0 if name == "PSD" else -1.0)
        else:
            shift = _to_nearest(xp, fixed, name)
            far = abs(shift) > _leading(slack, shift)
        fixed, value = _moved(xp, fixed, value, shift, far)
    if bounds is not None:
        lower, upper = (xp.constant(np.asarray(bound, dtype=np.float64)) for bound in bounds)
        below, above = fixed < lower, fixed > upper
        shift = xp.where(below, lower - fixed, 0.0) + xp.where(above, upper - fixed, 0.0)
        far = (below & (lower - fixed > TOLERANCE * (1 + abs(lower)))) | (
            above & (fixed - upper > TOLERANCE * (1 + abs(upper)))
        )
        _, value = _moved(xp, fixed, value, shift, far)
    return value


def _flat(xp: Arithmetic, x: Array) -> Array:
    return xp.reshape(x, (x.shape[0], -1))


def _finite(x: Array) -> Array:
    return abs(x) < np.inf


def _leading(per_instance: Array, like: Array) -> Array:
    """(B,) with as many axes as the value has."""
    return per_instance[(slice(None), *(None,) * (like.ndim - 1))]


def _moved(xp: Arithmetic, fixed: Array, value: Array, shift: Array, far: Array) -> tuple[Array, Array]:
    """Both with the shift, in the instances no entry of which is too far."""
    beyond = xp.amax(_flat(xp, xp.where(far, 1.0, 0.0))) > 0
    shift = xp.where(_leading(beyond, shift) | (shift == 0), 0.0, shift)
    return fixed + shift, value + shift


def _to_nearest(xp: Arithmetic, x: Array, name: str) -> Array:
    """From each entry to the nearest one with the attribute."""
    if name == "nonneg":
        return xp.where(x < 0, -x, 0.0)
    if name == "nonpos":
        return xp.where(x > 0, -x, 0.0)
    finite = xp.where(_finite(x), x, 0.0)
    nearest = xp.elementwise("floor", finite + 0.5)
    if name == "boolean":
        nearest = xp.where(nearest > 1, 1.0, xp.where(nearest < 0, 0.0, nearest))
    return nearest - finite


def _to_semidefinite(xp: Arithmetic, x: Array, slack: Array, sign: float) -> tuple[Array, Array]:
    """From each matrix's symmetric part to the nearest semidefinite one; rounding of the eigenvalues does not count."""
    x = xp.where(_finite(x), x, 0.0)
    axes = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
    w, V = xp.eigh(sign * (x + xp.permute(x, axes)) / 2)
    smallest, largest = w[..., :1], xp.amax(abs(w))[..., None]
    rounding = 4 * x.shape[-1] * float(precision(x).eps) * largest
    missing = xp.where(w < 0, -w, 0.0) * xp.where(smallest < -rounding, 1.0, 0.0)
    shift = sign * xp.matmul(V * missing[..., None, :], xp.permute(V, axes))
    return shift, (smallest < -_leading(slack, smallest))[..., None]
