"""The arithmetic of expressions (problem/expressions/arithmetic.py) over tensors of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from conelayers.problem.expressions.arithmetic import pivot_floor

__all__ = ["TorchArithmetic"]

Tensor = torch.Tensor


@final
class TorchArithmetic:
    """Tensors on one device (the CPU by default), of double precision."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device

    def constant(self, array: np.ndarray) -> Tensor:
        # A tensor that is made under a transformation of torch.func cannot be used after the transformation has ended.
        with torch._C._DisableFuncTorch():
            return torch.tensor(array, device=self.device)

    def stop(self, x: Tensor) -> Tensor:
        return x.detach()

    def elementwise(self, name: str, x: Tensor) -> Tensor:
        return torch.special.ndtr(x) if name == "normcdf" else getattr(torch, name)(x)

    def power(self, x: Tensor, p: Tensor | float) -> Tensor:
        return torch.pow(x, p)

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.maximum(x, y)

    def softplus(self, x: Tensor) -> Tensor:
        return torch.logaddexp(torch.zeros_like(x), x)

    def where(self, mask: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
        return torch.where(mask, x, y)

    def real(self, x: Tensor) -> Tensor:
        return x.real if x.is_complex() else x

    def imag(self, x: Tensor) -> Tensor:
        return x.imag if x.is_complex() else torch.zeros_like(x)

    def conjugate(self, x: Tensor) -> Tensor:
        return x.conj()

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.reshape(shape)

    def permute(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return x.permute(axes)

    def expand(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.expand(shape)

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(1, index)

    def join(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(parts), dim=axis)

    def sum(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return x.sum(dim=axes)

    def amax(self, x: Tensor) -> Tensor:
        return x.amax(dim=-1)

    def sort(self, x: Tensor) -> Tensor:
        return x.sort(dim=-1).values

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        kind = torch.promote_types(x.dtype, y.dtype)
        return torch.matmul(x.to(kind), y.to(kind))

    def inverse(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)

    def cholesky(self, x: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(x)
        hidden = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        pivots, entries = (torch.diagonal(h, dim1=-2, dim2=-1).abs() for h in (factor, x))
        above = pivots.square() > pivot_floor(x) * entries
        definite = (info == 0) & above.all(dim=-1)
        if not hidden and not bool(definite.all()):
            raise np.linalg.LinAlgError
        return torch.where(definite[..., None, None], factor, torch.nan)

    def eigh(self, x: Tensor) -> tuple[Tensor, Tensor]:
        w, V = torch.linalg.eigh(x)
        return w, V
