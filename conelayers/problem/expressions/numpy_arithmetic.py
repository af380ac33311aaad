"""NumPy's arithmetic, through autograd, whose arrays it differentiates and whose missing rules are added here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import autograd.numpy as anp
import numpy as np
from autograd.extend import defjvp, defvjp, notrace_primitive, primitive
from scipy.special import ndtr

from conelayers.problem.expressions.arithmetic import Array, pivot_floor

__all__ = ["NumpyArithmetic"]


@notrace_primitive
def _stop(x: np.ndarray) -> np.ndarray:
    return x


@primitive
def _take(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take(x, index, axis=1)


@primitive
def _scatter(values: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """out[:, index] += values."""
    out = np.zeros((values.shape[0], size), values.dtype)
    if np.bincount(index, minlength=1).max() <= 1:
        out[:, index] = values
    else:
        np.add.at(out.T, index, values.T)
    return out


defvjp(_take, lambda ans, x, index: lambda g: _scatter(g, index, x.shape[1]), argnums=(0,))
defjvp(_take, lambda g, ans, x, index: _take(g, index), argnums=(0,))
defvjp(_scatter, lambda ans, values, index, size: lambda g: _take(g, index), argnums=(0,))
defjvp(_scatter, lambda g, ans, values, index, size: _scatter(g, index, size), argnums=(0,))


@primitive
def _inverse(x: np.ndarray) -> np.ndarray:
    return np.linalg.inv(x)


def _transposed(x: Array) -> Array:
    return anp.swapaxes(x, -1, -2)


# d(X⁻¹) = −X⁻¹ dX X⁻¹; autograd's products of cotangents are bilinear, without a conjugate.
defvjp(_inverse, lambda ans, x: lambda g: -anp.matmul(_transposed(ans), anp.matmul(g, _transposed(ans))))
defjvp(_inverse, lambda g, ans, x: -anp.matmul(ans, anp.matmul(g, ans)))


@primitive
def _cholesky(x: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(x)
    pivots = np.square(np.abs(np.diagonal(factor, axis1=-2, axis2=-1)))
    if (pivots <= pivot_floor(x) * np.diagonal(x, axis1=-2, axis2=-1).real).any():
        raise np.linalg.LinAlgError
    return factor


def _cholesky_vjp(L: np.ndarray, x: np.ndarray) -> Any:
    """½ L⁻ᴴ(Φ + Φᴴ)L⁻¹ for Φ = LᴴL̄ below the diagonal, half of it on it; autograd's cotangents are conjugates."""
    inverse, half = np.linalg.inv(L), _half(L)

    def pull(g: Array) -> Array:
        inner = half * anp.matmul(_adjoint(L), anp.conj(g))
        return anp.conj(anp.matmul(_adjoint(inverse), anp.matmul((inner + _adjoint(inner)) / 2, inverse)))

    return pull


def _cholesky_jvp(g: Array, L: np.ndarray, x: np.ndarray) -> Array:
    inverse = np.linalg.inv(L)
    return anp.matmul(L, _half(L) * anp.matmul(inverse, anp.matmul(g, _adjoint(inverse))))


def _half(L: np.ndarray) -> np.ndarray:
    return np.tril(np.ones(L.shape[-2:])) - 0.5 * np.eye(L.shape[-1])


def _adjoint(x: Array) -> Array:
    return anp.conj(_transposed(x))


defvjp(_cholesky, _cholesky_vjp)
defjvp(_cholesky, _cholesky_jvp)


@primitive
def _normcdf(x: np.ndarray) -> np.ndarray:
    return ndtr(x)


def _normal_density(x: Array) -> Array:
    return anp.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


defvjp(_normcdf, lambda ans, x: lambda g: g * _normal_density(x))
defjvp(_normcdf, lambda g, ans, x: g * _normal_density(x))


@final
class NumpyArithmetic:
    """Arrays of NumPy, or those of autograd that stand for them."""

    real = staticmethod(anp.real)
    imag = staticmethod(anp.imag)
    conjugate = staticmethod(anp.conj)
    matmul = staticmethod(anp.matmul)
    maximum = staticmethod(anp.maximum)
    power = staticmethod(anp.power)
    where = staticmethod(anp.where)
    reshape = staticmethod(anp.reshape)
    permute = staticmethod(anp.transpose)
    expand = staticmethod(anp.broadcast_to)
    stop = staticmethod(_stop)
    take = staticmethod(_take)
    inverse = staticmethod(_inverse)
    cholesky = staticmethod(_cholesky)

    def constant(self, array: np.ndarray) -> np.ndarray:
        return array

    def elementwise(self, name: str, x: Array) -> Array:
        return _normcdf(x) if name == "normcdf" else getattr(anp, name)(x)

    def softplus(self, x: Array) -> Array:
        return anp.logaddexp(0.0, x)

    def join(self, parts: Sequence[Array], axis: int) -> Array:
        if any(anp.iscomplexobj(p) for p in parts):  # else a real part's cotangent would be complex
            parts = [p if anp.iscomplexobj(p) else p + 0j for p in parts]
        return anp.concatenate(list(parts), axis)

    def sum(self, x: Array, axes: tuple[int, ...]) -> Array:
        return anp.sum(x, axis=axes)

    def amax(self, x: Array) -> Array:
        return anp.max(x, axis=-1)

    def sort(self, x: Array) -> Array:
        flat = anp.reshape(x, (-1, x.shape[-1]))
        order = np.argsort(_stop(flat), axis=-1, kind="stable")
        return anp.reshape(flat[np.arange(order.shape[0])[:, None], order], x.shape)

    def eigh(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decomposition: Any = np.linalg.eigh(x)
        return decomposition.eigenvalues, decomposition.eigenvectors
