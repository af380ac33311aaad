"""Newton's method on Fischer and Burmeister's equation, for the equilibria that splitting does not reach.

z = max(W z + u, 0) says that z ≥ 0, y = (I − W)z − u ≥ 0 and zᵢyᵢ = 0 for all i. That is a linear complementarity
problem, whose matrix M = I − W is a P-matrix if it is strongly monotone. Let φ(a, b) = √(a² + b²) − a − b, which is
zero exactly if a, b ≥ 0 and ab = 0. Then the problem is

    Φ(z) = φ(z, S(Mz − u)) = 0,    S > 0 diagonal, the reciprocal lengths of M's rows,

For a P-matrix every element of ∂Φ is invertible and every stationary point of ½‖Φ‖² is the solution. So Newton's method
with a line search converges from anywhere, quadratically in the end; it does not slow down for a nearly skew I − W, as
splitting does with its rate of 1 − O(m/‖I − W‖). Each step costs one dense factorization an instance. Source: De Luca,
Facchinei, Kanzow, "A semismooth equation approach to the solution of nonlinear complementarity problems" (1996).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from conelayers.equilibrium.operators import MonotoneOperator

__all__ = ["MOST_UNKNOWNS", "dense_adjoint", "dense_equilibrium", "matrix_of"]

MOST_UNKNOWNS = 2048  # of an instance, which has a matrix of 32 MB, and takes some seconds a step
_NUMBERS = 2**24  # at most, in the matrices of the instances that are solved at once
_STEPS = 200  # of Newton's method
_HALVINGS = 40  # of a step, in the line search
_ARMIJO = 1e-4  # the part of the slope's decrease from which a step is accepted
_LOST = 1e-9  # the residual beyond which a path is followed
_PATH = 20  # values of ρ on the path, two a decade
_ARRIVED = 1e-14  # times 1 + ‖z‖: a smaller Φ is rounding


def matrix_of(operator: MonotoneOperator) -> Tensor:
    """W (n, n) in double precision, from products with it."""
    n = math.prod(operator.shape)
    like = next(operator.parameters(), torch.zeros(()))
    identity = torch.eye(n, dtype=like.dtype, device=like.device).reshape(n, *operator.shape)
    return operator.prepared()(identity).reshape(n, n).T.double()


def dense_equilibrium(W: Tensor, u: Tensor, z: Tensor) -> Tensor:
    """z (N, n) with z = max(W z + u, 0) for u (N, n), from z, in double precision.

    It raises no error: the caller judges the result by its residual.
    """
    most = max(1, _NUMBERS // max(W.numel(), 1))
    return torch.cat([_found(W, *part) for part in zip(u.split(most), z.split(most), strict=True)])


def dense_adjoint(W: Tensor, D: Tensor, g: Tensor) -> Tensor:
    """(I − WᵀD)⁻¹g for D, g (N, n)."""
    identity = torch.eye(W.shape[0], dtype=W.dtype, device=W.device)
    most = max(1, _NUMBERS // max(W.numel(), 1))
    parts = zip(D.split(most), g.split(most), strict=True)
    return torch.cat([torch.linalg.solve_ex(identity - W.T * d[:, None, :], h)[0] for d, h in parts])


def _found(W: Tensor, u: Tensor, z: Tensor) -> Tensor:
    """The solutions by Newton's method; if rounding stops it on the way, by following a path.

    The path has the solutions for I − W + ρI, with ρ from ‖I − W‖ down to zero, each found from the one before.
    """
    z = _newton(W, u, z)
    error = lambda z: (z - torch.relu(z @ W.T + u)).norm(dim=1) / (1 + z.norm(dim=1))  # noqa: E731
    lost = torch.nonzero(~(error(z) <= _LOST)).flatten()
    if lost.numel():
        identity = torch.eye(W.shape[0], dtype=W.dtype, device=W.device)
        size, path = (identity - W).norm(), z[lost]
        for k in range(_PATH):
            path = _newton(W - size * 10 ** (-k / 2) * identity, u[lost], path)
        path = _newton(W, u[lost], path)
        better = error(z.index_copy(0, lost, path))[lost] < error(z)[lost]
        z = z.index_copy(0, lost[better], path[better])
    return z


def _newton(W: Tensor, u: Tensor, z: Tensor) -> Tensor:
    identity = torch.eye(W.shape[0], dtype=W.dtype, device=W.device)
    M = identity - W
    scale = 1 / M.norm(dim=1)
    M, u = scale[:, None] * M, scale * u
    z = torch.where(torch.isfinite(z), z, torch.zeros_like(z))
    y = z @ M.T - u
    value = _phi(z, y)
    for _ in range(_STEPS):
        size = value.norm(dim=1)
        going = size > _ARRIVED * (1 + z.norm(dim=1))
        if not bool(going.any()):
            break
        r = torch.hypot(z, y)
        a, b = (torch.where(r > 0, h / torch.where(r > 0, r, torch.ones_like(r)), 0.5**0.5) - 1 for h in (z, y))
        H = torch.diag_embed(a) + b[..., None] * M
        step = -torch.linalg.solve_ex(H, value)[0]
        slope = -(size**2)  # of ½‖Φ‖² along a Newton step
        downhill = -(H.mT @ value[..., None])[..., 0]
        usable = torch.isfinite(step).all(1)
        step = torch.where(usable[:, None], step, downhill)
        slope = torch.where(usable, slope, -(downhill**2).sum(1))
        moved, t = ~going, 1.0
        after = z, y, value
        for _ in range(_HALVINGS):
            trial = torch.where(moved[:, None], after[0], z + t * step)
            trial_y = trial @ M.T - u
            trial_value = _phi(trial, trial_y)
            enough = trial_value.square().sum(1) / 2 <= size**2 / 2 + _ARMIJO * t * slope
            taken = (enough & ~moved)[:, None]
            new = trial, trial_y, trial_value
            chosen = (torch.where(taken, h, old) for h, old in zip(new, after, strict=True))
            after = tuple(chosen)  # type: ignore[assignment]
            moved = moved | enough
            if bool(moved.all()):
                break
            t /= 2
        if bool((after[0] == z).all()):  # rounding hides any decrease
            break
        z, y, value = after
    # On the active set the equation is linear. Its solution is the equilibrium to rounding, with exact zeros.
    active = (z > y).to(z.dtype)
    exact = torch.linalg.solve_ex(identity - active[..., None] * W, active * (u / scale))[0]
    better = (_phi(exact, exact @ M.T - u).norm(dim=1) <= value.norm(dim=1))[:, None]
    return torch.where(better, exact, z).clamp_min(0.0)


def _phi(a: Tensor, b: Tensor) -> Tensor:
    """√(a² + b²) − a − b, without cancellation where a and b are positive."""
    r, both = torch.hypot(a, b), a + b
    return torch.where(both > 0, -2 * a * b / (r + both).clamp_min(torch.finfo(a.dtype).tiny), r - both)
