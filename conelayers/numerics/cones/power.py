"""The power cone K_α = {(x, y, z) : x^α y^{1−α} ≥ |z|, x, y ≥ 0} and its dual.

Projection and derivative: Hien, "Differential properties of Euclidean projection onto power cone" (2015). With β = 1 −
α, outside of K and its polar the projection of (x, y, z) is (x', y', sign(z) r), where for δ = |z| − r

    x' = ½(x + √(x² + 4α r δ)),   y' = ½(y + √(y² + 4β r δ)),   x'^α y'^β = r,   0 < r < |z|.

The unknown here is ω = log(r/δ), from which both r and δ come without cancellation.
"""

from __future__ import annotations

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

__all__ = ["Power", "PowerDual", "decompose_power", "power_extremes", "project_power"]

_FAR = 600.0  # bound for |ω|, at which r or δ is 1e−260 of |z|


def project_power(
    v: Array, alpha: Array, selection: Selection = Selection.DEFAULT
) -> tuple[Array, ExplicitBasisElement]:
    """Π_K(v) and a Clarke element of it; see ``decompose_power``."""
    projection, _, element = decompose_power(v, alpha, selection)
    return projection, element


def decompose_power(
    v: Array, alpha: Array, selection: Selection = Selection.DEFAULT
) -> tuple[Array, Array, ExplicitBasisElement]:
    """Π_K(v), the projection v − Π_K(v) onto the polar cone, and a Clarke element of Π_K.

    v is (..., blocks, 3), the exponents α (blocks,).

    On the curved part D has the eigenvalues 1, θ, 0 on the ray, across it and on the normal (explicit.py). D is I in K,
    0 in the polar cone, and diag(1, 0, d) or diag(0, 1, d) on {z = 0} between them. The default element is I on the
    boundary of K and 0 on that of its polar.
    """
    xp = namespace(v)
    scale = xp.max(xp.abs(v), axis=-1, keepdims=True)
    unit = v / xp.where(scale > 0, scale, xp.ones_like(scale))
    x, y, z = (unit[..., i] for i in range(3))
    alpha = xp.broadcast_to(xp.asarray(alpha, dtype=v.dtype, device=device(v)), x.shape)
    beta = 1 - alpha
    zero, one = xp.zeros_like(x), xp.ones_like(x)
    height = xp.abs(z)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        level = _mean(x, alpha) * _mean(y, beta)
        polar_level = _mean(-x / alpha, alpha) * _mean(-y / beta, beta)
        inside = (x >= 0) & (y >= 0) & (level >= height)
        polar = (x <= 0) & (y <= 0) & (polar_level >= height) & ~inside
        flat = ~(inside | polar) & (height == 0)
        curved = ~(inside | polar | flat)
        # Entries that are not on the curved part get the harmless v = (0, 0, 1) there.
        on = lambda h, other: xp.where(curved, h, other)  # noqa: E731
        px, py, r, delta = _curved(on(x, zero), on(y, zero), on(height, one), alpha)
        sign = xp.where(z < 0, -one, one)
        p = xp.stack([px, py, sign * r], axis=-1)
        normal = xp.stack([-alpha * r / px, -beta * r / py, sign], axis=-1)
        d = delta[..., None] * normal
        # θ = 1/(1 + ‖d‖κ), κ the curvature of x^α y^β = |z| across the ray; see the note below. Both terms are divided
        # by r,
        # which may be tiny.
        bend = (alpha * py) ** 2 + (beta * px) ** 2 + (px**beta * py**alpha) ** 2
        theta = bend / (bend + delta / r * alpha * beta * xp.sum(p * p, axis=-1))
        basis = boundary_basis(p, normal / xp.max(xp.abs(normal), axis=-1, keepdims=True))
    here = lambda mask: mask[..., None]  # noqa: E731
    zeros, ones = xp.zeros_like(unit), xp.ones_like(unit)
    edges = xp.stack([xp.where(x > 0, x, zero), xp.where(y > 0, y, zero), zero], axis=-1)
    edge_values = xp.stack([xp.where(x > 0, one, zero), xp.where(y > 0, one, zero), _flat_slope(x, y, alpha)], axis=-1)
    projection = xp.where(here(inside), unit, xp.where(here(polar), zeros, xp.where(here(flat), edges, p)))
    values = xp.where(
        here(inside),
        ones,
        xp.where(here(polar), zeros, xp.where(here(flat), edge_values, xp.stack([one, theta, zero], axis=-1))),
    )
    identity = xp.eye(3, dtype=v.dtype, device=device(v))
    element = ExplicitBasisElement(values, xp.where(curved[..., None, None], basis, identity))
    polar_part = xp.where(here(curved), d, unit - projection)
    if selection is not Selection.DEFAULT:
        low, high, basis, _ = _kinks(unit, alpha, projection, polar_part, element, zero)
        element = ExplicitBasisElement(between(low, high, selection), basis)
    return projection * scale, polar_part * scale, element


