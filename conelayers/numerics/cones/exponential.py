"""The exponential cone K = cl{(x, y, z) : y > 0, y e^{x/y} ≤ z} and its dual.

Projection: Friberg, "Projection onto the exponential cone: a univariate root-finding problem" (2021). Outside of K, its
polar and {x ≤ 0, y ≤ 0}, every v is, for exactly one r and y_p, λ > 0,

    v = y_p (r, 1, eʳ) + λ (eʳ, (1 − r)eʳ, −1),

the projection onto K and that onto its polar. The first two rows give, with φ = r² − r + 1 and L = λ eʳ,

    y_p = ((r − 1)x + y)/φ,   L = (x − r y)/φ,   and the third   y_p eʳ − L e⁻ʳ − z = 0,

whose left side increases in r where y_p and L are positive.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np

from conelayers.numerics.cones.arrays import Array, device, namespace
from conelayers.numerics.cones.cone import Cone, Element, Extremes
from conelayers.numerics.cones.explicit import (
    ExplicitBasisElement,
    boundary_basis,
    boundary_second_derivative,
    length,
    moreau,
    moreau_extremes,
    turning,
)
from conelayers.numerics.cones.roots import increasing_root
from conelayers.numerics.cones.selection import Selection, between

__all__ = ["Exponential", "ExponentialDual", "decompose_exponential", "exponential_extremes", "project_exponential"]

_FAR = 1e150  # bound for r in place of infinity, whose square is still finite
_ROUNDING = 1e-13  # distance from a cone, relative to the point, that counts as rounding


def project_exponential(v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, ExplicitBasisElement]:
    """Π_K(v) and a Clarke element of it; see ``decompose_exponential``."""
    projection, _, element = decompose_exponential(v, selection)
    return projection, element


def decompose_exponential(
    v: Array, selection: Selection = Selection.DEFAULT
) -> tuple[Array, Array, ExplicitBasisElement]:
    """Π_K(v), the projection v − Π_K(v) onto the polar cone, and a Clarke element of Π_K, for v (..., blocks, 3).

    On the curved part D has the eigenvalues 1, θ, 0 on the ray, across it and on the normal (explicit.py). D is I in K,
    0 in the polar cone, and diag(1, 0, [z > 0]) on {x ≤ 0, y ≤ 0}. The default element is I on the boundary of K, 0 on
    that of its polar, and the same diag(1, 0, [z > 0]) on {x ≤ 0, y ≤ 0}.
    """
    xp = namespace(v)
    scale = xp.max(xp.abs(v), axis=-1, keepdims=True)
    unit = v / xp.where(scale > 0, scale, xp.ones_like(scale))
    x, y, z = (unit[..., i] for i in range(3))
    zero, one = xp.zeros_like(x), xp.ones_like(x)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        corner = (x <= 0) & (y <= 0)
        safe_y, safe_x = xp.where(y > 0, y, one), xp.where(x > 0, x, one)
        inside = (y > 0) & (y * xp.exp(x / safe_y) <= z)
        polar = (x > 0) & (x * xp.exp(y / safe_x) <= -math.e * z)
        curved = ~(corner | inside | polar)
        # Entries that are not on the curved part get the harmless v = (0, 1, 0) there.
        r = _ratio(xp.where(curved, x, zero), xp.where(curved, y, one), xp.where(curved, z, zero))
        along, normal = _frame(r)
        norm = lambda h: xp.sqrt(xp.sum(h * h, axis=-1))  # noqa: E731
        ray = along / norm(along)[..., None]
        p = xp.sum(unit * ray, axis=-1)[..., None] * ray
        # θ = ‖n‖³‖p‖ / (‖n‖³‖p‖ + eʳ‖d‖‖a‖³) for a = (r, 1, eʳ), n = (eʳ, (1 − r)eʳ, −1); see the note below.
        numerator = xp.exp(-xp.where(r > 0, r, zero)) * norm(normal) ** 3 * norm(p)
        shrunk = xp.exp(xp.where(r < 0, r, zero) + 3 * xp.log(norm(along)))
        across = normal / norm(normal)[..., None]
        d = xp.sum(unit * across, axis=-1)[..., None] * across  # not unit − p, whose small entries would have no digits
        denominator = numerator + norm(d) * shrunk
        theta = numerator / xp.where(denominator > 0, denominator, one)
    faces = xp.stack([x, zero, xp.where(z > 0, z, zero)], axis=-1)
    face_values = xp.stack([one, zero, xp.where(z > 0, one, zero)], axis=-1)
    here = lambda mask: mask[..., None]  # noqa: E731
    zeros = xp.zeros_like(unit)
    projection = xp.where(here(inside), unit, xp.where(here(polar), zeros, xp.where(here(corner), faces, p)))
    values = xp.where(
        here(inside),
        xp.ones_like(unit),
        xp.where(here(polar), zeros, xp.where(here(corner), face_values, xp.stack([one, theta, zero], axis=-1))),
    )
    identity = xp.eye(3, dtype=v.dtype, device=device(v))
    basis = xp.where(curved[..., None, None], boundary_basis(along, normal), identity)
    polar_part = xp.where(curved[..., None], d, unit - projection)
    element = ExplicitBasisElement(values, basis)
    if selection is not Selection.DEFAULT:
        low, high, basis, _ = _kinks(unit, projection, polar_part, element, zero)
        element = ExplicitBasisElement(between(low, high, selection), basis)
    return projection * scale, polar_part * scale, element


def exponential_extremes(v: Array, tolerance: Array) -> Extremes:
    """The extreme elements of ∂Π_K at the kink within ``tolerance`` (..., blocks) of v (..., blocks, 3), K the
    exponential cone.
    """
    projection, polar_part, element = decompose_exponential(v)
    low, high, basis, distance = _kinks(v, projection, polar_part, element, tolerance)
    return Extremes(ExplicitBasisElement(low, basis), ExplicitBasisElement(high, basis), distance)


def _kinks(
    v: Array, p: Array, d: Array, element: ExplicitBasisElement, tolerance: Array
) -> tuple[Array, Array, Array, Array]:
    """The smallest and largest eigenvalues, and their basis, at the kink nearest to v = p + d, and its distance.

    The extremes are {I − n̂n̂ᵀ, I} on the smooth boundary and {0, m̂m̂ᵀ} on that of the polar. On {x ≤ 0, y ≤ 0}, which
    holds the origin and the edges, D is diagonal, and the entry of each of x, y, z that vanishes may be 0 or 1.
    """
    xp = namespace(v)
    x, y, z = (v[..., i] for i in range(3))
    zero, one = xp.zeros_like(x), xp.ones_like(x)
    stacked = lambda a, b, c: xp.stack([a, b, c], axis=-1)  # noqa: E731
    flag = lambda mask: xp.where(mask, one, zero)  # noqa: E731
    above = lambda h: xp.where(h > 0, h, zero)  # noqa: E731
    inside, polar_inside = xp.all(d == 0, axis=-1), xp.all(p == 0, axis=-1)
    to_boundary = xp.where(inside, _depth(x, y, z), length(d[..., 0], d[..., 1], d[..., 2]))
    # K° = {x > 0, x e^{y/x} ≤ −e z} and its face {0} × {y ≤ 0} × {z ≤ 0}: K with x and y exchanged, and −e z for z.
    to_polar = xp.where(polar_inside, _depth(y, x, -math.e * z, math.e), length(p[..., 0], p[..., 1], p[..., 2]))
    edges = [length(above(x), y), length(x, above(y)), length(above(x), above(y), z)]
    distance = xp.minimum(to_boundary, to_polar)
    for edge in edges:
        distance = xp.minimum(distance, edge)

    snap = lambda h: xp.where(xp.abs(h) <= tolerance, zero, h)  # noqa: E731
    a, b, c = snap(x), snap(y), snap(z)
    corner = (a <= 0) & (b <= 0)
    boundary = ~corner & (to_boundary <= tolerance) & (y > 0)
    polar = ~corner & ~boundary & (to_polar <= tolerance) & (x > 0)
    low = xp.where(corner[..., None], stacked(flag(a < 0), zero, flag(c > 0)), element.values)
    high = xp.where(corner[..., None], stacked(one, flag(b == 0), flag(c >= 0)), element.values)
    low = xp.where(boundary[..., None], stacked(one, one, zero), low)
    high = xp.where(boundary[..., None], xp.ones_like(v), high)
    low = xp.where(polar[..., None], xp.zeros_like(v), low)
    high = xp.where(polar[..., None], stacked(one, zero, zero), high)
    r = xp.where(boundary, x / xp.where(boundary, y, one), xp.where(polar, 1 - y / xp.where(polar, x, one), zero))
    along, normal = _frame(r)
    basis = xp.where((boundary | polar)[..., None, None], boundary_basis(along, normal), element.basis)
    identity = xp.eye(3, dtype=v.dtype, device=device(v))
    return low, high, xp.where(corner[..., None, None], identity, basis), distance


def _depth(x: Array, y: Array, z: Array, factor: float = 1.0) -> Array:
    """About the distance of a point of K from the boundary; infinite outside of K. ``factor`` is z over its coordinate.

    The least of g/‖∇g‖ with g = y log(z/y) − x, and of the distances from the face {x ≤ 0, y = 0} and from {z = 0}.
    """
    xp = namespace(x)
    one = xp.ones_like(x)
    within = (y > 0) & (z > 0)
    safe_y, safe_z = xp.where(within, y, one), xp.where(within, z, one)
    logarithm = xp.log(safe_z) - xp.log(safe_y)
    g = safe_y * logarithm - x
    depth = xp.where(g > 0, g, 0 * one) / length(one, logarithm - 1, factor * safe_y / safe_z)
    face = length(xp.where(x > 0, x, 0 * one), safe_y)
    smooth = xp.minimum(xp.minimum(depth, face), safe_z / factor)
    # A point with y = 0 lies on the face itself.
    return xp.where(within, smooth, xp.where((y == 0) & (x <= 0) & (z >= 0), 0 * one, xp.inf * one))


# θ: the boundary's tangent vectors at p = y_p a are a and t = ∂a/∂r = (1, 0, eʳ); with t⊥ = t − (t·m̂)m̂, the implicit
# derivative of v = y_p a + λ n gives θ = ‖t⊥‖²/(‖t⊥‖² + λ eʳ/y_p). By the cross product ‖t⊥‖ = ‖n‖/‖a‖, and y_p =
# ‖p‖/‖a‖,
# λ = ‖d‖/‖n‖. For r ≥ 0 both a and n are divided by eʳ, which turns the factor eʳ into e⁻ʳ in the other term.


def _frame(r: Array) -> tuple[Array, Array]:
    """(r, 1, eʳ) and (eʳ, (1 − r)eʳ, −1), both divided by eʳ for r ≥ 0."""
    xp = namespace(r)
    ahead = r >= 0
    shrink = xp.exp(-xp.abs(r))
    one = xp.ones_like(r)
    along = xp.stack(
        [xp.where(ahead, r * shrink, r), xp.where(ahead, shrink, one), xp.where(ahead, one, shrink)], axis=-1
    )
    normal = xp.stack(
        [
            xp.where(ahead, one, shrink),
            xp.where(ahead, 1 - r, (1 - r) * shrink),
            xp.where(ahead, -shrink, -one),
        ],
        axis=-1,
    )
    return along, normal


def second_derivative_exponential(v: Array, a: Array, c: Array) -> Array:
    """D²Π_K(v)[a, c] for v, a, c (..., blocks, 3)."""
    xp = namespace(v)
    p, d, element = decompose_exponential(v)
    one, zero = xp.ones_like(p[..., 0]), xp.zeros_like(p[..., 0])
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        r = p[..., 0] / xp.where(p[..., 1] > 0, p[..., 1], one)
        r = xp.where(xp.isfinite(r), r, zero)
        ahead, shrink = r >= 0, xp.exp(-xp.abs(r))
        along, normal = _frame(r)
        tangent = xp.stack([xp.where(ahead, shrink, one), zero, xp.where(ahead, one, shrink)], axis=-1)
        bent = xp.stack([xp.where(ahead, one, shrink), xp.where(ahead, -r, -r * shrink), zero], axis=-1)
        turn = turning(p, element.basis[..., 1], (along, tangent), (normal, bent), one)
    return boundary_second_derivative(p, d, element, turn, a, c)


def _ratio(x: Array, y: Array, z: Array) -> Array:
    """r, the root of φ e^{−|r|} times the third row, in which nothing overflows, by a safeguarded Newton method."""
    xp = namespace(x)
    far = _FAR * xp.ones_like(x)
    one = xp.ones_like(x)
    # y_p > 0: (r − 1)x + y > 0; L > 0: x − r y > 0.
    primal = 1 - y / xp.where(x == 0, one, x)
    dual = x / xp.where(y == 0, one, y)
    low = xp.where(x > 0, primal, -far)
    high = xp.where(x < 0, primal, far)
    high = xp.where(y > 0, xp.where(dual < high, dual, high), high)
    low = xp.where(y < 0, xp.where(dual > low, dual, low), low)
    low = xp.where(low > -far, xp.where(low < far, low, far), -far)
    high = xp.where(high < far, xp.where(high > -far, high, -far), far)

    def equation(r: Array) -> tuple[Array, Array]:
        ahead = r >= 0
        shrink = xp.exp(-xp.abs(r))
        phi = r * r - r + 1
        Y, X = (r - 1) * x + y, x - r * y  # φ y_p and φ L
        value = xp.where(ahead, Y - z * phi * shrink - X * shrink**2, Y * shrink**2 - z * phi * shrink - X)
        slope = 2 * r - 1
        change = xp.where(
            ahead,
            x - z * (slope - phi) * shrink + (y + 2 * X) * shrink**2,
            (x + 2 * Y) * shrink**2 - z * (slope + phi) * shrink + y,
        )
        return value, change

    # A bracket that is open on one side reaches to 1e150, but most roots are near its finite end.
    start = xp.where(low > -far, low + 1, xp.where(high < far, high - 1, xp.zeros_like(x)))
    middle = xp.sinh(0.5 * (xp.asinh(low) + xp.asinh(high)))
    start = xp.where((start > low) & (start < high) & ((low == -far) | (high == far)), start, middle)
    return increasing_root(equation, low, high, start)


def _height(v: Array) -> Array:
    """By how much z has to rise for v to lie in K, an upper bound of the distance. Infinite for y ≤ 0."""
    xp = namespace(v)
    x, y, z = (v[..., i] for i in range(3))
    with np.errstate(over="ignore"):
        needed = xp.where(y > 0, y * xp.exp(x / xp.where(y > 0, y, xp.ones_like(y))), xp.inf * xp.ones_like(y))
    return xp.where(needed > z, needed - z, xp.zeros_like(z))


def _dual_height(v: Array) -> Array:
    """By how much z has to rise for v to lie in K* = cl{x < 0, −x e^{y/x} ≤ e z}. Infinite for x ≥ 0."""
    xp = namespace(v)
    x, y, z = (v[..., i] for i in range(3))
    with np.errstate(over="ignore"):
        needed = xp.where(x < 0, -x * xp.exp(y / xp.where(x < 0, x, -xp.ones_like(x)) - 1), xp.inf * xp.ones_like(x))
    return xp.where(needed > z, needed - z, xp.zeros_like(z))


def _tight(bounds: tuple[Array, Array], *points: Array) -> bool:
    """Whether all bounds are within rounding of their blocks, so that no projections have to be computed."""
    xp = namespace(*bounds)
    sizes = (xp.max(xp.abs(h), axis=-1) for h in points)
    return all(bool(xp.all(bound <= _ROUNDING * size)) for bound, size in zip(bounds, sizes, strict=True))


@final
class Exponential(Cone):
    """K; Moreau gives the projection onto its dual: Π_{K*}(v) = v + Π_K(−v), D_{K*}(v) = I − D_K(−v).

    The default element at a kink is I less the default element of Π_K at −v.
    """

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        y, _, element = self.decompose(v, selection)
        return y, element

    def decompose(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Array, Element]:
        return moreau(*decompose_exponential(-v, selection.opposite))

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        return moreau_extremes(exponential_extremes(-v, tolerance))

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        return second_derivative_exponential(-v, a, c)

    def distances(self, y: Array, s: Array) -> tuple[Array, Array]:
        """The heights if they are all within rounding, else the distances themselves."""
        bounds = _dual_height(y), _height(s)
        return bounds if _tight(bounds, y, s) else super().distances(y, s)


@final
class ExponentialDual(Cone):
    """K*, whose dual is K."""

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        return project_exponential(v, selection)

    def decompose(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Array, Element]:
        projection, polar_part, element = decompose_exponential(v, selection)
        return projection, -polar_part, element

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        return exponential_extremes(v, tolerance)

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        return second_derivative_exponential(v, a, c)

    def distances(self, y: Array, s: Array) -> tuple[Array, Array]:
        """The heights if they are all within rounding, else the distances themselves."""
        bounds = _height(y), _dual_height(s)
        return bounds if _tight(bounds, y, s) else super().distances(y, s)
