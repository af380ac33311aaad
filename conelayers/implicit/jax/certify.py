"""Certificates of roots and fixed points of functions written in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conelayers.implicit.certificate import RootCertificate
from conelayers.implicit.certify import EquationAtPoint, Separable, certificates, check_arguments, distance_moved
from conelayers.implicit.jax.equation import pose
from conelayers.implicit.jax.linear import matrix_of
from conelayers.implicit.options import Options

__all__ = ["certify_fixed_point", "certify_root"]

Array = jax.Array


def certify_root(
    F: Callable[..., Any],
    z: Any,
    *theta: Any,
    separable: Separable | None = None,
    smooth: bool = False,
    batched: bool = False,
    tol: float = 1e-8,
    samples: int = 8,
) -> RootCertificate | tuple[RootCertificate, ...]:
    """Whether dz = −B⁻¹A dθ is justified at a root z of F(z, *theta) = 0; if ``batched``, one certificate an instance.

    The theorem asks for every element of the generalized Jacobian B to be invertible. z and theta are concrete arrays:
    no transformation can be active.

    separable: ``Separable(pre, activation)`` where F = z − σ(pre(z, *theta)) has its kinks coordinate by coordinate;
    every element is tested then (conelayers.implicit.separable).
    smooth: whether F is differentiable near z, so that B is the only element.
    batched: whether the leading axis of z counts instances. B is made as a matrix (n, n) for each.
    tol: the relative residual up to which z counts as a root.
    samples: how many elements at points nearby are tested where neither separable nor smooth is given; the verdict is
    CHECKED at best then.

    Raises TypeError or ValueError for arguments that do not fit, also for a ``separable`` that describes another
    function.
    """
    return _certified("certify_root", F, z, theta, False, separable, smooth, batched, tol, samples)


def certify_fixed_point(
    f: Callable[..., Any],
    z: Any,
    *theta: Any,
    separable: Separable | None = None,
    smooth: bool = False,
    batched: bool = False,
    tol: float = 1e-8,
    samples: int = 8,
) -> RootCertificate | tuple[RootCertificate, ...]:
    """``certify_root`` for z = f(z, *theta), with B = ∂f/∂z − I; ``separable`` where f = σ(pre(z, *theta))."""
    return _certified("certify_fixed_point", f, z, theta, True, separable, smooth, batched, tol, samples)


def _certified(
    name: str,
    function: Callable[..., Any],
    z: Any,
    theta: tuple[Any, ...],
    fixed: bool,
    separable: Separable | None,
    smooth: bool,
    batched: bool,
    tol: float,
    samples: int,
) -> RootCertificate | tuple[RootCertificate, ...]:
    check_arguments(name, separable, tol, samples, smooth, batched)
    if any(isinstance(h, jax.core.Tracer) for h in jax.tree.leaves((z, theta))):
        raise TypeError(f"{name}: got a traced array, expected concrete ones; call it outside of jit, grad and vmap")
    equation = _at_point(Options(name, fixed, batched), function, z, theta, jax.jit)
    of_pre = Options(name, False, batched, letter="separable.pre")
    # The matrix of pre is computed only once, so that a compilation would not pay.
    pre = lambda function: _at_point(of_pre, function, z, theta, lambda matrices: matrices)  # noqa: E731
    made = certificates(name, equation, pre, separable, smooth, tol, samples)
    return made if batched else made[0]


def _at_point(
    options: Options,
    function: Callable[..., Any],
    z: Any,
    theta: tuple[Any, ...],
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> EquationAtPoint:
    equation, z, leaves = pose(options, function, z, theta)
    count, n = equation.sizes(z)

    @compiled
    def matrices(z: Array, leaves: tuple[Array, ...]) -> Array:
        _, push = jax.linearize(lambda q: equation.residual(q, *leaves), z)
        return matrix_of(lambda h: push(h.reshape(z.shape)).reshape(count, n), z.reshape(count, n))

    def array(Z: np.ndarray) -> Array:
        return jnp.asarray(Z, z.dtype).reshape(z.shape)

    def matrices_nearby(generator: np.random.Generator) -> np.ndarray:
        return _array(matrices(_moved(z, generator), tuple(_moved(h, generator) for h in leaves)))

    return EquationAtPoint(
        z=_array(z).reshape(count, n),
        shape=z.shape,
        rounding=float(jnp.finfo(z.dtype).eps),
        values=lambda Z: _array(equation.residual(array(Z), *leaves)).reshape(count, n),
        matrices=lambda Z: _array(matrices(array(Z), leaves)),
        matrices_nearby=matrices_nearby,
    )


def _moved(h: Array, generator: np.random.Generator) -> Array:
    """h at a point nearby, to which the generator moves it."""
    if not jnp.issubdtype(h.dtype, jnp.floating):
        return h
    size = distance_moved(jnp.max(jnp.nan_to_num(jnp.abs(h), posinf=0.0), initial=0.0))
    return h + size * jnp.asarray(generator.standard_normal(h.shape), h.dtype)


def _array(h: Array) -> np.ndarray:
    return np.asarray(h, dtype=np.float64)
