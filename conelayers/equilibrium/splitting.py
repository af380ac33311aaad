"""z = σ(W z + u) with I − W strongly monotone and σ = max(·, 0), by Peaceman–Rachford splitting, and its residual.

σ is the proximal operator of the indicator of z ≥ 0, for every step size, so that the equation is the inclusion

    0 ∈ (I − W)z − u + ∂ι(z),    ι the indicator of z ≥ 0,

which has exactly one solution. With R = (I + α(I − W))⁻¹ the iteration consists of two reflections, from z = w = 0 or
any other pair with z = σ(w),

    w ← w + 2(R(2z − w + αu) − z),   z ← σ(w).

It converges linearly for every α > 0, by the factor max |(1 − αλ)/(1 + αλ)| over λ in the numerical range of I − W. If
m ≤ Re λ and the skew part has norm ν, that is about 1 − 2m/ν at best, which is near one if I − W is nearly skew. Then
newton.py solves what splitting leaves. Sources: Winston, Kolter (2020); Ryu, Boyd, "A primer on monotone operator
methods" (2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from conelayers.equilibrium.newton import MOST_UNKNOWNS, dense_adjoint, dense_equilibrium, matrix_of
from conelayers.equilibrium.operators import MonotoneOperator, is_real

__all__ = ["PeacemanRachford", "Solved", "natural_residual"]

_LOOK = 5  # steps from one computation of the residual to the next
_PATIENCE = 10  # computations of the residual in which it does not halve, after which splitting ends
_MOST_STEPS = 2000  # if the user sets no limit
_POWER_STEPS = 4  # of the power iteration that estimates ‖I − W‖
_ROUNDING = 4  # units of rounding, times ‖I − W‖: the relative error of W z


@final
class Solved(NamedTuple):
    """The result of a solve.

    z: (N, *shape).
    residual: ‖z − σ(W z + u)‖ relative to 1 + ‖z‖, (N,).
    iterations: the number of steps of splitting.
    tolerance: the residual that was asked for.
    """

    z: Tensor
    residual: Tensor
    iterations: int
    tolerance: float


@final
@dataclass(frozen=True)
class PeacemanRachford:
    """The settings of the splitting.

    alpha: the step α; 1/√(mL) with L = ‖I − W‖ if None.
    tol: the relative residual that all instances have to reach.
    max_iter: the most steps. If None, splitting goes on for as long as it is fast, and Newton's method (newton.py)
    takes the instances that are left, up to 2048 unknowns each; beyond, splitting goes on for up to 2000 steps. If the
    user's limit stops the splitting, no other method continues.
    """

    alpha: float | None = None
    tol: float = 1e-11
    max_iter: int | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not (is_real(self.alpha) and 0 < self.alpha < math.inf):
            raise ValueError(f"PeacemanRachford: alpha: got {self.alpha!r}, expected a positive number or None")
        if not (is_real(self.tol) and 0 < self.tol < 1):
            raise ValueError(f"PeacemanRachford: tol: got {self.tol!r}, expected a number between 0 and 1")
        if self.max_iter is not None and not (type(self.max_iter) is int and self.max_iter >= 1):
            raise ValueError(f"PeacemanRachford: max_iter: got {self.max_iter!r}, expected a positive integer or None")

    @torch.no_grad()
    def solve(self, operator: MonotoneOperator, u: Tensor, z0: Tensor | None = None) -> Solved:
        """The equilibrium for u (N, *shape), from z0 or 0.

        It raises no error: the residual says whether it converged.
        """
        z, apply = torch.zeros_like(u) if z0 is None else torch.relu(z0), operator.prepared()

        def residual(z: Tensor) -> Tensor:
            return natural_residual(apply, u, z)

        size = _size(operator, apply, u)
        resolvent = operator.resolvent(self._alpha(operator, size))
        found = self._iterate(operator, resolvent, torch.relu, residual, self._alpha(operator, size) * u, z, size)
        left = self._left(operator, found, size)
        if not left.numel():
            return found
        W, b = matrix_of(operator), u[left].flatten(1).double()
        solved = dense_equilibrium(W, b, found.z[left].flatten(1).double())
        return _improved(found, left, solved, natural_residual(lambda h: h @ W.T, b, solved))

    @torch.no_grad()
    def solve_adjoint(self, operator: MonotoneOperator, D: Tensor, g: Tensor) -> Solved:
        """w = (I − WᵀD)⁻¹g by the same iteration, for D (N, *shape) of zeros and ones.

        p = Dw solves p = D(Wᵀp + g), and w = Wᵀp + g. D is the projection onto a subspace, the proximal operator of its
        indicator. The residual is ‖w − WᵀDw − g‖ relative to ‖g‖.
        """
        transposed = operator.prepared(transposed=True)
        norm = _size(operator, transposed, g)
        alpha = self._alpha(operator, norm)
        size = g.flatten(1).norm(dim=1)
        size = torch.where(size > 0, size, torch.ones_like(size))

        def residual(p: Tensor) -> Tensor:
            # With w = Wᵀp + g, w − WᵀDw − g = Wᵀ(p − Dw).
            return transposed(p - D * (transposed(p) + g)).flatten(1).norm(dim=1) / size

        resolvent = operator.resolvent(alpha, transposed=True)
        found = self._iterate(operator, resolvent, lambda q: D * q, residual, alpha * g, torch.zeros_like(g), norm)
        left = self._left(operator, found, norm)
        if left.numel():
            W, d, b = matrix_of(operator), D[left].flatten(1).double(), g[left].flatten(1).double()
            solved = dense_adjoint(W, d, b)
            # A direct solution is judged by its backward error, since w may be as long as ‖W‖/m times g, and the
            # rounding errors of W w are relative to that length.
            error = (solved - (d * solved) @ W - b).norm(dim=1) / (size[left] + norm * (d * solved).norm(dim=1))
            return _improved(found._replace(z=transposed(found.z) + g), left, solved, error)
        return found._replace(z=transposed(found.z) + g)

    def tolerance(self, dtype: torch.dtype, size: float = 1.0) -> float:
        """``tol``, or 32 units of rounding, or 4·``size`` of them, whichever is most.

        size: ‖I − W‖, to which the rounding errors of products with W are relative.
        """
        return max(self.tol, max(32.0, _ROUNDING * size) * torch.finfo(dtype).eps)

    def _alpha(self, operator: MonotoneOperator, size: float) -> float:
        return self.alpha or 1 / math.sqrt(operator.m * max(size, operator.m))

    def _left(self, operator: MonotoneOperator, found: Solved, size: float) -> Tensor:
        """The instances that Newton's method takes."""
        if found.iterations == self.max_iter or math.prod(operator.shape) > MOST_UNKNOWNS:
            return torch.zeros(0, dtype=torch.int64)
        return torch.nonzero(~(found.residual <= found.tolerance)).flatten()

    def _iterate(
        self,
        operator: MonotoneOperator,
        resolvent: Callable[[Tensor], Tensor],
        proximal: Callable[[Tensor], Tensor],
        residual_of: Callable[[Tensor], Tensor],
        shift: Tensor,
        z: Tensor,
        size: float,
    ) -> Solved:
        tolerance, limit = self.tolerance(z.dtype, size), self.max_iter or _MOST_STEPS
        alone = self.max_iter is None and math.prod(operator.shape) > MOST_UNKNOWNS  # Newton's method does not follow
        w, residual = z.clone(), torch.full_like(z.flatten(1)[:, 0], torch.inf)
        if not z.numel():
            return Solved(z, torch.zeros(z.shape[0], dtype=z.dtype), 0, tolerance)
        least, since = math.inf, 0
        for k in range(1, limit + 1):
            w = w + 2 * (resolvent(2 * z - w + shift) - z)
            z = proximal(w)
            # The residual is computed every few steps only, since it costs as much as a step.
            if k % _LOOK == 0 or k == limit:
                residual = residual_of(z)
                worst = float(residual.max())
                least, since = (worst, 0) if worst < (0.98 if alone else 0.5) * least else (least, since + 1)
                # Rounding may stop the iteration before the tolerance is reached; the caller looks at the residual.
                if worst <= tolerance or since >= _PATIENCE:
                    return Solved(z, residual, k, tolerance)
        return Solved(z, residual, limit, tolerance)


