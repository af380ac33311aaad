"""NumPy's arrays, differentiated by the package autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import autograd.numpy as anp
import numpy as np
from autograd import make_vjp
from autograd.builtins import tuple as autograd_tuple
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from conelayers.expressions.arithmetic import Arithmetic
from conelayers.expressions.nodes import Node, evaluate

__all__ = ["NUMPY", "pullback", "pushforward"]


def _adjoint(h: Any) -> Any:
    return anp.conj(anp.swapaxes(h, -1, -2))


@primitive
def _eigenvalues(h: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(h)


@primitive
def _singular_values(h: np.ndarray) -> np.ndarray:
    return np.linalg.svd(h, compute_uv=False)


def _eigenvalues_vjp(values: np.ndarray, h: np.ndarray) -> Callable[[Any], Any]:
    V = np.linalg.eigh(getval(h))[1]
    return lambda g: anp.conj(anp.matmul(V * g[..., None, :], _adjoint(V)))


def _singular_values_vjp(values: np.ndarray, h: np.ndarray) -> Callable[[Any], Any]:
    U, _, Vh = np.linalg.svd(getval(h), full_matrices=False)
    return lambda g: anp.conj(anp.matmul(U * g[..., None, :], Vh))


@primitive
def _cholesky(h: np.ndarray) -> np.ndarray:
    return np.linalg.cholesky(h)


def _cholesky_vjp(L: np.ndarray, h: np.ndarray) -> Callable[[Any], Any]:
    inverse = np.linalg.inv(getval(L))
    lower = np.tril(np.ones(L.shape[-2:])) - 0.5 * np.eye(L.shape[-1])

    def pull(g: Any) -> Any:
        inner = lower * anp.matmul(_adjoint(getval(L)), anp.conj(g))
        inner = (inner + _adjoint(inner)) / 2
        return anp.conj(anp.matmul(anp.matmul(_adjoint(inverse), inner), inverse))

    return pull


# autograd's gradients of complex arrays are the conjugates of ∂/∂Re + i ∂/∂Im. Vectors are not differentiated: first derivatives only.
defvjp(_eigenvalues, _eigenvalues_vjp)
defvjp(_singular_values, _singular_values_vjp)
defvjp(_cholesky, _cholesky_vjp)


@final
class _NumPy:
    def constant(self, array: np.ndarray, like: Any) -> Any:
        return array

    def stop(self, h: Any) -> Any:
        while hasattr(h, "_value"):
            h = getval(h)
        return h

    def elementwise(self, name: str, *h: Any) -> Any:
        return getattr(anp, name)(*h)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return anp.where(condition, a, b)

    def reduce(self, name: str, h: Any, axes: tuple[int, ...]) -> Any:
        return getattr(anp, name)(h, axis=axes, keepdims=True)

    def cumsum(self, h: Any, axis: int) -> Any:
        return anp.cumsum(h, axis)

    def ranks(self, h: Any) -> Any:
        return np.argsort(np.argsort(-self.stop(h), axis=-1, kind="stable"), axis=-1).astype(float)

    def reshape(self, h: Any, shape: tuple[int, ...]) -> Any:
        return anp.reshape(h, shape)

    def transpose(self, h: Any, axes: tuple[int, ...]) -> Any:
        return anp.transpose(h, axes)

    def broadcast(self, h: Any, shape: tuple[int, ...]) -> Any:
        return anp.broadcast_to(h, shape)

    def take(self, h: Any, index: np.ndarray) -> Any:
        return h[:, index]

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        return anp.concatenate(parts, axis)

    def matmul(self, a: Any, b: Any) -> Any:
        return anp.matmul(a, b)

    def eigenvalues(self, h: Any) -> Any:
        return _eigenvalues(h)

    def singular_values(self, h: Any) -> Any:
        return _singular_values(h)

    def inverse(self, h: Any) -> Any:
        return anp.linalg.inv(h)

    def log_determinant(self, h: Any) -> Any:
        return anp.linalg.slogdet(h)[1]

    def cholesky(self, h: Any) -> Any:
        return _cholesky(h)

    def real(self, h: Any) -> Any:
        return anp.real(h) if self.is_complex(h) else h

    def imag(self, h: Any) -> Any:
        return anp.imag(h) if self.is_complex(h) else h * 0

    def conj(self, h: Any) -> Any:
        return anp.conj(h) if self.is_complex(h) else h

    def is_complex(self, h: Any) -> bool:
        return bool(np.iscomplexobj(self.stop(h)))


NUMPY: Arithmetic = _NumPy()


def _function(nodes: Sequence[Node]) -> Callable[[Any], Any]:
    return lambda values: autograd_tuple(evaluate(nodes, values, NUMPY))


def _floats(values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(v, np.complex128 if np.iscomplexobj(v) else np.float64) for v in values)


def pullback(nodes: Sequence[Node], values: Sequence[np.ndarray], cotangents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The gradients of Re Σ ⟨cotangents, values of the nodes⟩ with respect to the parameters' values, in their shapes.

    Values and cotangents have a leading axis of length B or 1. Complex gradients and cotangents are ∂/∂Re + i ∂/∂Im.
    """
    pull, found = make_vjp(_function(nodes))(autograd_tuple(_floats(values)))
    given = tuple(np.conj(np.asarray(c, dtype=f.dtype)) for c, f in zip(cotangents, found, strict=True))
    return [np.conj(g) for g in pull(autograd_tuple(given))]


def pushforward(
    nodes: Sequence[Node], values: Sequence[np.ndarray], tangents: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The tangents of the nodes' values along those of the parameters: the pullback, which is linear, differentiated by its cotangents."""
    pull, found = make_vjp(_function(nodes))(autograd_tuple(_floats(values)))
    zero = autograd_tuple(tuple(np.zeros_like(f) for f in found))
    push, _ = make_vjp(pull)(zero)
    given = tuple(np.asarray(t, dtype=np.asarray(v).dtype) for t, v in zip(tangents, _floats(values), strict=True))
    return list(push(autograd_tuple(given)))
