"""The solution of an equation as a function of θ, in JAX: a primitive that returns z, with the rule B dz = −A dθ.

The rule is evaluated at a z that carries the outer transformations, and its linear system is a
``jax.lax.custom_linear_solve``, which JAX can differentiate, transpose and batch: derivatives of all modes and orders
follow. The iteration that computes z is not differentiated. (A ``custom_jvp`` would not do: the reverse mode of
``jax.lax.scan`` forgets such rules, and a second derivative would differentiate the iteration.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from conelayers.implicit.equation import Equation
from conelayers.implicit.jax.equation import mapped
from conelayers.implicit.jax.solution import linear_solution, solution

__all__ = ["solve_equation"]

Array = jax.Array
_root = Primitive("conelayers_root")


def solve_equation(equation: Equation, z0: Array, leaves: tuple[Array, ...]) -> Array:
    """z, a differentiable function of the leaves."""
    z = solution(equation, *jax.lax.stop_gradient((z0, leaves)))
    return _root.bind(z, *leaves, equation=equation.without_solver())


def _same(z: Any, *leaves: Any, equation: Equation) -> Any:
    return z


def _tangent(primals: Sequence[Any], tangents: Sequence[Any], *, equation: Equation) -> tuple[Array, Array]:
    z, leaves = _root.bind(*primals, equation=equation), list(primals[1:])
    moving = [i for i, t in enumerate(tangents[1:]) if not isinstance(t, ad.Zero) and t.dtype != jax.dtypes.float0]
    if not moving:
        return z, jnp.zeros_like(z)

    def residual(*values: Array) -> Array:
        every = list(leaves)
        for i, value in zip(moving, values, strict=True):
            every[i] = value
        return equation.residual(z, *every)

    along = jax.jvp(residual, [leaves[i] for i in moving], [tangents[1 + i] for i in moving])[1]
    return z, linear_solution(equation, z, -along, leaves)


def _mapped(
    axis: Any, args: Sequence[Any], dims: Sequence[int | None], *, equation: Equation
) -> tuple[Array, int | None]:
    if all(d is None for d in dims):
        return _root.bind(*args, equation=equation), None
    equation, args = mapped(equation, axis, args, dims)
    return _root.bind(*args, equation=equation), 0


_root.def_impl(_same)
_root.def_abstract_eval(_same)
mlir.register_lowering(_root, mlir.lower_fun(_same, multiple_results=False))
ad.primitive_jvps[_root] = _tangent
batching.fancy_primitive_batchers[_root] = _mapped  # a batching rule of this kind is told the axis's name
