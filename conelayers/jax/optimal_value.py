"""The optimal value in JAX, with the derivative that the envelope theorem gives: no linear solve."""

from __future__ import annotations

from functools import partial

import jax

from conelayers.jax.host import HostProgram
from conelayers.jax.primitives import zero_where_nan

__all__ = ["optimal_value"]

Array = jax.Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def optimal_value(program: HostProgram, phi: Array, x: Array, y: Array) -> Array:
    """The cone program's optimal value, (B,), at its solution."""
    return program.traced.optimal_value(phi, x)


@optimal_value.defjvp
def _(program: HostProgram, primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    x, y = map(zero_where_nan, primals[1:])
    return optimal_value(program, *primals), program.traced.optimal_value_tangent(tangents[0], x, y)
