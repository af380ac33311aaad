"""The solution of an equation and of its linear systems, for plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from conelayers.implicit.equation import Equation
from conelayers.implicit.errors import LinearSolveError
from conelayers.implicit.newton import Newtonian
from conelayers.implicit.singular_roots import MOST_UNKNOWNS
from conelayers.implicit.solution import convergence_error, damped_steps, point_of
from conelayers.implicit.torch.arrays import TENSORS
from conelayers.implicit.torch.fixed_point import anderson
from conelayers.implicit.torch.linear import matrix_of, solve_linear
from conelayers.implicit.torch.products import Products
from conelayers.implicit.torch.singular import singular_roots, warn_of
from conelayers.torch.conversion import refuse_hidden_batch

__all__ = ["linear_solution", "solution"]

Tensor = torch.Tensor
_Leaves = Sequence[Tensor]


def solution(equation: Equation, z0: Tensor, leaves: _Leaves) -> Tensor:
    """z. Raises ConvergenceError, or puts NaN, if the residual recomputed at z misses the tolerance."""
    options, function = equation.options, equation.direct or equation.function
    shape, (count, n) = z0.shape, equation.sizes(z0)
    flat = lambda Z: function(Z.reshape(shape), *leaves).reshape(count, n)  # noqa: E731
    residual = (lambda Z: flat(Z) - Z) if options.fixed else flat
    settings = options.step_solver(n, count)

    def step(Z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        products = Products(equation, Z.reshape(shape), leaves)
        t = solve_linear(products.times, products.transposed_times, value[None], settings, transposed=False).t[0]
        bad = ~torch.isfinite(t).all(1)
        if bool(bad.any()):
            B = matrix_of(products.transposed_times, value)
            t = damped_steps(TENSORS, B, value, t, bad, _solve)
        return t, ~bad

    def times(Z: Tensor, h: Tensor) -> Tensor:
        return Products(equation, Z.reshape(shape), leaves).times(h[None])[0]

    asked = lambda solver: _asked(equation, solver, z0, leaves).reshape(count, n)  # noqa: E731
    newtonian = Newtonian(residual, step, times)
    point = point_of(TENSORS, options, flat, newtonian, z0.reshape(count, n), asked, anderson)
    if bool(point.singular.any()):
        warn_of(equation, point.singular)
    failed = ~point.accepted
    if not bool(failed.any()):
        return point.z.reshape(shape)
    if options.on_failure == "raise":
        indices, reached = torch.nonzero(failed)[:, 0].tolist(), point.residual[failed].tolist()
        raise convergence_error(options, indices, reached, torch.finfo(z0.dtype).eps, count)
    return torch.where(failed[:, None], torch.nan, point.z).reshape(shape)


def linear_solution(equation: Equation, z: Tensor, r: Tensor, leaves: _Leaves, transposed: bool) -> Tensor:
    """B⁻¹r or B⁻ᵀr for r (K, *z.shape); LinearSolveError, or NaN, if the residual misses the tolerance."""
    options = equation.options
    refuse_hidden_batch(r, f"{options.name}: ", "linear solver")
    count, n = equation.sizes(z)
    if not r.numel():
        return r.clone()
    settings = options.linear_solver(n, count)
    products = Products(equation, z, leaves)
    flat = r.reshape(-1, count, n)
    finite = torch.isfinite(flat).all(-1)
    known = torch.where(finite[..., None], flat, 0.0)
    B = matrix_of(products.transposed_times, z.reshape(count, n)) if n <= MOST_UNKNOWNS else None
    answer = solve_linear(products.times, products.transposed_times, known, settings, transposed=transposed, matrix=B)
    t, good = answer.t, answer.residual <= answer.tolerance
    points = torch.isfinite(z.reshape(count, n)).all(-1)
    singular = None if B is None else singular_roots(equation, products, z, leaves, B, points)
    if singular is not None:
        warn_of(equation, singular.where)
        stands_in = torch.einsum("nji,kni->knj" if not transposed else "nij,kni->knj", singular.inverse, known)
        t, good = torch.where(singular.where[:, None], stands_in, t), good | singular.where
    if options.on_failure == "raise":
        failed = finite & ~good & points
        if bool(failed.any()):
            worst = torch.nan_to_num(answer.residual[failed], nan=torch.inf).max()
            raise LinearSolveError(options.name, type(settings).__name__, float(worst), answer.tolerance)
    return torch.where((good & finite & points)[..., None], t, torch.nan).reshape(r.shape)


def _solve(gram: Tensor, diagonal: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_ex(gram + torch.diag_embed(diagonal), right)[0]


def _asked(equation: Equation, solver: Callable[..., Tensor], z0: Tensor, leaves: _Leaves) -> Tensor:
    """What a user's solver returns.

    It is given copies, so that nothing that it differentiates or changes in place reaches the caller's tensors.
    """
    values = [h.detach() for h in leaves]
    z = solver(equation.of_user(values), z0.clone(), equation.unflatten(values))
    if not isinstance(z, Tensor) or z.shape != z0.shape:
        got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(
            f"{equation.options.name}: solve: it returned {got}, expected a tensor of z0's shape {tuple(z0.shape)}"
        )
    return z.detach().to(z0)
