"""Points that a method of solution reaches, for a batch of instances, each with its own convergence."""

from __future__ import annotations

from typing import Any, NamedTuple, final

from conelayers.implicit.arrays import Arrays

__all__ = ["Best", "Point", "better_of"]


@final
class Point(NamedTuple):
    """What a method ends with.

    z: the points, (N, n).
    residual: their relative residuals, (N,).
    accepted: whether they are accepted as solutions, (N,).
    singular: whether the method converged as it does to a singular root, (N,).
    """

    z: Any
    residual: Any
    accepted: Any
    singular: Any


@final
class Best(NamedTuple):
    """The best z (N, n) on the way, and its relative residual (N,)."""

    z: Any
    residual: Any


def better_of(arrays: Arrays, best: Best, z: Any, residual: Any) -> Best:
    """For each instance the best so far, or z where its residual is smaller."""
    where, improved = arrays.xp.where, residual < best.residual
    return Best(where(improved[:, None], z, best.z), where(improved, residual, best.residual))
