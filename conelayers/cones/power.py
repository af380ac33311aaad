"""The power cone K_α = {(x, y, z) : x^α y^{1−α} ≥ |z|, x, y ≥ 0} and its dual.

Projection and derivative: Hien, "Differential properties of Euclidean projection onto power cone" (2015). With β = 1 − α,
outside of K and its polar the projection of (x, y, z) is (x', y', sign(z) r), where for δ = |z| − r

    x' = ½(x + √(x² + 4α r δ)),   y' = ½(y + √(y² + 4β r δ)),   x'^α y'^β = r,   0 < r < |z|.

The unknown here is ω = log(r/δ), from which both r and δ come without cancellation.
"""

from __future__ import annotations

from typing import final

import numpy as np

from conelayers.cones.arrays import Array, device, namespace
from conelayers.cones.cone import Cone, Element
from conelayers.cones.explicit import (
    ExplicitBasisElement,
    boundary_basis,
    boundary_second_derivative,
    moreau,
    turning,
)
from conelayers.cones.roots import increasing_root
from conelayers.cones.selection import Selection, between

__all__ = ["Power", "PowerDual", "decompose_power", "project_power"]

_FAR = 600.0


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

    D has the eigenvalues 1, θ, 0 on the ray, across it and on the normal (explicit.py) on the curved part, I in K, 0 in
    the polar cone, and on {z = 0} between them diag(1, 0, d) or diag(0, 1, d). On the boundary of K the default element is
    I, on that of its polar 0.
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
        d = xp.stack([-alpha * r * delta / px, -beta * r * delta / py, sign * delta], axis=-1)
        # θ = 1/(1 + ‖d‖κ), κ the curvature of x^α y^β = |z| across the ray; see the note below.
        bend = (alpha * r * py) ** 2 + (beta * r * px) ** 2 + (px * py) ** 2
        theta = bend / (bend + delta * r * alpha * beta * xp.sum(p * p, axis=-1))
        basis = boundary_basis(p, d)
    here = lambda mask: mask[..., None]  # noqa: E731
    zeros, ones = xp.zeros_like(unit), xp.ones_like(unit)
    edges = xp.stack([xp.where(x > 0, x, zero), xp.where(y > 0, y, zero), zero], axis=-1)
    edge_values = xp.stack([xp.where(x > 0, one, zero), xp.where(y > 0, one, zero), _flat_slope(x, y, alpha)], axis=-1)
    projection = xp.where(here(inside), unit, xp.where(here(polar), zeros, xp.where(here(flat), edges, p)))
    low = xp.where(
        here(inside),
        ones,
        xp.where(here(polar), zeros, xp.where(here(flat), edge_values, xp.stack([one, theta, zero], axis=-1))),
    )
    high = low
    identity = xp.eye(3, dtype=v.dtype, device=device(v))
    basis = xp.where(curved[..., None, None], basis, identity)
    if selection is not Selection.DEFAULT:
        low, high, basis = _kinks(unit, alpha, low, basis, inside & (level == height), polar & (polar_level == height))
    polar_part = xp.where(here(curved), d, unit - projection)
    return projection * scale, polar_part * scale, ExplicitBasisElement(between(low, high, selection), basis)


# θ: the boundary F = |z| − x^α y^β = 0 has the normal N = (−αr/x', −βr/y', sign z) with d = δN, and t̂ = N × p/(‖N‖‖p‖), so
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
    """On {z = 0} between K and its polar, where dz'/dz = up/(up + 2|down|) for α = ½; for other exponents there is none."""
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
    """x', y', r and δ."""
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
    """dz'/dz on {z = 0} where one of x, y is positive and the other negative: r ≈ x (βδ/|y|)^{β/α} for x > 0 > y."""
    xp = namespace(x)
    beta = 1 - alpha
    swap = y > 0
    up, down = xp.where(swap, y, x), xp.where(swap, x, y)
    weight, other = xp.where(swap, beta, alpha), xp.where(swap, alpha, beta)
    one = xp.ones_like(x)
    middle = up / xp.where(up + 2 * xp.abs(down) > 0, up + 2 * xp.abs(down), one)
    return xp.where(other > weight, xp.zeros_like(x), xp.where(other < weight, one, middle))


