"""Which roots are singular (singular_roots.py), for plain tensors; matrices are made if some instance is suspect."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple, final

import torch

from conelayers.implicit.equation import Equation
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
from conelayers.implicit.torch.linear import matrix_of, solve_dense
from conelayers.implicit.torch.products import Products
from conelayers.support.errors import SingularDerivativeWarning

__all__ = ["SingularRoots", "singular_roots", "warn_of"]

Tensor = torch.Tensor


@final
class SingularRoots(NamedTuple):
    """Which instances are at singular roots (N,), and the least-squares B⁺ (N, n, n) of those, zero for the others."""

    where: Tensor
    inverse: Tensor


def warn_of(equation: Equation, singular: Tensor) -> None:
    """Warn that the roots of these instances (N,) are singular."""
    indices = torch.nonzero(singular)[:, 0].tolist()
    text = message(equation.options.name, indices, len(singular) > 1)
    warnings.warn(text, SingularDerivativeWarning, stacklevel=2)


def singular_roots(
    equation: Equation, products: Products, z: Tensor, leaves: Sequence[Tensor], B: Tensor, points: Tensor
) -> SingularRoots | None:
    """The singular roots among the finite ``points`` (N,), with B (N, n, n) at z; None if there is none."""
    if not bool(points.any()):
        return None
    (count, n), eps = equation.sizes(z), torch.finfo(z.dtype).eps
    flat = lambda Z: equation.residual(Z.reshape(z.shape), *leaves).reshape(count, n)  # noqa: E731
    Z = torch.where(points[:, None], z.reshape(count, n), 0.0)
    value = flat(Z)
    steps = Z * torch.as_tensor(wider_probe(eps, n)).to(z)
    right = torch.nan_to_num(torch.stack([value, flat(Z + steps) - value - products.times(steps[None])[0]]))
    B = torch.where(points[:, None, None], B, 0.0)
    d = uncertainty(torch, *solve_dense(B, right))
    suspect = suspects(torch, d, Z, points, eps)
    if not bool(suspect.any()):
        return None
    d = torch.where(suspect[:, None], d, 0.0)
    ahead = Products(equation, (Z + FAR * d).reshape(z.shape), leaves).times(d[None])
    if not bool(has_changed(torch, solve_dense(B, ahead)[0], d).any()):
        return None
    near, far = (
        matrix_of(Products(equation, (Z + a * d).reshape(z.shape), leaves).transposed_times, Z) for a in (NEAR, FAR)
    )
    singular, inverse = tested(*(h.detach().cpu().numpy() for h in (B, near, far, d, Z)))
    if not (singular & points.cpu().numpy()).any():
        return None
    return SingularRoots(torch.as_tensor(singular, device=z.device) & points, torch.as_tensor(inverse).to(z))