# θ: the boundary F = |z| − x^α y^β = 0 has the normal N = (−αr/x', −βr/y', sign z) with d = δN, and t̂ = N ×
# p/(‖N‖‖p‖), so
# that t̂ₓ/x' − t̂_y/y' = −sign(z)‖p‖/(x'y'‖N‖). With ∇²(x^α y^β)(t̂, t̂) = −rαβ(t̂ₓ/x' − t̂_y/y')² the curvature is
# κ = rαβ‖p‖²/((x'y'‖N‖)²‖N‖), and ‖d‖κ = δrαβ‖p‖²/(x'y'‖N‖)².


def second_derivative_power(v: Array, alpha: Array, a: Array, c: Array) -> Array:
    """D²Π_K(v)[a, c] for v, a, c (..., blocks, 3) and α (blocks,)."""
    xp = namespace(v)
    p, d, element = decompose_power(v, alpha)
    x, y, z = (p[..., i] for i in range(3))
    alpha = xp.broadcast_to(xp.asarray(alpha, dtype=v.dtype, device=device(v)), x.shape)
    beta = 1 - alpha
    zero = xp.zeros_like(x)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        # On (e^{βρ}, e^{−αρ}, ±1), times |z| as p is: ν = γ × γ' and its derivative have the factor z².
        slope = xp.stack([beta * x, -alpha * y, zero], axis=-1)
        normal = xp.stack([alpha * y * z, beta * x * z, -x * y], axis=-1)
        bent = xp.stack([-(alpha**2) * y * z, beta**2 * x * z, (alpha - beta) * x * y], axis=-1)
        turn = turning(p, element.basis[..., 1], (p, slope), (normal, bent), beta - alpha)
    return boundary_second_derivative(p, d, element, turn, a, c) + _flat_second_derivative(v, alpha, a, c)


def _flat_second_derivative(v: Array, alpha: Array, a: Array, c: Array) -> Array:
    """D²Π_K on {z = 0} between K and its polar, where dz'/dz = up/(up + 2|down|) for α = ½; other exponents have none
    there.
    """
    xp = namespace(v)
    x, y, z = (v[..., i] for i in range(3))
    smooth = (z == 0) & (x * y < 0) & (alpha == 0.5)
    up, down = xp.where(x > 0, x, y), xp.where(x > 0, y, x)
    size = xp.where(smooth, up - 2 * down, xp.ones_like(x)) ** 2
    zero = xp.zeros_like(x)
    by_up, by_down = xp.where(smooth, -2 * down / size, zero), xp.where(smooth, 2 * up / size, zero)
    by_x, by_y = xp.where(x > 0, by_up, by_down), xp.where(x > 0, by_down, by_up)
    (a1, a2, a3), (c1, c2, c3) = ([h[..., i] for i in range(3)] for h in (a, c))
    across = by_x * (a1 * c3 + a3 * c1) + by_y * (a2 * c3 + a3 * c2)
    return xp.stack([by_x * a3 * c3, by_y * a3 * c3, across], axis=-1)


def _mean(h: Array, exponent: Array) -> Array:
    """max(h, 0)^exponent."""
    xp = namespace(h)
    return xp.where(h > 0, h, xp.zeros_like(h)) ** exponent


def _half(h: Array, product: Array) -> Array:
    """½(h + √(h² + 4·product)) without cancellation."""
    xp = namespace(h)
    root = xp.sqrt(h * h + 4 * product)
    below = 2 * product / xp.where(h < 0, root - h, xp.ones_like(h))
    return xp.where(h < 0, below, 0.5 * (h + root))


def _curved(x: Array, y: Array, height: Array, alpha: Array) -> tuple[Array, Array, Array, Array]:
    """x', y', r and δ of points on the curved part."""
    xp = namespace(x)
    beta = 1 - alpha

    def parts(omega: Array) -> tuple[Array, Array, Array, Array]:
        small = xp.exp(-xp.abs(omega))
        less, more = height * small / (1 + small), height / (1 + small)
        r, delta = xp.where(omega > 0, more, less), xp.where(omega > 0, less, more)
        return _half(x, alpha * r * delta), _half(y, beta * r * delta), r, delta

    def equation(omega: Array) -> tuple[Array, Array]:
        """−log(x'^α y'^β / r), which increases in ω."""
        px, py, r, delta = parts(omega)
        value = -(alpha * xp.log(px / r) + beta * xp.log(py / r))
        # d(rδ)/dω = rδ(δ − r)/|z|, d log r/dω = δ/|z|, dx'/d(αrδ) = 1/(2x' − x) = 1/√(x² + 4αrδ).
        growth = r * delta * (delta - r) / height
        slope = delta / height - growth * (alpha**2 / (px * (2 * px - x)) + beta**2 / (py * (2 * py - y)))
        return value, slope

    far = _FAR * xp.ones_like(x)
    return parts(increasing_root(equation, -far, far, xp.zeros_like(x)))


