"""An equation F(z, θ) = 0 of arrays of JAX, its solution, and its linear systems, which JAX differentiates and batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from conelayers.arguments import described
from conelayers.implicit.errors import ConvergenceError, LinearSolveError
from conelayers.implicit.jax_forward import Newtonian, checked_fixed_point, checked_root, fixed_point_of, newton_root
from conelayers.implicit.jax_linear import matrix_of, solve_linear
from conelayers.implicit.jax_singular import singular_instances, warn_of
from conelayers.implicit.settings import Anderson, ForwardSolver, LinearSolver, Newton, effective, linear_solver_for
from conelayers.implicit.singular_roots import MOST_UNKNOWNS
from conelayers.implicit.unknowns import Trees, Unknowns

__all__ = ["Equation", "pose"]

Array = jax.Array
_Leaves = Sequence[Array]
_OF_CALLABLES = 1e-8  # the tolerance that a user's own solver is held to
_ARRAYS = (jax.Array, np.ndarray, np.generic, float)
_DTYPES = (jnp.float32, jnp.float64)


def _flattened(tree: Any) -> tuple[list[Array], Any]:
    leaves, structure = jax.tree.flatten(tree)
    return [jnp.asarray(h) for h in leaves], structure


_TREES = Trees(_flattened, lambda leaves, tree: jax.tree.unflatten(tree, leaves), lambda h: jnp.concatenate(h, -1))


@final
@dataclass(frozen=True, eq=False)
class Equation:
    """F(z, θ) = 0, or z = f(z, θ) where ``fixed``, for θ by its leaves; the first ``axes`` of z count instances.

    ``restored``: z as the user's z0 is.
    """

    name: str
    function: Callable[..., Array]
    fixed: bool
    axes: int
    solve: ForwardSolver | Callable[..., Array] | None
    linear: LinearSolver | None
    tol: float | None
    on_failure: str
    unflatten: Callable[[_Leaves], tuple[Any, ...]]
    flatten: Callable[[Any], list[Array]]
    restored: Callable[[Array], Any]

    def residual(self, z: Array, *leaves: Array) -> Array:
        """F, or f − z."""
        value = self.function(z, *leaves)
        return value - z if self.fixed else value

    def mapped(self, dims: Sequence[int | None], name: Any) -> Equation:
        """With one more axis of instances, which functions know by the name, in front of z, and along ``dims`` of the leaves."""
        function = jax.vmap(self.function, in_axes=(0, *dims), axis_name=name)
        return replace(self, function=function, axes=self.axes + 1)

    def sizes(self, z: Array) -> tuple[int, int]:
        """The number of instances, and of unknowns of each."""
        return math.prod(z.shape[: self.axes]), math.prod(z.shape[self.axes :])

    def solution(self, z0: Array, leaves: _Leaves) -> Array:
        """z; where the residual recomputed at it misses the tolerance, ConvergenceError or NaN."""
        shape, (count, n) = z0.shape, self.sizes(z0)
        flat = lambda Z: self.function(Z.reshape(shape), *leaves).reshape(count, n)  # noqa: E731
        residual = (lambda Z: flat(Z) - Z) if self.fixed else flat
        solver = self.solve if self.solve is not None else Anderson() if self.fixed else Newton()
        given = self.tol if self.tol is not None else _OF_CALLABLES if callable(solver) else solver.tol
        tolerance = effective(given, float(jnp.finfo(z0.dtype).eps))
        Z = z0.reshape(count, n)
        settings = linear_solver_for(solver.linear if isinstance(solver, Newton) else self.linear, n, count)

        def times(Z: Array, h: Array) -> Array:
            return jax.jvp(residual, (Z,), (h,))[1]

        def step(Z: Array, value: Array) -> tuple[Array, Array]:
            t = solve_linear(partial(times, Z), value, settings).t
            bad = ~jnp.isfinite(t).all(1)
            damped = partial(_least_squares, partial(times, Z), value)
            return jax.lax.cond(bad.any(), damped, lambda t, _: t, t, bad), ~bad

        newtonian = Newtonian(residual, step, times)
        if callable(solver):
            rebuilt = lambda z, *theta: self.function(z, *self.flatten(theta), *leaves[len(self.flatten(theta)) :])  # noqa: E731
            z = solver(rebuilt, z0, self.unflatten(leaves))
            if z is None or jnp.shape(z) != shape:
                got = "None" if z is None else f"shape {jnp.shape(z)}"
                raise ValueError(f"{self.name}: solve: it returned {got}, expected an array of z0's shape {shape}")
            found = jnp.asarray(z, z0.dtype).reshape(count, n)
            if self.fixed:
                point = checked_fixed_point(flat, found, jnp.nan_to_num(jnp.abs(residual(Z)), posinf=0.0), tolerance)
            else:
                point = checked_root(newtonian, found, Z, tolerance)
        elif isinstance(solver, Newton):
            point = newton_root(newtonian, Z, solver, tolerance)
        else:
            point = fixed_point_of(flat, Z, solver, tolerance)
        label = "solve" if callable(solver) else type(solver).__name__

        def refuse(reached: np.ndarray, good: np.ndarray) -> None:
            failed = np.flatnonzero(~good.ravel())
            if failed.size:
                raise ConvergenceError(
                    self.name, label, failed.tolist(), reached.ravel()[failed].tolist(), tolerance, reached.size > 1
                )

        good = self._accepted(point.accepted, point.residual, refuse)
        if isinstance(solver, Newton) or (callable(solver) and not self.fixed):
            # Through what is returned, or the compiler would drop the warning.
            good = jnp.where(point.singular & good, warn_of(self, point.singular & good), good)
        return jnp.where(good[:, None], point.z, jnp.nan).reshape(shape)

    def linear_solution(self, z: Array, r: Array, leaves: _Leaves) -> Array:
        """B⁻¹r for r of z's shape, B = ∂F/∂z; LinearSolveError or NaN where the residual misses the tolerance."""
        shape, (count, n) = z.shape, self.sizes(z)
        settings = linear_solver_for(self.linear, n, count)
        singular, inverse = jnp.zeros(count, bool), jnp.zeros((count, n, n), z.dtype)
        if n <= MOST_UNKNOWNS and r.size:
            singular, inverse = singular_instances(self, z, leaves)
            singular, inverse = singular.reshape(count), inverse.reshape(count, n, n)

        def solve(transposed: bool, times: Callable[[Array], Array], b: Array) -> Array:
            flat = lambda h: times(h.reshape(shape)).reshape(count, n)  # noqa: E731
            known = b.reshape(count, n)
            finite = jnp.isfinite(known).all(1)
            known = jnp.where(finite[:, None], known, 0.0)
            answer = solve_linear(flat, known, settings)
            stands_in = jnp.einsum("nij,ni->nj" if transposed else "nji,ni->nj", inverse, known)
            t, missed = jnp.where(singular[:, None], stands_in, answer.t), jnp.where(singular, 0.0, answer.residual)

            tolerance = answer.tolerance  # no tracer may outlive the trace in what follows

            def refuse(reached: np.ndarray, good: np.ndarray) -> None:
                worst = float(np.max(np.where(np.isnan(reached), np.inf, reached), initial=0.0))
                if not good.all():
                    raise LinearSolveError(self.name, type(settings).__name__, worst, tolerance)

            # A point that is NaN has no derivative, and its failure was reported.
            there = jnp.isfinite(jax.lax.stop_gradient(z)).reshape(count, n).all(1)
            missed = jnp.where(there, missed, 0.0)
            good = self._accepted(missed <= tolerance, missed, refuse)
            return jnp.where((good & finite & there)[:, None], t, jnp.nan).reshape(shape)

        times = lambda h: jax.jvp(lambda q: self.residual(q, *leaves), (z,), (h,))[1]  # noqa: E731
        return jax.lax.custom_linear_solve(times, r, partial(solve, False), partial(solve, True))

    def _accepted(self, good: Array, residual: Array, refuse: Callable[[np.ndarray, np.ndarray], None]) -> Array:
        """``good`` (N,); where some instances are not and that is to be raised, by ``refuse``, given their residuals (N,) too, on the host."""
        if self.on_failure == "nan":
            return good
        if not isinstance(residual, jax.core.Tracer):
            refuse(np.asarray(residual), np.asarray(good))
            return good

        def checked(reached: Any, good: Any) -> np.ndarray:
            refuse(np.asarray(reached), np.asarray(good))
            return np.asarray(good)

        result = jax.ShapeDtypeStruct(good.shape, good.dtype)
        return jax.pure_callback(checked, result, residual, good, vmap_method="broadcast_all")


