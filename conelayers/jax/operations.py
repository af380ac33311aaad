"""The operations of a traced program (layer/traced_program.py) over arrays of JAX."""

from __future__ import annotations

from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from conelayers.layer.traced_program import TracedProgram
from conelayers.numerics.cones import Selection
from conelayers.problem.parameters import unflatten
from conelayers.problem.parametric import ParametricProgram

__all__ = ["traced_program"]

Array = jax.Array


@final
class _Operations:
    def constant(self, array: np.ndarray) -> np.ndarray:
        # An array of NumPy belongs to no trace of JAX, and JAX takes it as it is.
        return array.astype(np.int32) if array.dtype == np.int64 else array

    def take(self, h: Array, index: np.ndarray) -> Array:
        return h[:, index]

    def scatter(self, values: Array, target: np.ndarray, size: int) -> Array:
        return jnp.zeros((values.shape[0], size), values.dtype).at[:, target].add(values)

    def log_where(self, mask: np.ndarray, h: Array) -> Array:
        return jnp.log(jnp.where(mask, h, 1.0))

    def exp(self, h: Array) -> Array:
        solved = ~jnp.isnan(h)
        return jnp.exp(jnp.where(solved, h, 0.0)) + jnp.where(solved, 0.0, h)

    def join(self, a: Array, b: Array) -> Array:
        return jnp.concatenate([a, b], axis=1)

    def unflatten(self, flat: Array, shape: tuple[int, ...]) -> Array:
        return unflatten(flat, shape)  # type: ignore[arg-type,return-value]


def traced_program(compiled: ParametricProgram, selection: Selection = Selection.DEFAULT) -> TracedProgram:
    """The program in operations on arrays of JAX."""
    return TracedProgram(compiled, _Operations(), selection)
