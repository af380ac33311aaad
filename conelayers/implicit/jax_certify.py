"""Certificates of roots and fixed points of functions written in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conelayers.implicit.certificate import RootCertificate
from conelayers.implicit.certify import Kinks, Separable, certificate_of, check_arguments
from conelayers.implicit.jax_equation import Equation, pose
from conelayers.implicit.jax_linear import matrix_of
from conelayers.implicit.settings import effective
from conelayers.implicit.singular_roots import judged

__all__ = ["certify_fixed_point", "certify_root"]

Array = jax.Array
_NEARBY = 1e-6  # of 1 + ‖·‖∞


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
    """Whether dz = −B⁻¹A dθ is justified at a root z of F(z, *theta) = 0; a tuple of certificates, one an instance, if ``batched``.

    The theorem asks for every element of the generalized Jacobian B to be invertible. separable: ``Separable(pre, activation)``
    where F = z − σ(pre(z, *theta)) with kinks coordinate by coordinate: all elements are tested (separable.py). smooth: F is
    differentiable near z, so that B is the only one. With neither, elements at ``samples`` points nearby are: the verdict is
    CHECKED at best. tol: the relative residual up to which z counts as a root. B is made as a matrix, (n, n) for each instance.
    Concrete arrays only, not under a transformation.

    Raises TypeError or ValueError for arguments that do not fit, a ``separable`` that describes another function among them.
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
    given = z
    equation, z, leaves = pose(name, function, given, theta, fixed, batched)
    count, n = equation.sizes(z)
    F = _array(equation.residual(z, *leaves)).reshape(count, n)
    matrices = jax.jit(lambda z, leaves: _matrices(equation, z, leaves))
    B = _array(matrices(z, leaves))
    generator = np.random.default_rng(0)
    unknown = separable is None and not smooth
    nearby = [
        _array(matrices(_moved(z, generator), tuple(_moved(h, generator) for h in leaves)))
        for _ in range(samples if unknown else 0)
    ]
    kinks = None
    if separable is not None:
        inner, _, values = pose(name, separable.pre, given, theta, False, batched, letter="separable.pre")
        v, W = _array(inner.residual(z, *values)).reshape(count, n), _array(_matrices(inner, z, values))
        activations = separable.activation.of_instances(z.shape, count)
        kinks = [Kinks(*of_one) for of_one in zip(v, W, activations, strict=True)]
    points, eps = _array(z).reshape(count, n), float(jnp.finfo(z.dtype).eps)
    tolerance = effective(tol, eps)
    at = lambda Z: jnp.asarray(Z, z.dtype).reshape(z.shape)  # noqa: E731
    singular, arrived = judged(
        lambda Z: _array(equation.residual(at(Z), *leaves)).reshape(count, n),
        lambda Z: _array(matrices(at(Z), leaves)),
        points,
        F,
        B,
        tolerance,
        eps,
    )
    made = tuple(
        certificate_of(
            name,
            F[i],
            points[i],
            B[i],
            tolerance,
            singular=bool(singular[i]),
            arrived=bool(arrived[i]),
            kinks=None if kinks is None else kinks[i],
            smooth=smooth,
            nearby=np.stack([h[i] for h in nearby]) if nearby else np.zeros((0, n, n)),
        )
        for i in range(count)
    )
    return made if batched else made[0]


def _matrices(equation: Equation, z: Array, leaves: tuple[Array, ...]) -> Array:
    """∂F/∂z, (N, n, n)."""
    count, n = equation.sizes(z)
    _, push = jax.linearize(lambda q: equation.residual(q, *leaves), z)
    return matrix_of(lambda h: push(h.reshape(z.shape)).reshape(count, n), z.reshape(count, n))


def _moved(h: Array, generator: np.random.Generator) -> Array:
    """A point nearby."""
    if not jnp.issubdtype(h.dtype, jnp.floating):
        return h
    size = _NEARBY * (1 + jnp.max(jnp.nan_to_num(jnp.abs(h), posinf=0.0), initial=0.0))
    return h + size * jnp.asarray(generator.standard_normal(h.shape), h.dtype)


def _array(h: Array) -> np.ndarray:
    return np.asarray(h, dtype=np.float64)