def _least_squares(times: Callable[[Array], Array], value: Array, t: Array, bad: Array) -> Array:
    """Steps (BᵀB + μI)⁻¹Bᵀ value for the instances that are ``bad``."""
    B = matrix_of(times, value)
    gram = jnp.swapaxes(B, 1, 2) @ B
    mu = 1e-8 * jnp.maximum(jnp.max(jnp.diagonal(gram, axis1=1, axis2=2), axis=1), jnp.finfo(t.dtype).tiny)
    damped = gram + mu[:, None, None] * jnp.eye(t.shape[1], dtype=t.dtype)
    step = jnp.linalg.solve(damped, jnp.swapaxes(B, 1, 2) @ value[..., None])[..., 0]
    return jnp.where(bad[:, None], jnp.nan_to_num(step, posinf=0.0, neginf=0.0), t)


def pose(
    name: str,
    function: Callable[..., Array],
    z0: Any,
    theta: tuple[Any, ...],
    fixed: bool,
    batched: bool,
    solve: Any = None,
    linear: Any = None,
    tol: float | None = None,
    on_failure: str = "raise",
    letter: str = "",
) -> tuple[Equation, Array, tuple[Array, ...]]:
    """The equation as a function of arrays alone, z0 as one in the function's dtype, and the arrays: theta's, and those closed over."""
    letter = letter or ("f" if fixed else "F")
    if not callable(function):
        raise TypeError(
            f"{name}: {letter}: got {described(function)}, expected a callable (z, *theta) -> array of z's shape"
        )
    for h in jax.tree.leaves(z0):
        if not isinstance(h, _ARRAYS) or jnp.asarray(h).dtype not in _DTYPES:
            got = f"an array of {jnp.asarray(h).dtype}" if isinstance(h, _ARRAYS) else type(h).__name__
            raise TypeError(
                f"{name}: z0: got {got}, expected an array of float32 or float64, or a list, tuple or dict of them; write "
                "jnp.asarray(z0, float)"
            )
    restored: Callable[[Array], Any] = lambda z: z  # noqa: E731
    if not isinstance(z0, _ARRAYS):
        unknowns = Unknowns.of(name, z0, batched, _TREES)
        function, solve = unknowns.function(function, f"{name}: {letter}"), unknowns.solver(solve, f"{name}: solve")
        z0, restored = unknowns.pack(z0, jnp.shape(jax.tree.leaves(z0)[0])[: int(batched)], name), unknowns.unpack
    z0 = jax.lax.stop_gradient(jnp.asarray(z0, jnp.asarray(z0).dtype))
    if batched and z0.ndim == 0:
        raise ValueError(f"{name}: batched: got True and z0 without axes, expected a leading axis of instances in z0")
    every, tree = jax.tree.flatten(theta)
    places = [i for i, leaf in enumerate(every) if isinstance(leaf, _ARRAYS)]
    arrays = [jnp.asarray(every[i]) for i in places]
    constants = [None if i in set(places) else leaf for i, leaf in enumerate(every)]

    def unflatten(values: Sequence[Array]) -> tuple[Any, ...]:
        filled = list(constants)
        for i, value in zip(places, values, strict=False):
            filled[i] = value
        return jax.tree.unflatten(tree, filled)

    def flatten(given: Any) -> list[Array]:
        leaves = jax.tree.leaves(tuple(given))
        return [jnp.asarray(leaves[i]) for i in places]

    of_arrays = lambda z, *values: function(z, *unflatten(values))  # noqa: E731
    returned = jax.eval_shape(of_arrays, z0, *arrays)
    if not isinstance(returned, jax.ShapeDtypeStruct) or returned.shape != z0.shape:
        got = (
            f"an array of shape {returned.shape}"
            if isinstance(returned, jax.ShapeDtypeStruct)
            else type(returned).__name__
        )
        raise ValueError(
            f"{name}: {letter}: it returned {got}, expected an array of z0's shape {z0.shape}; write as many equations as unknowns"
        )
    if not jnp.issubdtype(returned.dtype, jnp.floating) or jnp.promote_types(z0.dtype, returned.dtype) not in _DTYPES:
        raise TypeError(f"{name}: {letter}: it returned an array of {returned.dtype}, expected float32 or float64")
    z0 = z0.astype(jnp.promote_types(z0.dtype, returned.dtype))
    traced = jax.make_jaxpr(of_arrays)(z0, *arrays)
    jaxpr, given = traced.jaxpr, len(arrays)  # the equation must not hold tracers

    def of_leaves(z: Array, *leaves: Array) -> Array:
        return jaxpr_as_fun(ClosedJaxpr(jaxpr, leaves[given:]))(z, *leaves[:given])[0]

    equation = Equation(
        name=name,
        function=of_leaves,
        fixed=fixed,
        axes=int(batched),
        solve=solve,
        linear=linear,
        tol=tol,
        on_failure=on_failure,
        unflatten=unflatten,
        flatten=flatten,
        restored=restored,
    )
    return equation, z0, (*arrays, *traced.consts)
