"""Which roots are singular (singular_roots.py), in JAX: a primitive, in which a vmap's axis counts instances.

The matrices that the test takes are made only where some instance is suspect; the test itself runs on the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from conelayers.implicit.equation import Equation
from conelayers.implicit.jax.equation import mapped
from conelayers.implicit.jax.linear import matrix_of, solve_dense
from conelayers.implicit.singular_roots import (
    FAR,
    NEAR,
    has_changed,
    message,
    suspects,
    tested,
    uncertainty,
    wider_probe,
)
from conelayers.support.errors import SingularDerivativeWarning

__all__ = ["singular_instances", "warn_of"]

Array = jax.Array
_singular = Primitive("conelayers_singular_root")
_singular.multiple_results = True


def singular_instances(equation: Equation, z: Array, leaves: Sequence[Array]) -> tuple[Array, Array]:
    """Which instances are at singular roots, and their B⁺ (…, n, n), zero for the others, with z's axes in front.

    A warning is issued for them.
    """
    z, leaves = jax.lax.stop_gradient((z, tuple(leaves)))
    return tuple(_singular.bind(z, *leaves, equation=equation.without_solver()))


def warn_of(equation: Equation, singular: Array) -> Array:
    """``singular`` (N,), after the host has warned if an instance is singular."""

    def told(flags: Any) -> np.ndarray:
        flags = np.asarray(flags)
        if flags.any():
            text = message(equation.options.name, np.flatnonzero(flags.ravel()).tolist(), flags.size > 1)
            warnings.warn(text, SingularDerivativeWarning, stacklevel=2)
        return flags

    kind = jax.ShapeDtypeStruct(singular.shape, singular.dtype)
    call = lambda flags: jax.pure_callback(told, kind, flags, vmap_method="broadcast_all")  # noqa: E731
    return jax.lax.cond(singular.any(), call, lambda flags: flags, singular)


def _test(z: Array, *leaves: Array, equation: Equation) -> tuple[Array, Array]:
    (count, n), dtype = equation.sizes(z), z.dtype  # no callback may hold a tracer
    flat = lambda Z: equation.residual(Z.reshape(z.shape), *leaves).reshape(count, n)  # noqa: E731
    Z = jnp.nan_to_num(z.reshape(count, n))
    points = jnp.isfinite(z.reshape(count, n)).all(1)
    matrix = lambda at: matrix_of(jax.linearize(flat, at)[1], at)  # noqa: E731
    eps = float(jnp.finfo(z.dtype).eps)
    steps = Z * jnp.asarray(wider_probe(eps, n), z.dtype)
    value = flat(Z)
    B = matrix(Z)
    noise = flat(Z + steps) - value - (B @ steps[..., None])[..., 0]
    dz, moved = jax.vmap(lambda h: solve_dense(B, h))(jnp.nan_to_num(jnp.stack([value, noise])))
    d = uncertainty(jnp, dz, moved)
    suspect = suspects(jnp, d, Z, points, eps)
    d = jnp.where(suspect[:, None], d, 0.0)
    ahead = solve_dense(B, jax.jvp(flat, (Z + FAR * d,), (d,))[1])
    suspect = suspect & has_changed(jnp, ahead, d)
    result = (jax.ShapeDtypeStruct((count,), bool), jax.ShapeDtypeStruct((count, n, n), z.dtype))

    def host(*arrays: Any) -> tuple[np.ndarray, np.ndarray]:
        given = [np.asarray(h, dtype=np.float64) for h in arrays]
        singular, inverse = tested(*given[:5])
        return singular & (given[5] > 0), inverse.astype(dtype)

    def looked(_: None) -> tuple[Array, Array]:
        near, far = matrix(Z + NEAR * d), matrix(Z + FAR * d)
        return jax.pure_callback(host, result, B, near, far, d, Z, suspect, vmap_method="sequential")

    none = lambda _: (jnp.zeros(count, bool), jnp.zeros((count, n, n), z.dtype))  # noqa: E731
    singular, inverse = jax.lax.cond(suspect.any(), looked, none, None)
    singular = warn_of(equation, singular)
    axes = z.shape[: equation.axes]
    return singular.reshape(axes), inverse.reshape(*axes, n, n)


def _shapes(z: Any, *leaves: Any, equation: Equation) -> list[Any]:
    axes, (_, n) = z.shape[: equation.axes], equation.sizes(z)
    return [jax.core.ShapedArray(axes, np.dtype(bool)), jax.core.ShapedArray((*axes, n, n), z.dtype)]


def _evaluated(z: Array, *leaves: Array, equation: Equation) -> list[Array]:
    return list(jax.jit(lambda *args: _test(*args, equation=equation))(z, *leaves))


def _constant(primals: Sequence[Any], tangents: Sequence[Any], *, equation: Equation) -> tuple[Any, Any]:
    out = _singular.bind(*primals, equation=equation)
    return out, [ad.Zero(jax.typeof(h).to_tangent_aval()) for h in out]


def _mapped(axis: Any, args: Sequence[Any], dims: Sequence[int | None], *, equation: Equation) -> tuple[Any, Any]:
    if all(d is None for d in dims):
        return _singular.bind(*args, equation=equation), (None, None)
    equation, args = mapped(equation, axis, args, dims)
    return _singular.bind(*args, equation=equation), (0, 0)


_singular.def_impl(_evaluated)
_singular.def_abstract_eval(_shapes)
mlir.register_lowering(
    _singular, mlir.lower_fun(lambda *args, equation: list(_test(*args, equation=equation)), multiple_results=True)
)
ad.primitive_jvps[_singular] = _constant
batching.fancy_primitive_batchers[_singular] = _mapped
