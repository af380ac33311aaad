"""Solving z = f(z) and F(z) = 0 in PyTorch for a batch of instances z (N, n), each with its own convergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import torch

from conelayers.implicit.settings import Anderson, Newton, Picard

__all__ = ["Point", "fixed_point_of", "newton_root", "relative_residual"]

Tensor = torch.Tensor
_Map = Callable[[Tensor], Tensor]
_RIDGE = 1e-14  # on rows of unit length
_HALVINGS = 12
_DIVERGED = 1e3


@final
class Point(NamedTuple):
    """The best z (N, n) that was met, and its relative residual (N,)."""

    z: Tensor
    residual: Tensor


def relative_residual(F: Tensor, z: Tensor) -> Tensor:
    """‖F‖∞/(1 + ‖z‖∞) for F, z (N, n), infinite where it is not a number."""
    r = F.abs().amax(1) / (1 + z.abs().amax(1)) if z.shape[1] else F.new_zeros(F.shape[0])
    return torch.where(torch.isfinite(r), r, torch.full_like(r, torch.inf))


def fixed_point_of(f: _Map, z0: Tensor, settings: Anderson | Picard, tolerance: float) -> Point:
    """By Anderson acceleration and, for those that it left, plain iteration; or by plain iteration alone."""
    if isinstance(settings, Picard):
        return _picard(
            f, Point(z0, z0.new_full((z0.shape[0],), torch.inf)), settings.max_iter, settings.damping, tolerance
        )
    best = _anderson(f, z0, settings, tolerance)
    if not bool((best.residual <= tolerance).all()):
        best = _picard(f, best, settings.max_iter, 1.0, tolerance)
    return _mapped(f, best, tolerance)


def _mapped(f: _Map, best: Point, tolerance: float) -> Point:
    """f(z) where that is a solution too: unlike a combination of points it has f's zeros, and lies where f maps to."""
    z = f(best.z)
    residual = relative_residual(f(z) - z, z)
    better = residual <= tolerance
    return Point(torch.where(better[:, None], z, best.z), torch.where(better, residual, best.residual))


def _better(best: Point, z: Tensor, residual: Tensor) -> Point:
    improved = residual < best.residual
    return Point(torch.where(improved[:, None], z, best.z), torch.where(improved, residual, best.residual))


def _picard(f: _Map, start: Point, steps: int, damping: float, tolerance: float) -> Point:
    best, z = start, start.z
    for _ in range(steps):
        g = f(z) - z
        best = _better(best, z, relative_residual(g, z))
        done = best.residual <= tolerance
        if bool(done.all()) or not bool(torch.isfinite(z[~done]).any()):
            break
        z = torch.where(done[:, None], z, z + damping * g)
    return best


def _anderson(f: _Map, z0: Tensor, settings: Anderson, tolerance: float) -> Point:
    """With g = f − z: γ minimizes ‖g − Σ γᵢ Δgᵢ‖, and z ← z + βg − Σ γᵢ (Δzᵢ + βΔgᵢ), Δ the differences to earlier points."""
    z, beta, count = z0, settings.damping, z0.shape[0]
    best = Point(z0, z0.new_full((z0.shape[0],), torch.inf))
    points: list[tuple[Tensor, Tensor]] = []
    live = torch.ones(0, count, dtype=torch.bool, device=z.device)  # which points of the memory an instance may use
    for _ in range(settings.max_iter):
        g = f(z) - z
        residual = relative_residual(g, z)
        best = _better(best, z, residual)
        done = best.residual <= tolerance
        if bool(done.all()):
            break
        lost = ~(residual <= _DIVERGED * best.residual)
        if bool(lost.any()):  # back to the best point, with an empty memory
            z = torch.where(lost[:, None], best.z, z)
            g = torch.where(lost[:, None], f(z) - z, g)
            live = live & ~lost
        step = beta * g
        if points:
            Z, G = (torch.stack(h) for h in zip(*points, strict=True))  # (j, N, n)
            dz, dg = ((h - H).transpose(0, 1) for h, H in ((z, Z), (g, G)))
            usable = (live & torch.isfinite(Z).all(2) & torch.isfinite(G).all(2)).transpose(0, 1)
            size = dg.norm(dim=2)
            usable = usable & (size > 0)
            scale = torch.where(usable, 1 / torch.where(usable, size, torch.ones_like(size)), torch.zeros_like(size))
            rows = torch.where(usable[..., None], dg, torch.zeros_like(dg)) * scale[..., None]
            gram = rows @ rows.mT
            ridge = max(_RIDGE, torch.finfo(z.dtype).eps)
            gram = gram + torch.diag_embed(torch.where(usable, ridge, 1.0).to(z.dtype))
            factor = torch.linalg.cholesky_ex(gram)[0]
            gamma = torch.cholesky_solve((rows @ g[..., None]), factor)[..., 0] * scale
            dz = torch.where(usable[..., None], dz, torch.zeros_like(dz))
            mixed = step - (gamma[..., None] * (dz + beta * rows * size[..., None])).sum(1)
            step = torch.where(torch.isfinite(mixed).all(1, keepdim=True), mixed, step)
        points = [*points, (z, g)][-settings.memory :]
        live = torch.cat([live, torch.ones(1, count, dtype=torch.bool, device=z.device)])[-settings.memory :]
        z = torch.where(done[:, None], z, z + step)
    return best


def newton_root(
    F: _Map, step: Callable[[Tensor, Tensor], Tensor], z0: Tensor, settings: Newton, tolerance: float
) -> Point:
    """``step(z, F(z))`` is B⁻¹F. The longest of the steps 1, ½, ¼, … that lowers ‖F‖ enough is taken; the best of them where none does."""
    z, value = z0, F(z0)
    best = _better(Point(z0, z0.new_full((z0.shape[0],), torch.inf)), z, relative_residual(value, z))
    for _ in range(settings.max_iter):
        done = best.residual <= tolerance
        if bool(done.all()):
            break
        dz = step(z, value)
        size = value.norm(dim=1)
        chosen, chosen_value, chosen_size = z, value, torch.full_like(size, torch.inf)
        accepted, t = done, 1.0
        for _ in range(_HALVINGS):
            trial = torch.where(accepted[:, None], z, z - t * dz)
            trial_value = F(trial)
            norm = trial_value.norm(dim=1)
            norm = torch.where(torch.isfinite(norm), norm, torch.full_like(norm, torch.inf))
            better = ~accepted & (norm < chosen_size)
            chosen = torch.where(better[:, None], trial, chosen)
            chosen_value = torch.where(better[:, None], trial_value, chosen_value)
            chosen_size = torch.where(better, norm, chosen_size)
            accepted = accepted | (norm <= (1 - 1e-4 * t) * size)
            if bool(accepted.all()):
                break
            t /= 2
        z, value = chosen, chosen_value
        best = _better(best, z, relative_residual(value, z))
    return best
