"""B t = r and Bᵀt = r in PyTorch, B = ∂F/∂z block-diagonal over N instances: t, r (K, N, n), K right-hand sides for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import torch

from conelayers.implicit.settings import GMRES, MOST_GROWTH, BiCGStab, Dense, LinearSolver, effective

__all__ = ["Answer", "matrix_of", "solve_dense", "solve_linear"]

Tensor = torch.Tensor
_Product = Callable[[Tensor], Tensor]  # (K, N, n) to (K, N, n)


@final
class Answer(NamedTuple):
    """t (K, N, n), its relative residuals ‖B t − r‖/‖r‖ (K, N), and the tolerance they are held to."""

    t: Tensor
    residual: Tensor
    tolerance: float


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
    """``times`` is B's product, ``transposed_times`` Bᵀ's; matrix: B, where that is known."""
    apply = transposed_times if transposed else times
    if isinstance(settings, Dense):
        B = matrix_of(transposed_times, r[0]) if matrix is None else matrix
        t = solve_dense(B.mT if transposed else B, r)
    elif isinstance(settings, GMRES):
        t = _gmres(apply, r, settings)
    else:
        t = _bicgstab(apply, r, settings)
    # Single precision does not reach what double precision does.
    tolerance = effective(settings.rtol, torch.finfo(r.dtype).eps)
    if not isinstance(settings, Dense):
        tolerance *= 10
    elif r.dtype != torch.float64:
        tolerance = max(tolerance, 1e-3)
    return Answer(t, _relative(apply(t) - r, r), tolerance)


def solve_dense(B: Tensor, r: Tensor) -> Tensor:
    """By LU and one refinement, B (N, n, n), r (K, N, n); infinite where B is singular to working precision.

    A consistent right-hand side has a small residual even then, with a multiple of B's null vector in t. So B⁻¹ is applied to two
    fixed vectors too: with B's rows and columns scaled to 1, the results are as long as B is near to a singular matrix.
    """
    columns = r.permute(1, 2, 0)
    if not B.numel():
        return r.clone()
    rows = _scale(B.abs().amax(2))
    across = _scale((B.abs() / rows[..., None]).amax(1))
    angles = torch.arange(B.shape[-1], dtype=B.dtype, device=B.device).square()
    probes = rows[..., None] * torch.stack([angles.cos(), angles.sin()], dim=1)
    LU, pivots, info = torch.linalg.lu_factor_ex(B)
    growth = (across[..., None] * torch.linalg.lu_solve(LU, pivots, probes)).abs().amax((1, 2))
    t = torch.linalg.lu_solve(LU, pivots, columns)
    t = t + torch.linalg.lu_solve(LU, pivots, columns - B @ t)
    singular = (info > 0) | ~(growth <= MOST_GROWTH / torch.finfo(B.dtype).eps)
    t = torch.where(singular[:, None, None], torch.full_like(t, torch.inf), t)
    return t.permute(2, 0, 1)


def _scale(size: Tensor) -> Tensor:
    return torch.where((size > 0) & torch.isfinite(size), size, torch.ones_like(size))


def _relative(e: Tensor, r: Tensor) -> Tensor:
    size = r.norm(dim=-1)
    return torch.where(size > 0, e.norm(dim=-1) / torch.where(size > 0, size, torch.ones_like(size)), e.norm(dim=-1))


def _gmres(apply: _Product, r: Tensor, settings: GMRES) -> Tensor:
    """Arnoldi with the Gram–Schmidt process done twice; the least-squares problem of each cycle by its SVD, breakdowns included."""
    tolerance = effective(settings.rtol, torch.finfo(r.dtype).eps) if r.dtype != torch.float64 else settings.rtol
    target = tolerance * r.norm(dim=-1)
    t, residual = torch.zeros_like(r), r
    products, last = 0, residual.norm(dim=-1)
    m = min(settings.restart, r.shape[-1])
    while products < settings.max_iter and bool((last > target).any()):
        size = residual.norm(dim=-1)
        basis = [_unit(residual, size)]
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
            basis.append(_unit(w, norm))
        rhs = torch.zeros_like(H[..., :1])
        rhs[..., 0, 0] = size
        y = torch.linalg.pinv(torch.nan_to_num(H)) @ rhs
        t = t + (y * torch.stack(basis[:m], dim=-2)).sum(-2)
        residual = r - apply(t)
        products += 1
        norm = residual.norm(dim=-1)
        if not bool((norm < 0.999 * last).any()):  # stagnation: more cycles from here change nothing
            break
        last = norm
    return t


def _unit(h: Tensor, size: Tensor) -> Tensor:
    positive = (size > 0)[..., None]
    return torch.where(positive, h / torch.where(size > 0, size, torch.ones_like(size))[..., None], torch.zeros_like(h))


def _bicgstab(apply: _Product, r: Tensor, settings: BiCGStab) -> Tensor:
    tolerance = effective(settings.rtol, torch.finfo(r.dtype).eps) if r.dtype != torch.float64 else settings.rtol
    target = tolerance * r.norm(dim=-1)
    dot = lambda a, b: (a * b).sum(-1, keepdim=True)  # noqa: E731
    over = lambda a, b: torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, torch.ones_like(b), b))  # noqa: E731
    t, e = torch.zeros_like(r), r
    shadow, p, rho = r, r, dot(r, r)
    best, least = t, e.norm(dim=-1)
    for _ in range(settings.max_iter):
        Bp = apply(p)
        alpha = over(rho, dot(shadow, Bp))
        s = e - alpha * Bp
        Bs = apply(s)
        omega = over(dot(Bs, s), dot(Bs, Bs))
        t, e = t + alpha * p + omega * s, s - omega * Bs
        size = e.norm(dim=-1)
        better = size < least
        best, least = torch.where(better[..., None], t, best), torch.where(better, size, least)
        if bool((least <= target).all()):
            break
        before, rho = rho, dot(shadow, e)
        p = e + over(rho, before) * over(alpha, omega) * (p - omega * Bp)
    return best
