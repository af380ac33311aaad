"""The positive semidefinite cones of symmetric and of Hermitian matrices in scaled-vector form.

Symmetric: the lower triangle, column by column, off-diagonals times √2. Hermitian: the same for the real part, then √2
times the imaginary part below the diagonal, column by column. Both preserve inner products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np

from conelayers.numerics.cones.arrays import Array, device, namespace
from conelayers.numerics.cones.cone import Cone, Element, Extremes
from conelayers.numerics.cones.selection import Selection, between

__all__ = [
    "HermitianPositiveSemidefinite",
    "PositiveSemidefinite",
    "PositiveSemidefiniteElement",
    "hermitian_to_svec",
    "matrix_to_svec",
    "svec_to_hermitian",
    "svec_to_matrix",
]


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


@cache
def _below(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions below the diagonal in a flattened n×n matrix, column by column, and the entry of each position in that
    list, signed.

    The second is 1 + the place below the diagonal, −1 − that of the mirror image above, 0 on it.
    """
    cols, rows = np.triu_indices(n, k=1)
    place = np.zeros((n, n), dtype=np.int64)
    place[rows, cols] = 1 + np.arange(rows.size)
    return rows * n + cols, (place - place.T).ravel()


def svec_to_hermitian(v: Array, n: int) -> Array:
    """The Hermitian matrix (..., n, n) of a scaled vector (..., n²)."""
    xp = namespace(v)
    size = n * (n + 1) // 2
    real = svec_to_matrix(v[..., :size], n)
    signed = _below(n)[1]
    zero = xp.zeros_like(v[..., :1])
    padded = xp.concat([zero, v[..., size:] / np.sqrt(2.0)], axis=-1)
    imaginary = xp.take(padded, xp.asarray(np.abs(signed), device=device(v)), axis=-1)
    imaginary = imaginary * xp.asarray(np.sign(signed), dtype=v.dtype, device=device(v))
    return real + 1j * xp.reshape(imaginary, (*v.shape[:-1], n, n))


def hermitian_to_svec(matrix: Array) -> Array:
    """The scaled vector (..., n²) of a Hermitian matrix (..., n, n); only its lower triangle is read."""
    xp = namespace(matrix)
    n = matrix.shape[-1]
    imaginary = xp.reshape(xp.imag(matrix), (*matrix.shape[:-2], n * n))
    below = xp.take(imaginary, xp.asarray(_below(n)[0], device=device(matrix)), axis=-1)
    return xp.concat([matrix_to_svec(xp.real(matrix)), below * np.sqrt(2.0)], axis=-1)


@final
@dataclass(frozen=True)
class PositiveSemidefiniteElement(Element):
    """D(H) = Q (Ω ∘ QᴴHQ) Qᴴ, Q complex for Hermitian matrices: the values are Ω's lower triangle, U is the congruence
    with Q.
    """

    vectors: Array  # Q, (..., blocks, n, n)

    def _read(self, h: Array) -> Array:
        q = self.vectors
        return svec_to_hermitian(h, q.shape[-1]) if _is_complex(q) else svec_to_matrix(h, q.shape[-1])

    def _write(self, matrix: Array) -> Array:
        return hermitian_to_svec(matrix) if _is_complex(self.vectors) else matrix_to_svec(matrix)

    def to_basis(self, h: Array) -> Array:
        q = self.vectors
        return self._write(_adjoint(q) @ self._read(h) @ q)

    def from_basis(self, h: Array) -> Array:
        q = self.vectors
        return self._write(q @ self._read(h) @ _adjoint(q))


def _is_complex(matrix: Array) -> bool:
    xp = namespace(matrix)
    return bool(xp.isdtype(matrix.dtype, "complex floating"))


def _adjoint(matrix: Array) -> Array:
    xp = namespace(matrix)
    transposed = xp.matrix_transpose(matrix)
    return xp.conj(transposed) if _is_complex(matrix) else transposed


