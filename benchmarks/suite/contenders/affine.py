"""The affine maps of a conic form as differentiable functions of torch tensors."""

from __future__ import annotations

from typing import Any, final

import scipy.sparse as sp
import torch

from benchmarks.suite.conic_form import ConicForm

__all__ = ["affine", "flatten", "unflatten"]


@final
class _Affine(torch.autograd.Function):
    """θ (B, p) ↦ θ Mᵀ (B, m) for a sparse matrix M."""

    @staticmethod
    def forward(ctx: Any, matrix: sp.csr_array, theta: torch.Tensor) -> torch.Tensor:
        ctx.matrix = matrix
        return torch.from_numpy((matrix @ theta.detach().numpy().T).T.copy())

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, torch.from_numpy((ctx.matrix.T @ cotangent.numpy().T).T.copy())


def affine(matrix: sp.csr_array, theta: torch.Tensor) -> torch.Tensor:
    return _Affine.apply(matrix, theta)


def flatten(form: ConicForm, tensors: list[torch.Tensor]) -> torch.Tensor:
    """θ (B, p) of a conic form, from tensors (B, *shape)."""
    batch = tensors[0].shape[0]
    width = form.q.shape[1]
    pieces: dict[int, torch.Tensor] = {
        column: t.reshape(batch, -1) if t.ndim < 3 else t.mT.reshape(batch, -1)
        for t, column in zip(tensors, form.columns, strict=True)
    }
    ordered = [pieces[column] for column in sorted(pieces)]
    used = sum(piece.shape[1] for piece in ordered)
    if used != width - 1:
        raise ValueError(f"the parameters have {used} entries, the conic form expects {width - 1}")
    return torch.cat([*ordered, ordered[0].new_ones(batch, 1)], 1)


def unflatten(flat: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(B, size), column-major, as (B, *shape)."""
    batch = flat.shape[0]
    return flat.reshape(batch, *shape) if len(shape) < 2 else flat.reshape(batch, *shape[::-1]).mT