def _kinks(
    unit: Array, alpha: Array, values: Array, basis: Array, boundary: Array, polar_boundary: Array
) -> tuple[Array, Array, Array]:
    """The smallest and largest listed eigenvalues, and their basis, at the kinks: both boundaries, their edges, 0."""
    xp = namespace(unit)
    x, y, z = (unit[..., i] for i in range(3))
    zero, one = xp.zeros_like(x), xp.ones_like(x)
    edge = z == 0  # a boundary point with z = 0 lies on an edge, or is 0
    stacked = lambda a, b, c: xp.stack([a, b, c], axis=-1)  # noqa: E731
    flags = lambda mask: xp.where(mask, one, zero)  # noqa: E731
    low, high = values, values
    smooth, polar_smooth = boundary & ~edge, polar_boundary & ~edge
    beta = 1 - alpha
    safe = lambda h: xp.where(h == 0, one, h)  # noqa: E731
    # On K's boundary at (x, y, z) the normal is (−α|z|/x, −β|z|/y, sign z); a polar point is δ times such a normal at a
    # boundary point whose ray is (α/|x|, β/|y|, 1/z).
    normal = stacked(-alpha * xp.abs(z) / safe(x), -beta * xp.abs(z) / safe(y), xp.where(z < 0, -one, one))
    ray = stacked(-alpha / safe(x), -beta / safe(y), 1 / safe(z))
    one_axis, other_axis = stacked(one, zero, zero), stacked(zero, one, zero)  # keep the unused entries finite

    def frame(mask: Array, along: Array, across: Array) -> Array:
        here = mask[..., None]
        return boundary_basis(xp.where(here, along, one_axis), xp.where(here, across, other_axis))

    basis = xp.where(smooth[..., None, None], frame(smooth, unit, normal), basis)
    basis = xp.where(polar_smooth[..., None, None], frame(polar_smooth, ray, unit), basis)
    low = xp.where(smooth[..., None], stacked(one, one, zero), low)
    high = xp.where(polar_smooth[..., None], stacked(one, zero, zero), high)
    rim, polar_rim = (boundary & edge)[..., None], (polar_boundary & edge)[..., None]
    low = xp.where(rim, stacked(flags(x > 0), flags(y > 0), zero), low)
    # The polar's edges: (x < 0, 0, 0) has the elements 0 and diag(0, 1, θ), (0, y < 0, 0) has 0 and diag(1, 0, θ).
    high = xp.where(polar_rim, stacked(flags(y < 0), flags(x < 0), one), high)
    return low, high, basis


class _PowerBase(Cone):
    """Exponents of the blocks of a group, (blocks,)."""

    def __init__(self, alpha: np.ndarray) -> None:
        self.alpha = alpha


@final
class Power(_PowerBase):
    """K_α: the projection is onto its dual, by Moreau: Π_{K*}(v) = v + Π_K(−v), D_{K*}(v) = I − D_K(−v)."""

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        y, _, element = self.decompose(v, selection)
        return y, element

    def decompose(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Array, Element]:
        return moreau(*decompose_power(-v, self.alpha, selection.opposite))

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        return second_derivative_power(-v, self.alpha, a, c)


@final
class PowerDual(_PowerBase):
    """The dual of K_α: the projection is onto K_α itself."""

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        return project_power(v, self.alpha, selection)

    def decompose(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Array, Element]:
        projection, polar_part, element = decompose_power(v, self.alpha, selection)
        return projection, -polar_part, element

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        return second_derivative_power(v, self.alpha, a, c)