def _flat_slope(x: Array, y: Array, alpha: Array) -> Array:
    """dz'/dz on {z = 0} for x and y of different signs, from r ≈ x (βδ/|y|)^{β/α} for x > 0 > y."""
    xp = namespace(x)
    beta = 1 - alpha
    swap = y > 0
    up, down = xp.where(swap, y, x), xp.where(swap, x, y)
    weight, other = xp.where(swap, beta, alpha), xp.where(swap, alpha, beta)
    one = xp.ones_like(x)
    middle = up / xp.where(up + 2 * xp.abs(down) > 0, up + 2 * xp.abs(down), one)
    return xp.where(other > weight, xp.zeros_like(x), xp.where(other < weight, one, middle))


def power_extremes(v: Array, alpha: Array, tolerance: Array) -> Extremes:
    """The extreme elements of ∂Π_K at the kink within ``tolerance`` (..., blocks) of v (..., blocks, 3)."""
    xp = namespace(v)
    exponent = xp.broadcast_to(xp.asarray(alpha, dtype=v.dtype, device=device(v)), v[..., 0].shape)
    projection, polar_part, element = decompose_power(v, alpha)
    low, high, basis, distance = _kinks(v, exponent, projection, polar_part, element, tolerance)
    return Extremes(ExplicitBasisElement(low, basis), ExplicitBasisElement(high, basis), distance)


# The kinks are both boundaries. On their smooth parts the limits are {I, I − n̂n̂ᵀ} and {0, m̂m̂ᵀ}, as for every smooth
# convex
# body; at 0 everything lies between 0 and I, which are limits from the two interiors. That leaves the edges. At (x, 0,
# 0), x > 0,
# every D has De₁ = e₁, so that D lies between diag(1, 0, 0) and I, and I is the limit from inside. Outside, with x' =
# 1, a boundary
# point has r = y'^β, and its normal (−αr, −βr/y', ·) tends to −e₂, so that D → diag(1, 0, θ) with (note on θ above)
#
#     θ ≈ βr/(βr + αδ),  where v_y = y' − βrδ/y' → 0 asks for δ ≪ y'^α.
#
# For β > α, δ may be large against r = y'^β: every θ ∈ [0, 1] is a limit, and the smallest element is diag(1, 0, 0).
# For β ≤ α it
# may not: θ → 1, and the smallest is diag(1, 0, 1). At the polar's edges Moreau's decomposition gives I less what K°
# has there,
# and K° = −K* is a power cone with the same α: at (x, 0, 0), x < 0, between 0 and diag(0, 1, 1), for β ≤ α diag(0, 1,
# 0).


