"""Solving B t = r and Bᵀt = r in PyTorch, B = ∂F/∂z block-diagonal over N instances; t, r (K, N, n)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from conelayers.implicit.linear import Answer, answer_of, bicgstab, growth_is_regular, probes, target_of, unit
from conelayers.implicit.settings import GMRES, Dense, LinearSolver
from conelayers.implicit.torch.arrays import TENSORS

__all__ = ["matrix_of", "solve_dense", "solve_linear"]

Tensor = torch.Tensor
_Product = Callable[[Tensor], Tensor]  # (K, N, n) to (K, N, n)


def matrix_of(rows: _Product, like: Tensor) -> Tensor:
    """B (N, n, n) from products with Bᵀ; ``like`` is (N, n)."""
    count, n = like.shape
    identity = torch.eye(n, dtype=like.dtype, device=like.device)[:, None, :].expand(n, count, n)
    return rows(identity).transpose(0, 1)


def solve_linear(
    times: _Product,
    transposed_times: _Product,
    r: Tensor,
    settings: LinearSolver,
    *,
    transposed: bool,
    matrix: Tensor | None = None,
) -> Answer:
    """B⁻¹r, or B⁻ᵀr if ``transposed``, for K right-hand sides, by the settings' method.

    times, transposed_times: the products with B and with Bᵀ.
    matrix: B, if it is known.
    """
    apply = transposed_times if transposed else times
    if isinstance(settings, Dense):
        B = matrix_of(transposed_times, r[0]) if matrix is None else matrix
        t = solve_dense(B.mT if transposed else B, r)
    elif isinstance(settings, GMRES):
        t = _gmres(apply, r, settings)
    else:
        t = bicgstab(TENSORS, apply, r, settings)
    return answer_of(TENSORS, t, apply(t), r, settings)


def solve_dense(B: Tensor, r: Tensor) -> Tensor:
    """B⁻¹r by LU and one refinement, for B (N, n, n), r (K, N, n); infinite where B is singular by ``probes``."""
    if not B.numel():
        return r.clone()
    columns = r.permute(1, 2, 0)
    vectors, sizes = probes(TENSORS, B)
    LU, pivots, info = torch.linalg.lu_factor_ex(B)
    regular = (info == 0) & growth_is_regular(TENSORS, torch.linalg.lu_solve(LU, pivots, vectors), sizes)
    t = torch.linalg.lu_solve(LU, pivots, columns)
    t = t + torch.linalg.lu_solve(LU, pivots, columns - B @ t)
    return torch.where(regular[:, None, None], t, torch.inf).permute(2, 0, 1)


def _gmres(apply: _Product, r: Tensor, settings: GMRES) -> Tensor:
    """Arnoldi with Gram–Schmidt done twice; each cycle's least-squares problem by its SVD, breakdowns included."""
    target = target_of(TENSORS, r, settings.rtol)
    t, residual = torch.zeros_like(r), r
    products, last = 0, residual.norm(dim=-1)
    m = min(settings.restart, r.shape[-1])
    while products < settings.max_iter and bool((last > target).any()):
        size = residual.norm(dim=-1)
        basis = [unit(TENSORS, residual, size)]
        H = r.new_zeros(*r.shape[:-1], m + 1, m)
        for j in range(m):
            w = apply(basis[j])
            products += 1
            V = torch.stack(basis, dim=-2)
            before = w.norm(dim=-1)
            for _ in range(2):
                h = (V @ w[..., None])[..., 0]
                w = w - (h[..., None] * V).sum(-2)
                H[..., : j + 1, j] += h
            norm = w.norm(dim=-1)
            norm = torch.where(norm > 10 * torch.finfo(r.dtype).eps * before, norm, torch.zeros_like(norm))
            H[..., j + 1, j] = norm
            basis.append(unit(TENSORS, w, norm))
        rhs = torch.zeros_like(H[..., :1])
        rhs[..., 0, 0] = size
        y = torch.linalg.pinv(torch.nan_to_num(H)) @ rhs
        t = t + (y * torch.stack(basis[:m], dim=-2)).sum(-2)
        residual = r - apply(t)
        products += 1
        norm = residual.norm(dim=-1)
        if not bool((norm < 0.999 * last).any()):  # stagnation: further cycles change nothing
            break
        last = norm
    return t
