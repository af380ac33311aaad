"""Certificates of roots and fixed points of functions written in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from conelayers.implicit.certificate import RootCertificate
from conelayers.implicit.certify import Kinks, Separable, certificate_of, check_arguments
from conelayers.implicit.settings import effective
from conelayers.implicit.singular_roots import judged
from conelayers.implicit.torch_equation import Equation, Products, pose
from conelayers.implicit.torch_linear import matrix_of

__all__ = ["certify_fixed_point", "certify_root"]

Tensor = torch.Tensor
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
    if torch._C._are_functorch_transforms_active():
        raise TypeError(
            f"{name}: got called under a transformation of torch.func, expected plain tensors: it reads the values of tensors; call it outside of "
            "grad, vmap, vjp and jvp"
        )
    with torch.no_grad():
        given = z
        equation, z, leaves = pose(name, function, given, theta, fixed, batched)
        leaves = [h.detach() for h in leaves]
        count, n = equation.sizes(z)
        F = _array(equation.residual(z, *leaves)).reshape(count, n)
        B = _matrices(equation, z, leaves)
        generator = np.random.default_rng(0)
        unknown = separable is None and not smooth
        nearby = [
            _matrices(equation, _moved(z, generator), [_moved(h, generator) for h in leaves])
            for _ in range(samples if unknown else 0)
        ]
        kinks = None if separable is None else _kinks(name, separable, given, theta, batched)
        points, eps = _array(z).reshape(count, n), torch.finfo(z.dtype).eps
        tolerance = effective(tol, eps)

        def at(Z: np.ndarray) -> Tensor:
            return torch.as_tensor(Z).to(z).reshape(z.shape)

        singular, arrived = judged(
            lambda Z: _array(equation.residual(at(Z), *leaves)).reshape(count, n),
            lambda Z: _matrices(equation, at(Z), leaves),
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


def _kinks(name: str, separable: Separable, given: Any, theta: tuple[Any, ...], batched: bool) -> list[Kinks]:
    equation, z, leaves = pose(name, separable.pre, given, theta, False, batched, letter="separable.pre")
    leaves = [h.detach() for h in leaves]
    count, n = equation.sizes(z)
    v = _array(equation.residual(z, *leaves)).reshape(count, n)
    W = _matrices(equation, z, leaves)
    activations = separable.activation.of_instances(tuple(z.shape), count)
    return [Kinks(*of_one) for of_one in zip(v, W, activations, strict=True)]


def _matrices(equation: Equation, z: Tensor, leaves: list[Tensor]) -> np.ndarray:
    """∂F/∂z, (N, n, n)."""
    products = Products(equation, z, leaves)
    return _array(matrix_of(products.transposed_times, z.reshape(equation.sizes(z))))


def _moved(h: Tensor, generator: np.random.Generator) -> Tensor:
    """A point nearby."""
    if not h.is_floating_point():
        return h
    size = _NEARBY * (1 + (h.abs().nan_to_num(0.0, 0.0).max() if h.numel() else 0.0))
    return h + size * torch.from_numpy(generator.standard_normal(h.shape)).to(h)


def _array(h: Tensor) -> np.ndarray:
    return h.detach().to(device="cpu", dtype=torch.float64).numpy()