def _kinks(
    v: Array, alpha: Array, p: Array, d: Array, element: ExplicitBasisElement, tolerance: Array
) -> tuple[Array, Array, Array, Array]:
    """The smallest and largest eigenvalues, and their basis, at the kink nearest to v = p + d, and its distance."""
    xp = namespace(v)
    x, y, z = (v[..., i] for i in range(3))
    beta, height = 1 - alpha, xp.abs(z)
    zero, one = xp.zeros_like(x), xp.ones_like(x)
    stacked = lambda a, b, c: xp.stack([a, b, c], axis=-1)  # noqa: E731
    flag = lambda mask: xp.where(mask, one, zero)  # noqa: E731
    inside, polar_inside = xp.all(d == 0, axis=-1), xp.all(p == 0, axis=-1)
    to_boundary = xp.where(inside, _depth(x, y, height, alpha, one, one), length(d[..., 0], d[..., 1], d[..., 2]))
    polar_depth = _depth(-x / alpha, -y / beta, height, alpha, alpha, beta)
    to_polar = xp.where(polar_inside, polar_depth, length(p[..., 0], p[..., 1], p[..., 2]))
    distance = xp.minimum(to_boundary, to_polar)

    on, on_polar = to_boundary <= tolerance, to_polar <= tolerance
    origin = length(x, y, z) <= tolerance
    flat = height <= tolerance
    along_x, along_y = xp.abs(y) <= tolerance, xp.abs(x) <= tolerance
    # The edges (x, 0, 0) and (0, y, 0), of K for positive entries and of its polar for negative ones.
    edge = flat & (along_x | along_y) & ~origin
    positive = xp.where(along_x, x, y) > 0
    rim, polar_rim = edge & positive, edge & ~positive
    smooth, polar_smooth = on & ~edge & ~origin, on_polar & ~on & ~edge & ~origin
    wide = flag(xp.where(along_x, beta > alpha, alpha > beta))  # whether all θ ∈ [0, 1] occur at the edge
    first, second = flag(along_x), flag(along_y)

    here = lambda mask: mask[..., None]  # noqa: E731
    zeros, ones = xp.zeros_like(v), xp.ones_like(v)
    low, high = element.values, element.values
    low = xp.where(here(smooth), stacked(one, one, zero), low)
    high = xp.where(here(smooth), ones, high)
    low = xp.where(here(polar_smooth), zeros, low)
    high = xp.where(here(polar_smooth), stacked(one, zero, zero), high)
    low = xp.where(here(rim), stacked(first, second, 1 - wide), low)
    high = xp.where(here(rim), ones, high)
    low = xp.where(here(polar_rim), zeros, low)
    high = xp.where(here(polar_rim), stacked(second, first, wide), high)
    low, high = xp.where(here(origin), zeros, low), xp.where(here(origin), ones, high)

    # On K's boundary at (x, y, z) the normal is (−α|z|/x, −β|z|/y, sign z); a polar point is δ times such a normal at a
    # boundary point whose ray is (α/|x|, β/|y|, 1/z).
    safe = lambda h: xp.where(h == 0, one, h)  # noqa: E731
    normal = stacked(-alpha * height / safe(x), -beta * height / safe(y), xp.where(z < 0, -one, one))
    ray = stacked(-alpha / safe(x), -beta / safe(y), 1 / safe(z))
    one_axis, other_axis = stacked(one, zero, zero), stacked(zero, one, zero)  # keep the unused entries finite

    def frame(mask: Array, along: Array, across: Array) -> Array:
        return boundary_basis(xp.where(here(mask), along, one_axis), xp.where(here(mask), across, other_axis))

    basis = xp.where(smooth[..., None, None], frame(smooth, v, normal), element.basis)
    basis = xp.where(polar_smooth[..., None, None], frame(polar_smooth, ray, v), basis)
    identity = xp.eye(3, dtype=v.dtype, device=device(v))
    return low, high, xp.where((edge | origin)[..., None, None], identity, basis), distance


def _depth(x: Array, y: Array, height: Array, alpha: Array, x_scale: Array, y_scale: Array) -> Array:
    """For x, y ≥ 0 about the distance from the boundary x^α y^β = |z|, where x and y are coordinates over their scales.

    The least of the difference over the norm of its gradient, and of the distances from {x = 0} and {y = 0}.
    """
    xp = namespace(x)
    one = xp.ones_like(x)
    within = (x > 0) & (y > 0)
    safe_x, safe_y = xp.where(within, x, one), xp.where(within, y, one)
    level = safe_x**alpha * safe_y ** (1 - alpha)
    slope = length(alpha * level / (safe_x * x_scale), (1 - alpha) * level / (safe_y * y_scale), one)
    gap = level - height
    depth = xp.where(gap > 0, gap, 0 * one) / slope
    return xp.where(within, xp.minimum(depth, xp.minimum(safe_x * x_scale, safe_y * y_scale)), 0 * one)


class _PowerBase(Cone):
    """A group of blocks with their exponents, (blocks,)."""

    def __init__(self, alpha: np.ndarray) -> None:
        self.alpha = alpha


@final
class Power(_PowerBase):
    """K_α; Moreau gives the projection onto its dual: Π_{K*}(v) = v + Π_K(−v), D_{K*}(v) = I − D_K(−v)."""

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        y, _, element = self.decompose(v, selection)
        return y, element

    def decompose(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Array, Element]:
        return moreau(*decompose_power(-v, self.alpha, selection.opposite))

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        return moreau_extremes(power_extremes(-v, self.alpha, tolerance))

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        return second_derivative_power(-v, self.alpha, a, c)


@final
class PowerDual(_PowerBase):
    """The dual of K_α, whose dual is K_α."""

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        return project_power(v, self.alpha, selection)

    def decompose(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Array, Element]:
        projection, polar_part, element = decompose_power(v, self.alpha, selection)
        return projection, -polar_part, element

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        return power_extremes(v, self.alpha, tolerance)

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        return second_derivative_power(v, self.alpha, a, c)
