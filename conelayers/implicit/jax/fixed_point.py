"""Anderson acceleration in JAX: a traced loop with the last points in an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import jax
import jax.numpy as jnp

from conelayers.implicit.fixed_point import DIVERGED, Residual, mixed_step
from conelayers.implicit.jax.arrays import ARRAYS
from conelayers.implicit.jax.linear import solve_with_diagonal
from conelayers.implicit.points import Best, better_of
from conelayers.implicit.settings import Anderson

__all__ = ["anderson"]

Array = jax.Array


@final
class _Memory(NamedTuple):
    """The last points (m, N, n), their residuals, and which of them an instance may use (m, N)."""

    Z: Array
    G: Array
    live: Array


_State = tuple[Best, Array, _Memory, Array]


def anderson(f: Callable[[Array], Array], start: Best, residual_of: Residual, settings: Anderson) -> Best:
    """The best points (N, n) on the way from start.z."""
    m, tolerance, z0 = settings.memory, residual_of.tolerance, start.z

    def unfinished(state: _State) -> Array:
        best, _, _, k = state
        return (k < settings.max_iter) & (best.residual > tolerance).any()

    def step(state: _State) -> _State:
        best, z, memory, k = state
        g = f(z) - z
        residual = residual_of(g, z)
        best = better_of(ARRAYS, best, z, residual)
        done = best.residual <= tolerance
        lost = ~(residual <= DIVERGED * best.residual)
        # An instance that diverges goes back to its best point, with an empty memory and without a step.
        live = memory.live & ~lost
        moved = z + mixed_step(ARRAYS, z, g, memory.Z, memory.G, live, settings.damping, solve_with_diagonal)
        place = k % m
        memory = _Memory(memory.Z.at[place].set(z), memory.G.at[place].set(g), live.at[place].set(~lost))
        z = jnp.where(lost[:, None], best.z, jnp.where(done[:, None], z, moved))
        return best, z, memory, k + 1

    empty = jnp.zeros((m, *z0.shape), z0.dtype)
    memory = _Memory(empty, empty, jnp.zeros((m, z0.shape[0]), bool))
    return jax.lax.while_loop(unfinished, step, (start, z0, memory, jnp.zeros((), jnp.int32)))[0]
