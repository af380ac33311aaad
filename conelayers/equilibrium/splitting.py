"""z = σ(W z + u) with I − W strongly monotone and σ = max(·, 0), by Peaceman–Rachford splitting, and how far off the answer can be.

σ is the proximal operator of the indicator of z ≥ 0, for every step size, so that the equation is the inclusion

    0 ∈ (I − W)z − u + ∂ι(z),    ι the indicator of z ≥ 0,

which has exactly one solution. With R = (I + α(I − W))⁻¹ the iteration is, two reflections, from z = w = 0 or any other pair with z = σ(w),

    w ← w + 2(R(2z − w + αu) − z),   z ← σ(w),

and converges for every α > 0, linearly. Sources: Winston, Kolter (2020); Ryu, Boyd, "A primer on monotone operator methods" (2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from conelayers.equilibrium.operators import MonotoneOperator, is_real

__all__ = ["PeacemanRachford", "Solved", "natural_residual"]

_LOOK = 5
_PATIENCE = 10  # looks without the residual halving
_POWER_STEPS = 4


@final
class Solved(NamedTuple):
    """z (N, *shape), ‖z − σ(W z + u)‖ relative to 1 + ‖z‖ for each instance (N,), and the number of iterations."""

    z: Tensor
    residual: Tensor
    iterations: int


@final
@dataclass(frozen=True)
class PeacemanRachford:
    """alpha: the step α; 1/√(mL) with L = ‖I − W‖ if None. tol: relative residual at which all instances have to arrive."""

    alpha: float | None = None
    tol: float = 1e-11
    max_iter: int = 2000

    def __post_init__(self) -> None:
        if self.alpha is not None and not (is_real(self.alpha) and 0 < self.alpha < math.inf):
            raise ValueError(f"PeacemanRachford: alpha: got {self.alpha!r}, expected a positive number or None")
        if not (is_real(self.tol) and 0 < self.tol < 1):
            raise ValueError(f"PeacemanRachford: tol: got {self.tol!r}, expected a number between 0 and 1")
        if isinstance(self.max_iter, bool) or not isinstance(self.max_iter, int) or self.max_iter < 1:
            raise ValueError(f"PeacemanRachford: max_iter: got {self.max_iter!r}, expected a positive integer")

    @torch.no_grad()
    def solve(self, operator: MonotoneOperator, u: Tensor, z0: Tensor | None = None) -> Solved:
        """From z0, or 0, for u (N, *shape). The residual tells whether it arrived; nothing is raised."""
        z, apply = torch.zeros_like(u) if z0 is None else torch.relu(z0), operator.prepared()

        def residual(z: Tensor) -> Tensor:
            return natural_residual(apply, u, z)

        alpha = self.alpha or _step(operator, apply, u)
        return self._iterate(operator.resolvent(alpha), torch.relu, residual, alpha * u, z)

    @torch.no_grad()
    def solve_adjoint(self, operator: MonotoneOperator, D: Tensor, g: Tensor) -> Solved:
        """w = (I − WᵀD)⁻¹g, D (N, *shape) of zeros and ones, by the same iteration: p = Dw solves p = D(Wᵀp + g), and w = Wᵀp + g.

        D is the projection onto a subspace, the proximal operator of its indicator. The residual is ‖w − WᵀDw − g‖ relative to ‖g‖.
        """
        transposed = operator.prepared(transposed=True)
        alpha = self.alpha or _step(operator, transposed, g)
        size = g.flatten(1).norm(dim=1)
        size = torch.where(size > 0, size, torch.ones_like(size))

        def residual(p: Tensor) -> Tensor:
            # With w = Wᵀp + g, w − WᵀDw − g = Wᵀ(p − Dw).
            return transposed(p - D * (transposed(p) + g)).flatten(1).norm(dim=1) / size

        resolvent = operator.resolvent(alpha, transposed=True)
        found = self._iterate(resolvent, lambda q: D * q, residual, alpha * g, torch.zeros_like(g))
        return found._replace(z=transposed(found.z) + g)

    def tolerance(self, dtype: torch.dtype) -> float:
        """``tol``, but no less than 32 units of rounding."""
        return max(self.tol, 32 * torch.finfo(dtype).eps)

    def _iterate(
        self,
        resolvent: Callable[[Tensor], Tensor],
        proximal: Callable[[Tensor], Tensor],
        residual_of: Callable[[Tensor], Tensor],
        shift: Tensor,
        z: Tensor,
    ) -> Solved:
        tolerance = self.tolerance(z.dtype)
        w, residual = z.clone(), torch.full_like(z.flatten(1)[:, 0], torch.inf)
        if not z.numel():
            return Solved(z, torch.zeros(z.shape[0], dtype=z.dtype), 0)
        least, since = math.inf, 0
        for k in range(1, self.max_iter + 1):
            w = w + 2 * (resolvent(2 * z - w + shift) - z)
            z = proximal(w)
            # Every few steps the residual itself is looked at, which costs as much as a step.
            if k % _LOOK == 0 or k == self.max_iter:
                residual = residual_of(z)
                worst = float(residual.max())
                least, since = (worst, 0) if worst < 0.5 * least else (least, since + 1)
                # Rounding may stop it before the tolerance is reached: whoever called looks at the residual.
                if worst <= tolerance or since >= _PATIENCE:
                    return Solved(z, residual, k)
        return Solved(z, residual, self.max_iter)


def natural_residual(apply: Callable[[Tensor], Tensor], u: Tensor, z: Tensor) -> Tensor:
    """‖z − σ(W z + u)‖₂/(1 + ‖z‖₂) for each instance, (N,); ``apply`` is h ↦ W h."""
    gap = (z - torch.relu(apply(z) + u)).flatten(1)
    return gap.norm(dim=1) / (1 + z.flatten(1).norm(dim=1))


def _step(operator: MonotoneOperator, apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """1/√(mL), L roughly ‖I − W‖ by a few power iterations."""
    z = torch.randn(1, *operator.shape, generator=torch.Generator().manual_seed(0)).to(like)
    size = 1.0
    for _ in range(_POWER_STEPS):
        z = z - apply(z)
        size = float(z.norm())
        z = z / max(size, 1e-30)
    return 1 / math.sqrt(operator.m * max(size, operator.m))
