"""What the evaluation of an expression asks of a framework of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

__all__ = ["Arithmetic", "Array", "pivot_floor", "precision"]

Array = Any  # of the framework


def precision(x: Array) -> np.finfo:
    """The machine's numbers for the array, by its dtype's name, which is NumPy's in every framework."""
    return np.finfo(np.float32 if any(name in str(x.dtype) for name in ("float32", "complex64")) else np.float64)


def pivot_floor(x: Array) -> float:
    """The part of its diagonal entry below which a pivot of the matrices x is one of rounding errors."""
    return float(precision(x).eps) ** 0.75


class Arithmetic(Protocol):
    """A framework's differentiable operations; + − * /, comparisons, slices and ``shape`` are those of its arrays."""

    def constant(self, array: np.ndarray) -> Array:
        """The array as the framework's constant, whatever transformation is under way."""

    def stop(self, x: Array) -> Array:
        """The value of x, as a constant to every derivative."""

    def elementwise(self, name: str, x: Array) -> Array:
        """The function that NumPy calls by that name, entry by entry; also normcdf."""

    def power(self, x: Array, p: Array | float) -> Array:
        """x to the power of p."""

    def maximum(self, x: Array, y: Array) -> Array:
        """The larger one, entry by entry; a convex combination of both derivatives where they are equal."""

    def softplus(self, x: Array) -> Array:
        """log(1 + exp x)."""

    def where(self, mask: Array, x: Array | float, y: Array | float) -> Array:
        """x where the mask holds, y elsewhere; an array has the mask's shape."""

    def real(self, x: Array) -> Array:
        """The real part, real."""

    def imag(self, x: Array) -> Array:
        """The imaginary part, real."""

    def conjugate(self, x: Array) -> Array:
        """The complex conjugate."""

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        """Row-major."""

    def permute(self, x: Array, axes: tuple[int, ...]) -> Array:
        """Axis i of the result is axis axes[i] of x."""

    def expand(self, x: Array, shape: tuple[int, ...]) -> Array:
        """Axes of length 1 repeated; the number of axes stays."""

    def take(self, x: Array, index: Array) -> Array:
        """x[:, index] for x (b, n)."""

    def join(self, parts: Sequence[Array], axis: int) -> Array:
        """Concatenation."""

    def sum(self, x: Array, axes: tuple[int, ...]) -> Array:
        """The sum over one or more axes."""

    def amax(self, x: Array) -> Array:
        """The largest along the last axis; a convex combination of derivatives where it is attained more than once."""

    def sort(self, x: Array) -> Array:
        """Ascending along the last axis."""

    def matmul(self, x: Array, y: Array) -> Array:
        """The product of matrices, real and complex ones mixed."""

    def inverse(self, x: Array) -> Array:
        """Of square matrices."""

    def cholesky(self, x: Array) -> Array:
        """The lower factors of Hermitian positive definite matrices; for others LinAlgError, or NaN if they are traced.

        Pivots below ``pivot_floor`` count as zero: rounding makes singular matrices definite.
        """

    def eigh(self, x: Array) -> tuple[Array, Array]:
        """Ascending eigenvalues and the eigenvectors of Hermitian matrices; never differentiated."""