def _improved(found: Solved, left: Tensor, solved: Tensor, residual: Tensor) -> Solved:
    """``found`` with other solutions of some instances, if their residuals are smaller.

    left: the positions of these instances, (k,).
    solved, residual: their solutions (k, n) and residuals (k,), in double precision.
    """
    kept = residual < found.residual[left]
    where = left[kept]
    z, residuals = found.z.clone(), found.residual.clone()
    z[where] = solved[kept].to(z.dtype).reshape(len(where), *z.shape[1:])
    residuals[where] = residual[kept].to(z.dtype)
    return found._replace(z=z, residual=residuals)


def natural_residual(apply: Callable[[Tensor], Tensor], u: Tensor, z: Tensor) -> Tensor:
    """‖z − σ(W z + u)‖₂/(1 + ‖z‖₂) for each instance, (N,); ``apply`` is h ↦ W h."""
    gap = (z - torch.relu(apply(z) + u)).flatten(1)
    return gap.norm(dim=1) / (1 + z.flatten(1).norm(dim=1))


def _size(operator: MonotoneOperator, apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """An estimate of ‖I − W‖ by a few power iterations."""
    z = torch.randn(1, *operator.shape, generator=torch.Generator().manual_seed(0)).to(like)
    size = 1.0
    for _ in range(_POWER_STEPS):
        z = z - apply(z)
        size = float(z.norm())
        z = z / max(size, 1e-30)
    return size
