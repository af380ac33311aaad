"""Elements of three-dimensional cones, with U stored as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from conelayers.cones.arrays import Array, namespace
from conelayers.cones.cone import Element

__all__ = ["ExplicitBasisElement", "boundary_basis", "moreau"]


@final
@dataclass(frozen=True)
class ExplicitBasisElement(Element):
    """D = U diag(values) Uᵀ with U (..., blocks, 3, 3), its columns the eigenvectors."""

    basis: Array

    def to_basis(self, h: Array) -> Array:
        xp = namespace(h)
        return xp.sum(self.basis * h[..., :, None], axis=-2)

    def from_basis(self, h: Array) -> Array:
        xp = namespace(h)
        return xp.sum(self.basis * h[..., None, :], axis=-1)


def boundary_basis(along: Array, normal: Array) -> Array:
    """U = [m̂, t̂, n̂] at a point of the smooth boundary: along the ray through it, tangent across it, outward normal.

    Where a cone's projection p of v lies on the smooth boundary, D has the eigenvalue 1 on the ray m̂ = p/‖p‖, 0 on the
    normal n̂ = (v − p)/‖v − p‖, and 1/(1 + ‖v − p‖ κ) on t̂, κ the boundary's curvature at p in that direction. ``along``
    and ``normal`` are orthogonal, of any length.
    """
    xp = namespace(along, normal)
    m = along / xp.sqrt(xp.sum(along * along, axis=-1, keepdims=True))
    n = normal / xp.sqrt(xp.sum(normal * normal, axis=-1, keepdims=True))
    (m1, m2, m3), (n1, n2, n3) = ([h[..., i] for i in range(3)] for h in (m, n))
    t = xp.stack([n2 * m3 - n3 * m2, n3 * m1 - n1 * m3, n1 * m2 - n2 * m1], axis=-1)
    return xp.stack([m, t, n], axis=-1)


def moreau(
    projection: Array, polar_part: Array, element: ExplicitBasisElement
) -> tuple[Array, Array, ExplicitBasisElement]:
    """Π_{K*}(v) = −Π_{K°}(−v), Π_K(−v) and D_{K*}(v) = I − D_K(−v), from the parts of −v and D_K there."""
    return -polar_part, projection, ExplicitBasisElement(1 - element.values, element.basis)
