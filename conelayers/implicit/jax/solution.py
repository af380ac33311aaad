"""The solution of an equation and of its linear systems in JAX, which JAX differentiates and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conelayers.implicit.equation import Equation
from conelayers.implicit.errors import LinearSolveError
from conelayers.implicit.jax.arrays import ARRAYS
from conelayers.implicit.jax.fixed_point import anderson
from conelayers.implicit.jax.linear import matrix_of, solve_linear, solve_with_diagonal
from conelayers.implicit.jax.singular import singular_instances, warn_of
from conelayers.implicit.newton import Newtonian
from conelayers.implicit.settings import Newton
from conelayers.implicit.singular_roots import MOST_UNKNOWNS
from conelayers.implicit.solution import convergence_error, damped_steps, point_of

__all__ = ["linear_solution", "solution"]

Array = jax.Array
_Leaves = Sequence[Array]


def solution(equation: Equation, z0: Array, leaves: _Leaves) -> Array:
    """z. Raises ConvergenceError, or puts NaN, if the residual recomputed at z misses the tolerance."""
    options, shape, (count, n) = equation.options, z0.shape, equation.sizes(z0)
    flat = lambda Z: equation.function(Z.reshape(shape), *leaves).reshape(count, n)  # noqa: E731
    residual = (lambda Z: flat(Z) - Z) if options.fixed else flat
    solver, settings = options.solver, options.step_solver(n, count)

    def times(Z: Array, h: Array) -> Array:
        return jax.jvp(residual, (Z,), (h,))[1]

    def step(Z: Array, value: Array) -> tuple[Array, Array]:
        t = solve_linear(partial(times, Z), value, settings).t
        bad = ~jnp.isfinite(t).all(1)

        def damped(t: Array, bad: Array) -> Array:
            return damped_steps(ARRAYS, matrix_of(partial(times, Z), value), value, t, bad, solve_with_diagonal)

        return jax.lax.cond(bad.any(), damped, lambda t, _: t, t, bad), ~bad

    def asked(solver: Callable[..., Any]) -> Array:
        z = solver(equation.of_user(leaves), z0, equation.unflatten(leaves))
        if z is None or jnp.shape(z) != shape:
            got = "None" if z is None else f"shape {jnp.shape(z)}"
            raise ValueError(f"{options.name}: solve: it returned {got}, expected an array of z0's shape {shape}")
        return jnp.asarray(z, z0.dtype).reshape(count, n)

    point = point_of(ARRAYS, options, flat, Newtonian(residual, step, times), z0.reshape(count, n), asked, anderson)
    eps = ARRAYS.rounding(z0)

    def refuse(reached: np.ndarray, good: np.ndarray) -> None:
        failed = np.flatnonzero(~good.ravel())
        if failed.size:
            residuals = reached.ravel()[failed].tolist()
            raise convergence_error(options, failed.tolist(), residuals, eps, reached.size)

    good = _accepted(equation, point.accepted, point.residual, refuse)
    if isinstance(solver, Newton) or (callable(solver) and not options.fixed):
        # What is returned depends on the warning, or the compiler would drop it.
        good = jnp.where(point.singular & good, warn_of(equation, point.singular & good), good)
    return jnp.where(good[:, None], point.z, jnp.nan).reshape(shape)


def linear_solution(equation: Equation, z: Array, r: Array, leaves: _Leaves) -> Array:
    """B⁻¹r for r of z's shape, B = ∂F/∂z; LinearSolveError or NaN if the residual misses the tolerance."""
    shape, (count, n) = z.shape, equation.sizes(z)
    settings = equation.options.linear_solver(n, count)
    singular, inverse = jnp.zeros(count, bool), jnp.zeros((count, n, n), z.dtype)
    if n <= MOST_UNKNOWNS and r.size:
        singular, inverse = singular_instances(equation, z, leaves)
        singular, inverse = singular.reshape(count), inverse.reshape(count, n, n)

    def solve(transposed: bool, times: Callable[[Array], Array], b: Array) -> Array:
        flat = lambda h: times(h.reshape(shape)).reshape(count, n)  # noqa: E731
        known = b.reshape(count, n)
        finite = jnp.isfinite(known).all(1)
        known = jnp.where(finite[:, None], known, 0.0)
        answer = solve_linear(flat, known, settings)
        stands_in = jnp.einsum("nij,ni->nj" if transposed else "nji,ni->nj", inverse, known)
        t, missed = jnp.where(singular[:, None], stands_in, answer.t), jnp.where(singular, 0.0, answer.residual)
        tolerance = answer.tolerance  # a callback must not hold the answer, whose arrays may be tracers

        def refuse(reached: np.ndarray, good: np.ndarray) -> None:
            worst = float(np.max(np.where(np.isnan(reached), np.inf, reached), initial=0.0))
            if not good.all():
                raise LinearSolveError(equation.options.name, type(settings).__name__, worst, tolerance)

        # A point that is NaN has no derivative, and its failure was reported by the solve.
        there = jnp.isfinite(jax.lax.stop_gradient(z)).reshape(count, n).all(1)
        missed = jnp.where(there, missed, 0.0)
        good = _accepted(equation, missed <= tolerance, missed, refuse)
        return jnp.where((good & finite & there)[:, None], t, jnp.nan).reshape(shape)

    times = lambda h: jax.jvp(lambda q: equation.residual(q, *leaves), (z,), (h,))[1]  # noqa: E731
    return jax.lax.custom_linear_solve(times, r, partial(solve, False), partial(solve, True))


def _accepted(
    equation: Equation, good: Array, residual: Array, refuse: Callable[[np.ndarray, np.ndarray], None]
) -> Array:
    """``good`` (N,), after ``refuse`` has raised an error on the host if an instance is not good.

    refuse: takes the residuals and ``good``. It is not called if failures give NaN.
    """
    if equation.options.on_failure == "nan":
        return good
    if not isinstance(residual, jax.core.Tracer):
        refuse(np.asarray(residual), np.asarray(good))
        return good

    def checked(reached: Any, good: Any) -> np.ndarray:
        refuse(np.asarray(reached), np.asarray(good))
        return np.asarray(good)

    result = jax.ShapeDtypeStruct(good.shape, good.dtype)
    return jax.pure_callback(checked, result, residual, good, vmap_method="broadcast_all")
