"""The nonnegative orthant, self-dual."""

from __future__ import annotations

from typing import final

from array_api_compat import array_namespace

from conelayers.cones.cone import Array, Cone, Element, IdentityBasisElement
from conelayers.cones.selection import Selection, between

__all__ = ["Nonnegative"]


@final
class Nonnegative(Cone):
    """K = K* = R₊: Π(v) = max(v, 0), D = 1 for v > 0 and 0 for v < 0. At the kink v = 0 the default element is 0."""

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        xp = array_namespace(v)
        positive = v > 0
        low = xp.astype(positive, v.dtype)
        values = between(low, xp.astype(v >= 0, v.dtype), selection)
        return xp.where(positive, v, xp.zeros_like(v)), IdentityBasisElement(values)
