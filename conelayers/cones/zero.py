"""The zero cone {0}ᵈ; its dual is the whole space, so that the projection is the identity."""

from __future__ import annotations

from typing import final

from array_api_compat import array_namespace

from conelayers.cones.cone import Array, Cone, Element, IdentityBasisElement
from conelayers.cones.selection import Selection

__all__ = ["Zero"]


@final
class Zero(Cone):
    """K = {0}, K* = R: Π(v) = v, D = I. It has no kinks."""

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        xp = array_namespace(v)
        return v, IdentityBasisElement(xp.ones_like(v))