class PositiveSemidefinite(Cone):
    """Π(V) = Q max(Λ, 0) Qᵀ; Ω is 1 on pairs of positive eigenvalues, λᵢ/(λᵢ + |λⱼ|) on mixed ones, 0 on the others.

    At a kink (an eigenvalue is 0) Ω is 0 by default on the pairs of zero eigenvalues.
    """

    def __init__(self, order: int) -> None:
        self.order = order

    def _read(self, v: Array) -> Array:
        """The matrices of scaled vectors."""
        return svec_to_matrix(v, self.order)

    def _write(self, matrix: Array) -> Array:
        """The scaled vectors of matrices."""
        return matrix_to_svec(matrix)

    def _pairs(self, omega: Array) -> Array:
        """The values for the entries of a scaled vector, from the values for the pairs of eigenvalues, (..., n, n)."""
        xp = namespace(omega)
        to_vector = xp.asarray(_triangle(self.order)[0], device=device(omega))
        return xp.take(xp.reshape(omega, (*omega.shape[:-2], self.order**2)), to_vector, axis=-1)

    def project_dual(self, v: Array, selection: Selection = Selection.DEFAULT) -> tuple[Array, Element]:
        xp = namespace(v)
        eigenvalues, q = xp.linalg.eigh(self._read(v))
        zero = xp.zeros_like(eigenvalues)
        positive = xp.where(eigenvalues > 0, eigenvalues, zero)
        negative = xp.where(eigenvalues < 0, -eigenvalues, zero)
        projection = self._write((q * positive[..., None, :]) @ _adjoint(q))
        low, high = self._omega(positive, negative)
        return projection, PositiveSemidefiniteElement(between(low, high, selection), q)

    def _omega(self, positive: Array, negative: Array) -> tuple[Array, Array]:
        """Ω's lower triangle from λ⁺ and λ⁻ (..., n): once with 0 and once with 1 on the pairs of zero eigenvalues."""
        xp = namespace(positive)
        # Ωᵢⱼ = max(λᵢ⁺, λⱼ⁺)/(max(λᵢ⁺, λⱼ⁺) + max(λᵢ⁻, λⱼ⁻)) covers all cases except 0/0.
        top = xp.maximum(positive[..., :, None], positive[..., None, :])
        bottom = xp.maximum(negative[..., :, None], negative[..., None, :])
        total = top + bottom
        omega = top / xp.where(total > 0, total, xp.ones_like(total))
        return self._pairs(omega), self._pairs(xp.where(total > 0, omega, xp.ones_like(total)))

    def extremes(self, v: Array, tolerance: Array) -> Extremes:
        """Eigenvalues within the tolerance of 0 count as zero; Ω is 0 or 1 on the pairs of them."""
        xp = namespace(v)
        eigenvalues, q = xp.linalg.eigh(self._read(v))
        near, zero = tolerance[..., None], xp.zeros_like(eigenvalues)
        positive = xp.where(eigenvalues > near, eigenvalues, zero)
        negative = xp.where(eigenvalues < -near, -eigenvalues, zero)
        low, high = (PositiveSemidefiniteElement(h, q) for h in self._omega(positive, negative))
        return Extremes(low, high, xp.min(xp.abs(eigenvalues), axis=-1))

    def second_derivative(self, v: Array, a: Array, c: Array) -> Array:
        """Q (Σₖ f[λᵢ, λₖ, λⱼ](ãᵢₖ c̃ₖⱼ + c̃ᵢₖ ãₖⱼ)) Qᵀ with ã = QᵀaQ and the second divided differences of f = max(·,
        0).

        They vanish on eigenvalues of one sign; f[λ, μ, λ'] = −μ/((λ − μ)(λ' − μ)) for λ, λ' > 0 > μ, and
        f[μ, λ, μ'] = λ/((λ − μ)(λ − μ')). Source: Daleckii, Krein (1965).
        """
        xp = namespace(v)
        eigenvalues, q = xp.linalg.eigh(self._read(v))
        plus = eigenvalues > 0
        minus = ~plus
        mixed = plus[..., :, None] & minus[..., None, :]
        difference = eigenvalues[..., :, None] - eigenvalues[..., None, :]
        one = xp.ones_like(difference)
        inverse = xp.where(mixed, 1 / xp.where(mixed, difference, one), 0 * one)  # (positive, negative) pairs only
        rows, columns = eigenvalues[..., :, None], eigenvalues[..., None, :]
        first, second = (_adjoint(q) @ self._read(h) @ q for h in (a, c))
        f, s = inverse * first, inverse * second
        upper = (f * -columns) @ _adjoint(s)
        lower = _adjoint(f) @ (rows * s)
        crossed = inverse * (rows * (f @ second + s @ first) - (first @ s + second @ f) * columns)
        total = upper + _adjoint(upper) + lower + _adjoint(lower) + crossed + _adjoint(crossed)
        return self._write(q @ total @ _adjoint(q))


@final
class HermitianPositiveSemidefinite(PositiveSemidefinite):
    """The positive semidefinite Hermitian matrices, with n² rows: Π(V) = Q max(Λ, 0) Qᴴ."""

    def _read(self, v: Array) -> Array:
        return svec_to_hermitian(v, self.order)

    def _write(self, matrix: Array) -> Array:
        return hermitian_to_svec(matrix)

    def _pairs(self, omega: Array) -> Array:
        xp = namespace(omega)
        below = xp.asarray(_below(self.order)[0], device=device(omega))
        imaginary = xp.take(xp.reshape(omega, (*omega.shape[:-2], self.order**2)), below, axis=-1)
        return xp.concat([super()._pairs(omega), imaginary], axis=-1)
