"""Anderson acceleration in PyTorch: a loop that ends as soon as every instance is done."""

from __future__ import annotations

from collections.abc import Callable

import torch

from conelayers.implicit.fixed_point import DIVERGED, Residual, mixed_step
from conelayers.implicit.points import Best, better_of
from conelayers.implicit.settings import Anderson
from conelayers.implicit.torch.arrays import TENSORS

__all__ = ["anderson"]

Tensor = torch.Tensor


def anderson(f: Callable[[Tensor], Tensor], start: Best, residual_of: Residual, settings: Anderson) -> Best:
    """The best points (N, n) on the way from start.z."""
    best, z = start, start.z
    points: list[tuple[Tensor, Tensor]] = []
    live = torch.ones(0, len(z), dtype=torch.bool, device=z.device)  # which points of the memory an instance may use
    for _ in range(settings.max_iter):
        g = f(z) - z
        residual = residual_of(g, z)
        best = better_of(TENSORS, best, z, residual)
        done = best.residual <= residual_of.tolerance
        if bool(done.all()):
            break
        lost = ~(residual <= DIVERGED * best.residual)
        if bool(lost.any()):  # a diverging instance goes back to its best point, with an empty memory
            z = torch.where(lost[:, None], best.z, z)
            g = torch.where(lost[:, None], f(z) - z, g)
            live = live & ~lost
        step = settings.damping * g
        if points:
            Z, G = (torch.stack(h) for h in zip(*points, strict=True))
            step = mixed_step(TENSORS, z, g, Z, G, live, settings.damping, _solve)
        points = [*points, (z, g)][-settings.memory :]
        live = torch.cat([live, torch.ones(1, len(z), dtype=torch.bool, device=z.device)])[-settings.memory :]
        z = torch.where(done[:, None], z, z + step)
    return best


def _solve(gram: Tensor, diagonal: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right, torch.linalg.cholesky_ex(gram + torch.diag_embed(diagonal))[0])
