"""The point that an equation's solver reaches, for the arrays of either framework, and the error if it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from conelayers.implicit.arrays import Arrays
from conelayers.implicit.errors import ConvergenceError
from conelayers.implicit.fixed_point import Residual, checked_fixed_point, fixed_point_of
from conelayers.implicit.newton import Newtonian, checked_root, newton_root
from conelayers.implicit.options import Options
from conelayers.implicit.points import Best, Point
from conelayers.implicit.settings import Anderson, Newton

__all__ = ["convergence_error", "damped_steps", "point_of"]

_DAMPING = 1e-8  # μ over the largest diagonal entry of BᵀB


def point_of(
    arrays: Arrays,
    options: Options,
    flat: Callable[[Any], Any],
    newtonian: Newtonian,
    z0: Any,
    asked: Callable[[Callable[..., Any]], Any],
    anderson: Callable[[Callable[[Any], Any], Best, Residual, Anderson], Best],
) -> Point:
    """The point that the options' solver reaches from z0 (N, n).

    flat: the user's function of such points.
    newtonian: the functions that Newton's method calls.
    asked: gives what a user's own solver finds.
    anderson: the framework's Anderson acceleration.
    """
    solver, tolerance = options.solver, options.tolerance(arrays.rounding(z0))
    if callable(solver):
        z = asked(solver)
        if options.fixed:
            return checked_fixed_point(arrays, flat, z, arrays.sizes(flat(z0) - z0), tolerance)
        return checked_root(arrays, newtonian, z, z0, tolerance)
    if isinstance(solver, Newton):
        return newton_root(arrays, newtonian, z0, solver, tolerance)
    return fixed_point_of(arrays, flat, z0, solver, tolerance, anderson)


def damped_steps(arrays: Arrays, B: Any, value: Any, t: Any, bad: Any, solve: Callable[[Any, Any, Any], Any]) -> Any:
    """t (N, n) with least-squares steps (BᵀB + μI)⁻¹Bᵀ value in the instances that are ``bad``, where B is singular.

    solve: takes BᵀB, what is added to its diagonal (N, n), and right-hand sides (N, n, 1).
    """
    xp = arrays.xp
    gram = B.mT @ B
    largest = xp.amax(xp.einsum("nii->ni", gram), axis=1)
    mu = _DAMPING * xp.clip(largest, float(xp.finfo(t.dtype).tiny), None)
    step = solve(gram, mu[:, None] * xp.ones_like(value), B.mT @ value[..., None])[..., 0]
    return xp.where(bad[:, None], xp.nan_to_num(step, posinf=0.0, neginf=0.0), t)


def convergence_error(
    options: Options, indices: Sequence[int], residuals: Sequence[float], rounding: float, count: int
) -> ConvergenceError:
    """The error for the instances that were not solved, at the ``indices`` of a batch of ``count``."""
    return ConvergenceError(
        options.name, options.solver_name, indices, residuals, options.tolerance(rounding), count > 1
    )
