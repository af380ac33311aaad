"""Certificates of roots and fixed points of functions written in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from conelayers.implicit.certificate import RootCertificate
from conelayers.implicit.certify import EquationAtPoint, Separable, certificates, check_arguments, distance_moved
from conelayers.implicit.options import Options
from conelayers.implicit.torch.equation import pose
from conelayers.implicit.torch.linear import matrix_of
from conelayers.implicit.torch.products import Products

__all__ = ["certify_fixed_point", "certify_root"]

Tensor = torch.Tensor


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

    The theorem asks for every element of the generalized Jacobian B to be invertible.

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
    if torch._C._are_functorch_transforms_active():
        raise TypeError(
            f"{name}: got called under a transformation of torch.func, expected plain tensors: it reads the values of "
            "tensors; call it outside of grad, vmap, vjp and jvp"
        )
    with torch.no_grad():
        equation = _at_point(Options(name, fixed, batched), function, z, theta)
        of_pre = Options(name, False, batched, letter="separable.pre")
        pre = lambda function: _at_point(of_pre, function, z, theta)  # noqa: E731
        made = certificates(name, equation, pre, separable, smooth, tol, samples)
    return made if batched else made[0]


def _at_point(options: Options, function: Callable[..., Any], z: Any, theta: tuple[Any, ...]) -> EquationAtPoint:
    equation, z, leaves = pose(options, function, z, theta)
    leaves = [h.detach() for h in leaves]
    count, n = equation.sizes(z)

    def matrices(z: Tensor, leaves: list[Tensor]) -> np.ndarray:
        products = Products(equation, z, leaves)
        return _array(matrix_of(products.transposed_times, z.reshape(count, n)))

    def tensor(Z: np.ndarray) -> Tensor:
        return torch.as_tensor(Z).to(z).reshape(z.shape)

    return EquationAtPoint(
        z=_array(z).reshape(count, n),
        shape=tuple(z.shape),
        rounding=torch.finfo(z.dtype).eps,
        values=lambda Z: _array(equation.residual(tensor(Z), *leaves)).reshape(count, n),
        matrices=lambda Z: matrices(tensor(Z), leaves),
        matrices_nearby=lambda generator: matrices(_moved(z, generator), [_moved(h, generator) for h in leaves]),
    )


def _moved(h: Tensor, generator: np.random.Generator) -> Tensor:
    """h at a point nearby, to which the generator moves it."""
    if not h.is_floating_point():
        return h
    size = distance_moved(h.abs().nan_to_num(0.0, 0.0).max() if h.numel() else 0.0)
    return h + size * torch.from_numpy(generator.standard_normal(h.shape)).to(h)


def _array(h: Tensor) -> np.ndarray:
    return h.detach().to(device="cpu", dtype=torch.float64).numpy()
