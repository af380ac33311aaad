"""JAX's operations for expressions of parameters."""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from conelayers.expressions import Arithmetic

__all__ = ["JAX"]


@final
class _Jax:
    def constant(self, array: np.ndarray, like: Any) -> Any:
        dtype = jnp.finfo(jnp.result_type(like, jnp.float32)).dtype
        return jnp.asarray(array, jnp.result_type(dtype, jnp.complex64) if np.iscomplexobj(array) else dtype)

    def stop(self, h: Any) -> Any:
        return jax.lax.stop_gradient(h)

    def elementwise(self, name: str, *h: Any) -> Any:
        return getattr(jnp, name)(*h)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return jnp.where(condition, a, b)

    def reduce(self, name: str, h: Any, axes: tuple[int, ...]) -> Any:
        return getattr(jnp, name)(h, axis=axes, keepdims=True)

    def cumsum(self, h: Any, axis: int) -> Any:
        return jnp.cumsum(h, axis)

    def ranks(self, h: Any) -> Any:
        return jnp.argsort(jnp.argsort(-self.stop(h), axis=-1, stable=True), axis=-1).astype(h.dtype)

    def reshape(self, h: Any, shape: tuple[int, ...]) -> Any:
        return jnp.reshape(h, shape)

    def transpose(self, h: Any, axes: tuple[int, ...]) -> Any:
        return jnp.transpose(h, axes)

    def broadcast(self, h: Any, shape: tuple[int, ...]) -> Any:
        return jnp.broadcast_to(h, shape)

    def take(self, h: Any, index: np.ndarray) -> Any:
        return h[:, index]

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        return jnp.concatenate(parts, axis)

    def matmul(self, a: Any, b: Any) -> Any:
        return jnp.matmul(a, b, precision="highest")

    def eigenvalues(self, h: Any) -> Any:
        return jnp.linalg.eigvalsh(h)

    def singular_values(self, h: Any) -> Any:
        return jnp.linalg.svd(h, compute_uv=False)

    def inverse(self, h: Any) -> Any:
        return jnp.linalg.inv(h)

    def log_determinant(self, h: Any) -> Any:
        return jnp.linalg.slogdet(h)[1]

    def cholesky(self, h: Any) -> Any:
        factor = jnp.linalg.cholesky(h)
        if not isinstance(factor, jax.core.Tracer) and bool(jnp.isnan(factor).any()):
            raise np.linalg.LinAlgError
        return factor

    def real(self, h: Any) -> Any:
        return jnp.real(h)

    def imag(self, h: Any) -> Any:
        return jnp.imag(h)

    def conj(self, h: Any) -> Any:
        return jnp.conj(h)

    def is_complex(self, h: Any) -> bool:
        return bool(jnp.iscomplexobj(h))


JAX: Arithmetic = _Jax()
