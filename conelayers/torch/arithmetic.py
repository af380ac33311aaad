"""torch's operations for expressions of parameters."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from conelayers.expressions import Arithmetic

__all__ = ["TORCH"]

Tensor = torch.Tensor
_NAMES = {"arcsinh": "asinh", "arctanh": "atanh", "power": "pow"}


@final
class _Torch:
    def constant(self, array: np.ndarray, like: Tensor) -> Tensor:
        dtype = like.real.dtype
        if np.iscomplexobj(array):
            dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
        return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=like.device)

    def stop(self, h: Tensor) -> Tensor:
        return h.detach()

    def elementwise(self, name: str, *h: Tensor) -> Tensor:
        return getattr(torch, _NAMES.get(name, name))(*h)

    def where(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.where(condition, a, b)

    def reduce(self, name: str, h: Tensor, axes: tuple[int, ...]) -> Tensor:
        function = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}[name]
        return function(h, dim=axes, keepdim=True) if axes else h

    def cumsum(self, h: Tensor, axis: int) -> Tensor:
        return torch.cumsum(h, axis)

    def ranks(self, h: Tensor) -> Tensor:
        return torch.argsort(torch.argsort(-h.detach(), dim=-1, stable=True), dim=-1).to(h.real.dtype)

    def reshape(self, h: Tensor, shape: tuple[int, ...]) -> Tensor:
        return h.reshape(shape)

    def transpose(self, h: Tensor, axes: tuple[int, ...]) -> Tensor:
        return h.permute(axes)

    def broadcast(self, h: Tensor, shape: tuple[int, ...]) -> Tensor:
        return h.expand(shape)

    def take(self, h: Tensor, index: np.ndarray) -> Tensor:
        return h.index_select(1, torch.tensor(index, device=h.device))

    def concatenate(self, parts: list[Tensor], axis: int) -> Tensor:
        dtype = parts[0].dtype
        for part in parts[1:]:
            dtype = torch.promote_types(dtype, part.dtype)
        return torch.cat([p.to(dtype) for p in parts], dim=axis)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        dtype = torch.promote_types(a.dtype, b.dtype)
        return a.to(dtype) @ b.to(dtype)

    def eigenvalues(self, h: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(h)

    def singular_values(self, h: Tensor) -> Tensor:
        return torch.linalg.svdvals(h)

    def inverse(self, h: Tensor) -> Tensor:
        return torch.linalg.inv(h)

    def log_determinant(self, h: Tensor) -> Tensor:
        return torch.linalg.slogdet(h)[1]

    def cholesky(self, h: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(h)
        hidden = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        if not hidden and bool((info != 0).any()):
            raise np.linalg.LinAlgError
        # Where that cannot be asked, NaN: the solve says which instances have it.
        return torch.where((info == 0)[..., None, None], factor, torch.nan)

    def real(self, h: Tensor) -> Tensor:
        return h.real if h.is_complex() else h

    def imag(self, h: Tensor) -> Tensor:
        return h.imag if h.is_complex() else torch.zeros_like(h)

    def conj(self, h: Tensor) -> Tensor:
        return h.conj()

    def is_complex(self, h: Tensor) -> bool:
        return h.is_complex()


TORCH: Arithmetic = _Torch()
