"""Clarke elements of three-dimensional cones, for which the 3×3 matrix U is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from conelayers.numerics.cones.arrays import Array, namespace
from conelayers.numerics.cones.cone import Element, Extremes

__all__ = [
    "ExplicitBasisElement",
    "boundary_basis",
    "boundary_second_derivative",
    "length",
    "moreau",
    "moreau_extremes",
    "turning",
]


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
    normal n̂ = (v − p)/‖v − p‖, and 1/(1 + ‖v − p‖ κ) on t̂, κ the boundary's curvature at p in that direction.
    ``along`` and ``normal`` are orthogonal, of any length.
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


def moreau_extremes(extremes: Extremes) -> Extremes:
    """The extremes of Π_{K*} at v from those of Π_K at −v: D_{K*}(v) = I − D_K(−v) reverses their order."""
    low, high, distance = extremes
    assert isinstance(low, ExplicitBasisElement)
    assert isinstance(high, ExplicitBasisElement)
    return Extremes(
        ExplicitBasisElement(1 - high.values, high.basis), ExplicitBasisElement(1 - low.values, low.basis), distance
    )


def length(*coordinates: Array) -> Array:
    """√(Σ h²) for coordinates that are arrays of one shape."""
    xp = namespace(*coordinates)
    return xp.sqrt(sum(h * h for h in coordinates))


def boundary_second_derivative(
    p: Array, d: Array, element: ExplicitBasisElement, turn: Array, a: Array, c: Array
) -> Array:
    """D²Π_K(v)[a, c] at points whose projection p lies on the smooth boundary, d = v − p; 0 where D is 0 or I.

    In the frame (m̂, t̂, n̂) only t̂ turns: a moves m̂ by θa₂/‖p‖ t̂ and n̂ by (1 − θ)a₂/‖d‖ t̂. With θ = 1/(1 + ‖d‖κ)
    and ``turn`` = ∂ log κ along t̂, the trilinear form has, up to permutations, the coefficients

        T₁₂₂ = θ(1 − θ)/‖p‖,   T₂₂₂ = −θ²(1 − θ) ∂ log κ,   T₂₂₃ = −θ(1 − θ)/‖d‖.
    """
    xp = namespace(p, d)
    theta = element.values[..., 1]
    bend = theta * (1 - theta)
    norm = lambda h: xp.sqrt(xp.sum(h * h, axis=-1))  # noqa: E731
    safe = lambda h: xp.where(bend > 0, h, xp.ones_like(h))  # noqa: E731
    by_ray, by_normal = bend / safe(norm(p)), -bend / safe(norm(d))
    by_turn = -theta * bend * xp.where(bend > 0, turn, xp.zeros_like(bend))
    (a1, a2, a3), (c1, c2, c3) = ([h[..., i] for i in range(3)] for h in (element.to_basis(a), element.to_basis(c)))
    across = by_ray * (a1 * c2 + a2 * c1) + by_normal * (a3 * c2 + a2 * c3) + by_turn * a2 * c2
    return element.from_basis(xp.stack([by_ray * a2 * c2, across, by_normal * a2 * c2], axis=-1))


def turning(p: Array, across: Array, curve: tuple[Array, Array], normal: tuple[Array, Array], growth: Array) -> Array:
    """∂ log κ along the unit vector t̂ = ``across`` at p = s γ(ρ) on the boundary of a cone over the curve γ.

    κ = |det(γ, γ', γ'')| ‖γ‖²/(s‖ν‖³) with ν = γ × γ'. ``curve`` = (γ, γ'), ``normal`` = (ν, ν'), each pair up to a
    factor common to both, ``growth`` = d log|det|/dρ. Moving along t̂ changes ρ by 1/(s γ'ᵀt̂), and s so that p stays
    off the ray.
    """
    xp = namespace(p, across)
    dot = lambda h, k: xp.sum(h * k, axis=-1)  # noqa: E731
    (gamma, slope), (nu, nu_slope) = curve, normal
    size = dot(gamma, gamma)
    lean = dot(gamma, slope) / size
    step = xp.sqrt(size / dot(p, p)) / dot(slope, across)
    return step * (growth + 3 * lean - 3 * dot(nu, nu_slope) / dot(nu, nu))
