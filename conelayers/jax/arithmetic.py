"""The arithmetic of expressions (problem/expressions/arithmetic.py) over arrays of JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np

from conelayers.problem.expressions.arithmetic import pivot_floor

__all__ = ["JaxArithmetic"]

Array = jax.Array


@final
class JaxArithmetic:
    """Arrays of JAX, in the precision to which JAX is set."""

    def constant(self, array: np.ndarray) -> np.ndarray:
        # An array of NumPy belongs to no trace of JAX, and JAX takes it as it is.
        return array.astype(np.int32) if array.dtype == np.int64 else array

    def stop(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def elementwise(self, name: str, x: Array) -> Array:
        return jax.scipy.special.ndtr(x) if name == "normcdf" else getattr(jnp, name)(x)

    def power(self, x: Array, p: Array | float) -> Array:
        return jnp.power(x, p)

    def maximum(self, x: Array, y: Array) -> Array:
        return jnp.maximum(x, y)

    def softplus(self, x: Array) -> Array:
        return jnp.logaddexp(0.0, x)

    def where(self, mask: Array, x: Array | float, y: Array | float) -> Array:
        return jnp.where(mask, x, y)

    def real(self, x: Array) -> Array:
        return jnp.real(x)

    def imag(self, x: Array) -> Array:
        return jnp.imag(x)

    def conjugate(self, x: Array) -> Array:
        return jnp.conj(x)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return jnp.reshape(x, shape)

    def permute(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.transpose(x, axes)

    def expand(self, x: Array, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(x, shape)

    def take(self, x: Array, index: np.ndarray) -> Array:
        return jnp.asarray(x)[:, index]

    def join(self, parts: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(parts, axis)

    def sum(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.sum(x, axis=axes)

    def amax(self, x: Array) -> Array:
        return jnp.max(x, axis=-1)

    def sort(self, x: Array) -> Array:
        return jnp.sort(x, axis=-1)

    def matmul(self, x: Array, y: Array) -> Array:
        return jnp.matmul(x, y, precision="highest")

    def inverse(self, x: Array) -> Array:
        return jnp.linalg.inv(x)

    def cholesky(self, x: Array) -> Array:
        factor = jnp.linalg.cholesky(x)
        pivots, entries = (jnp.abs(jnp.diagonal(h, axis1=-2, axis2=-1)) for h in (factor, x))
        above = jnp.square(pivots) > pivot_floor(x) * entries
        factor = jnp.where(above.all(axis=-1)[..., None, None], factor, jnp.nan)
        if not isinstance(factor, jax.core.Tracer) and bool(jnp.isnan(factor).any()):
            raise np.linalg.LinAlgError
        return factor

    def eigh(self, x: Array) -> tuple[Array, Array]:
        w, V = jnp.linalg.eigh(x)
        return w, V
