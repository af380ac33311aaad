"""The array operations that expressions are made of: NumPy's names and meaning, from a framework's own functions."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Arithmetic"]


class Arithmetic(Protocol):
    """Arrays as of NumPy; every operation is differentiated by the framework, and none changes its arguments."""

    def constant(self, array: np.ndarray, like: Any) -> Any:
        """The array in the precision, and on the device, of ``like``."""

    def stop(self, h: Any) -> Any:
        """h as a constant."""

    def elementwise(self, name: str, *h: Any) -> Any:
        """NumPy's function of this name: exp, log, log1p, sqrt, abs, sin, …, maximum, minimum, power, logaddexp."""

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """Elementwise choice."""

    def reduce(self, name: str, h: Any, axes: tuple[int, ...]) -> Any:
        """Sum, max or min over ``axes``, which stay with length 1; a maximum's gradient is a convex combination of those of its ties."""

    def cumsum(self, h: Any, axis: int) -> Any:
        """Partial sums."""

    def ranks(self, h: Any) -> Any:
        """The place of each entry, along the last axis, in descending order, as numbers; a constant."""

    def reshape(self, h: Any, shape: tuple[int, ...]) -> Any:
        """Row by row."""

    def transpose(self, h: Any, axes: tuple[int, ...]) -> Any:
        """Axes exchanged."""

    def broadcast(self, h: Any, shape: tuple[int, ...]) -> Any:
        """To a shape that it fits."""

    def take(self, h: Any, index: np.ndarray) -> Any:
        """h (B, n) at these columns."""

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        """Joined along an axis."""

    def matmul(self, a: Any, b: Any) -> Any:
        """Of stacks of matrices, broadcast."""

    def eigenvalues(self, h: Any) -> Any:
        """Of stacks of Hermitian matrices, ascending; differentiable also where some are equal."""

    def singular_values(self, h: Any) -> Any:
        """Of stacks of matrices."""

    def inverse(self, h: Any) -> Any:
        """Of stacks of matrices."""

    def log_determinant(self, h: Any) -> Any:
        """log|det| of stacks of matrices."""

    def cholesky(self, h: Any) -> Any:
        """The lower factor of stacks of Hermitian positive definite matrices; ValueError, or NaN under compilation, where one is not."""

    def real(self, h: Any) -> Any:
        """Real part."""

    def imag(self, h: Any) -> Any:
        """Imaginary part, zero of a real array."""

    def conj(self, h: Any) -> Any:
        """Complex conjugate."""

    def is_complex(self, h: Any) -> bool:
        """Whether its dtype is."""
