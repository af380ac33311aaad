"""The positive semidefinite cone in scaled-vector form: lower triangle, column-major, off-diagonals times √2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np

from conelayers.cones.arrays import Array, device, namespace
from conelayers.cones.cone import Cone, Element, Extremes
from conelayers.cones.selection import Selection, between

__all__ = ["PositiveSemidefinite", "PositiveSemidefiniteElement", "matrix_to_svec", "svec_to_matrix"]


@cache
def _triangle(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the lower triangle in a flattened n×n matrix, the map back, and the scale 1 or √2."""
    cols, rows = np.triu_indices(n)  # row-major upper triangle, transposed: column-major lower triangle
    to_vector = rows * n + cols
    position = np.empty((n, n), dtype=np.int64)
    position[rows, cols] = position[cols, rows] = np.arange(rows.size)
    return to_vector, position.ravel(), np.where(rows == cols, 1.0, np.sqrt(2.0))


def svec_to_matrix(v: Array, n: int) -> Array:
    """The symmetric matrix (..., n, n) of a scaled vector (..., n(n+1)/2)."""
    xp = namespace(v)
    _, position, scale = _triangle(n)
    unscaled = v / xp.asarray(scale, dtype=v.dtype, device=device(v))
    full = xp.take(unscaled, xp.asarray(position, device=device(v)), axis=-1)
    return xp.reshape(full, (*v.shape[:-1], n, n))


def matrix_to_svec(matrix: Array) -> Array:
    """The scaled vector (..., n(n+1)/2) of a symmetric matrix (..., n, n); only its lower triangle is read."""
    xp = namespace(matrix)
    n = matrix.shape[-1]
    to_vector, _, scale = _triangle(n)
    flat = xp.reshape(matrix, (*matrix.shape[:-2], n * n))
    entries = xp.take(flat, xp.asarray(to_vector, device=device(matrix)), axis=-1)
    return entries * xp.asarray(scale, dtype=matrix.dtype, device=device(matrix))


@final
@dataclass(frozen=True)
class PositiveSemidefiniteElement(Element):
    """D(H) = Q (Ω ∘ QᵀHQ) Qᵀ: the values are Ω's lower triangle, U is the congruence with Q."""

    vectors: Array  # Q, (..., blocks, n, n)

    def to_basis(self, h: Array) -> Array:
        q = self.vectors
        return matrix_to_svec(_transpose(q) @ svec_to_matrix(h, q.shape[-1]) @ q)

    def from_basis(self, h: Array) -> Array:
        q = self.vectors
        return matrix_to_svec(q @ svec_to_matrix(h, q.shape[-1]) @ _transpose(q))


def _transpose(matrix: Array) -> Array:
    return namespace(matrix).matrix_transpose(matrix)


@final
class PositiveSemidefinite(Cone):
    """Π(V) = Q max(Λ, 0) Qᵀ; Ω is 1 on pairs of positive eigenvalues, λᵢ/(λᵢ + |λⱼ|) on mixed ones, 0 on the others.

    At a kink (an eigenvalue 0) the pairs of zero eigenvalues get 0 by default.
    """

    def __init__(self, order: int) -> None:
        self.order = order

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        xp = namespace(v)
        eigenvalues, q = xp.linalg.eigh(svec_to_matrix(v, self.order))
        zero = xp.zeros_like(eigenvalues)
        positive = xp.where(eigenvalues > 0, eigenvalues, zero)
        negative = xp.where(eigenvalues < 0, -eigenvalues, zero)
        projection = matrix_to_svec((q * positive[..., None, :]) @ _transpose(q))
        low, high = self._omega(positive, negative)
        return projection, PositiveSemidefiniteElement(between(low, high, selection), q)

    def _omega(self, positive: Array, negative: Array) -> tuple[Array, Array]:
        """Ω's lower triangle from λ⁺ and λ⁻ (..., n), with 0 and with 1 on the pairs of zero eigenvalues."""
        xp = namespace(positive)
        # Ωᵢⱼ = max(λᵢ⁺, λⱼ⁺)/(max(λᵢ⁺, λⱼ⁺) + max(λᵢ⁻, λⱼ⁻)) covers all the cases but 0/0.
        top = xp.maximum(positive[..., :, None], positive[..., None, :])
        bottom = xp.maximum(negative[..., :, None], negative[..., None, :])
        total = top + bottom
        omega = top / xp.where(total > 0, total, xp.ones_like(total))
        to_vector = xp.asarray(_triangle(self.order)[0], device=device(positive))

        def triangle(h: Array) -> Array:
            return xp.take(xp.reshape(h, (*h.shape[:-2], self.order**2)), to_vector, axis=-1)

        return triangle(omega), triangle(xp.where(total > 0, omega, xp.ones_like(total)))

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        """Eigenvalues within the tolerance of 0 count as zero, and the pairs of them as 0 or 1."""
        xp = namespace(v)
        eigenvalues, q = xp.linalg.eigh(svec_to_matrix(v, self.order))
        near, zero = tolerance[..., None], xp.zeros_like(eigenvalues)
        positive = xp.where(eigenvalues > near, eigenvalues, zero)
        negative = xp.where(eigenvalues < -near, -eigenvalues, zero)
        low, high = (PositiveSemidefiniteElement(h, q) for h in self._omega(positive, negative))
        return Extremes(low, high, xp.min(xp.abs(eigenvalues), axis=-1))

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        """Q (Σₖ f[λᵢ, λₖ, λⱼ](ãᵢₖ c̃ₖⱼ + c̃ᵢₖ ãₖⱼ)) Qᵀ with ã = QᵀaQ and the second divided differences of f = max(·, 0).

        They vanish on eigenvalues of one sign; f[λ, μ, λ'] = −μ/((λ − μ)(λ' − μ)) for λ, λ' > 0 > μ, and
        f[μ, λ, μ'] = λ/((λ − μ)(λ − μ')). Source: Daleckii, Krein (1965).
        """
        xp = namespace(v)
        eigenvalues, q = xp.linalg.eigh(svec_to_matrix(v, self.order))
        plus = eigenvalues > 0
        minus = ~plus
        mixed = plus[..., :, None] & minus[..., None, :]
        difference = eigenvalues[..., :, None] - eigenvalues[..., None, :]
        one = xp.ones_like(difference)
        inverse = xp.where(mixed, 1 / xp.where(mixed, difference, one), 0 * one)  # (positive, negative) pairs only
        rows, columns = eigenvalues[..., :, None], eigenvalues[..., None, :]
        first, second = (_transpose(q) @ svec_to_matrix(h, self.order) @ q for h in (a, c))
        f, s = inverse * first, inverse * second
        upper = (f * -columns) @ _transpose(s)
        lower = _transpose(f) @ (rows * s)
        crossed = inverse * (rows * (f @ second + s @ first) - (first @ s + second @ f) * columns)
        total = upper + _transpose(upper) + lower + _transpose(lower) + crossed + _transpose(crossed)
        return matrix_to_svec(q @ total @ _transpose(q))
