"""The second-order cone {(t, u) : ‖u‖ ≤ t}, self-dual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from conelayers.numerics.cones.arrays import Array, device, namespace
from conelayers.numerics.cones.cone import Cone, Element, Extremes, ReducedElement, Triplets, no_triplets
from conelayers.numerics.cones.selection import Selection, between

__all__ = ["SecondOrder", "SecondOrderElement"]

_SQRT_HALF = 0.5**0.5
_LIFT_FROM_DIMENSION = 16  # dimension from which the lifted sparse form of D is cheaper than its dense d×d blocks


@final
@dataclass(frozen=True)
class SecondOrderElement(Element):
    """D with eigenvectors (1, w)/√2, (1, −w)/√2 and a basis of {0} × w⊥, in this order along the last axis.

    U is the Householder reflection in u that takes w to ∓e₁, followed by a rotation of the first two coordinates by
    45°.
    """

    direction: Array  # w = u/‖u‖, (..., blocks, d − 1)

    def _reflect(self, u: Array) -> tuple[Array, Array]:
        """H u and the sign σ with H w = σ e₁, where H = I − 2 h hᵀ/hᵀh and h = w − σ e₁, σ = −sign(w₁)."""
        xp = namespace(u)
        w = self.direction
        first = w[..., :1]
        sign = xp.where(first > 0, -xp.ones_like(first), xp.ones_like(first))
        h = xp.concat([first - sign, w[..., 1:]], axis=-1)
        scale = xp.sum(h * u, axis=-1, keepdims=True) / (1 - sign * first)  # hᵀh = 2 (1 − σ w₁) ≥ 2
        return u - scale * h, sign

    def to_basis(self, h: Array) -> Array:
        xp = namespace(h)
        t = h[..., :1]
        reflected, sign = self._reflect(h[..., 1:])
        along = sign * reflected[..., :1]  # wᵀu
        return xp.concat([_SQRT_HALF * (t + along), _SQRT_HALF * (t - along), reflected[..., 1:]], axis=-1)

    def from_basis(self, h: Array) -> Array:
        xp = namespace(h)
        plus, minus = h[..., :1], h[..., 1:2]
        t, along = _SQRT_HALF * (plus + minus), _SQRT_HALF * (plus - minus)
        first = self.direction[..., :1]
        sign = xp.where(first > 0, -xp.ones_like(first), xp.ones_like(first))
        coordinates = xp.concat([sign * along, h[..., 2:]], axis=-1)
        return xp.concat([t, self._reflect(coordinates)[0]], axis=-1)  # H is its own inverse

    def reduced(self) -> ReducedElement:
        """B, n and W; large cones are lifted, so that the KKT matrix stays sparse.

        On the curved part D = v₁v₁ᵀ + c²·diag(0, I − wwᵀ), v₁ = (1, w)/√2. Its range is spanned by v₁ and w⊥. A basis
        of w⊥ would fill a d×d block. Instead dy = v₁ η₁ + c (0, η_u) with η_u ∈ R^{d−1} and the constraint wᵀη_u = 0,
        whose multiplier is one more unknown: B = [v₁, c (0; I)], n = (0, 1 − c²), W = (0; w).
        """
        d = self.values.shape[-1]
        if d < _LIFT_FROM_DIMENSION:
            return super().reduced()
        data, rows, cols, diagonals = [], [], [], []
        lifted_data, lifted_rows, lifted_cols = [], [], []
        rank = lifted = 0
        for k, (values, w) in enumerate(zip(self.values, self.direction, strict=True)):
            first, rest = k * d, k * d + np.arange(1, d)
            if values[1] > 0:  # v in the interior of K: D = I
                data.append(np.ones(d))
                rows.append(first + np.arange(d))
                cols.append(rank + np.arange(d))
                diagonals.append(np.zeros(d))
                rank += d
            elif values[0] > 0:  # not in the polar cone, where D = 0
                middle, eta = values[2], rank + np.arange(1, d)
                data += [np.array([_SQRT_HALF]), _SQRT_HALF * w, np.full(d - 1, np.sqrt(middle))]
                rows += [np.array([first]), rest, rest]
                cols += [np.full(d, rank), eta]
                diagonals.append(np.concatenate([[0.0], np.full(d - 1, 1 - middle)]))
                lifted_data.append(w)
                lifted_rows.append(eta)
                lifted_cols.append(np.full(d - 1, lifted))
                rank, lifted = rank + d, lifted + 1
        if not rank:
            return ReducedElement(no_triplets(self.values.size), np.zeros(0), no_triplets(0))
        basis = Triplets(np.concatenate(data), np.concatenate(rows), np.concatenate(cols), (self.values.size, rank))
        lift = no_triplets(rank)
        if lifted:
            entries = np.concatenate(lifted_data), np.concatenate(lifted_rows), np.concatenate(lifted_cols)
            lift = Triplets(*entries, (rank, lifted))
        return ReducedElement(basis, np.concatenate(diagonals), lift)


@final
class SecondOrder(Cone):
    """Π(v) = v inside K, 0 inside −K, else ½(t + ‖u‖)(1, w); the middle eigenvalue of D is ½(1 + t/‖u‖).

    On the boundary of K the default element is I, on that of −K it is 0; at the origin it is I.
    """

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, SecondOrderElement]:
        xp = namespace(v)
        t, u = v[..., :1], v[..., 1:]
        # u is scaled before it is squared, so that ‖u‖ neither overflows nor underflows.
        largest = xp.max(xp.abs(u), axis=-1, keepdims=True)
        scale = xp.where(largest > 0, largest, xp.ones_like(largest))
        norm = scale * xp.sqrt(xp.sum((u / scale) ** 2, axis=-1, keepdims=True))
        positive = norm > 0
        safe = xp.where(positive, norm, xp.ones_like(norm))
        unit = xp.concat([xp.ones_like(t), xp.zeros_like(u[..., 1:])], axis=-1)
        w = xp.where(positive, u / safe, unit)
        inside, polar = norm <= t, norm <= -t
        polar = polar & ~inside
        one, zero = xp.ones_like(t), xp.zeros_like(t)
        outer = xp.where(inside, one, zero)
        first = xp.where(polar, zero, one)
        middle = xp.where(inside, one, xp.where(polar, zero, (1 + t / safe) / 2))
        values = xp.concat([first, outer, xp.broadcast_to(middle, u[..., 1:].shape)], axis=-1)
        if selection is not Selection.DEFAULT:
            values = between(*_extreme_values(values, norm == t, norm == -t), selection)
        boundary = (t + norm) / 2 * xp.concat([one, w], axis=-1)
        projection = xp.where(inside, v, xp.where(polar, xp.zeros_like(v), boundary))
        return projection, SecondOrderElement(values, w)

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        """The distance of v from the boundaries of K and of −K is |t ∓ ‖u‖|/√2."""
        xp = namespace(v)
        t = v[..., :1]
        norm = xp.linalg.vector_norm(v[..., 1:], axis=-1, keepdims=True)
        to_boundary, to_polar = xp.abs(t - norm) * _SQRT_HALF, xp.abs(t + norm) * _SQRT_HALF
        near, element = tolerance[..., None], self.project_dual(v)[1]
        low, high = _extreme_values(element.values, to_boundary <= near, to_polar <= near)
        distance = xp.minimum(to_boundary, to_polar)[..., 0]
        return Extremes(
            SecondOrderElement(low, element.direction), SecondOrderElement(high, element.direction), distance
        )

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        """On the curved part, with τ = t/‖u‖, τ' = (a₀ − τ wᵀa₁)/‖u‖, w' = (a₁ − w wᵀa₁)/‖u‖ the derivatives of τ and w
        along a,

        2 D c = (c₀ + wᵀc₁, w c₀ + (1 + τ)c₁ − τ w wᵀc₁) is differentiated; elsewhere D is constant.
        """
        xp = namespace(v)
        if v.shape[-1] == 2:  # two orthants, rotated
            return xp.zeros_like(v + a + c)
        _, element = self.project_dual(v)
        middle, w = element.values[..., 2:3], element.direction
        curved = (element.values[..., 1:2] == 0) & (element.values[..., :1] == 1)
        norm = xp.sqrt(xp.sum(v[..., 1:] ** 2, axis=-1, keepdims=True))
        norm = xp.where(curved, norm, xp.ones_like(norm))
        dot = lambda h, k: xp.sum(h * k, axis=-1, keepdims=True)  # noqa: E731
        a0, a1, c0, c1 = a[..., :1], a[..., 1:], c[..., :1], c[..., 1:]
        tau = 2 * middle - 1
        tau_change = (a0 - tau * dot(w, a1)) / norm
        w_change = (a1 - w * dot(w, a1)) / norm
        along = dot(w_change, c1)
        across = c1 - w * dot(w, c1)
        rest = w_change * (c0 - tau * dot(w, c1)) + tau_change * across - tau * along * w
        return xp.where(curved, 0.5 * xp.concat([along, rest], axis=-1), xp.zeros_like(v + a + c))


def _extreme_values(values: Array, on_boundary: Array, on_polar: Array) -> tuple[Array, Array]:
    """{H(w, 1), I} on the boundary of K, {0, H(w, −1)} on that of its polar, {0, I} at the origin, ``values``
    elsewhere.
    """
    xp = namespace(values)
    zeros, ones = xp.zeros_like(values), xp.ones_like(values)
    place = xp.arange(values.shape[-1], device=device(values))
    edge = xp.where(place == 1, zeros, ones)  # the eigenvalues of H(w, 1)
    ray = xp.where(place == 0, ones, zeros)  # and of H(w, −1)
    low = xp.where(on_polar, zeros, xp.where(on_boundary, edge, values))
    high = xp.where(on_boundary, ones, xp.where(on_polar, ray, values))
    return low, high
