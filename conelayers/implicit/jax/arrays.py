"""JAX's functions for the formulas that both frameworks share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conelayers.implicit.arrays import Arrays, Trees

__all__ = ["ARRAYS"]

Array = jax.Array
_KINDS = (jax.Array, np.ndarray, np.generic, float)


def _flattened(tree: Any) -> tuple[list[Array], Any]:
    leaves, structure = jax.tree.flatten(tree)
    return [jnp.asarray(h) for h in leaves], structure


def _ratio(a: Array, b: Array) -> Array:
    """a/b without a division by 0, at which jax_debug_nans and jax_debug_infs would stop."""
    r = jnp.where(a == 0, 0.0, a / jnp.where(b == 0, 1.0, b))
    return jnp.where(jnp.isfinite(r) & ((b != 0) | (a == 0)), r, jnp.inf)


ARRAYS = Arrays(
    xp=jnp,
    noun="an array",
    conversion="jnp.asarray(z0, float)",
    trees=Trees(
        _flattened,
        lambda leaves, structure: jax.tree.unflatten(structure, leaves),
        lambda leaves: jnp.concatenate(leaves, -1),
    ),
    leaves=jax.tree.leaves,
    floats=(jnp.float32, jnp.float64),
    is_array=lambda value: isinstance(value, _KINDS),
    dtype_of=lambda value: jnp.asarray(value).dtype,
    is_floating=lambda dtype: jnp.issubdtype(dtype, jnp.floating),
    given=lambda value: None if value is None or isinstance(value, (str, type, dict)) else jnp.asarray(value),
    parameter=lambda value, v: jnp.asarray(value, v.dtype),
    converted=lambda h, like: h.astype(like.dtype),
    made=lambda values, like: jnp.asarray(values, like.dtype),
    constant=jax.lax.stop_gradient,
    ratio=_ratio,
    sorted_down=lambda h: -jnp.sort(-h, axis=-1),
    taken=lambda h, indices: jnp.take_along_axis(h, indices, axis=-1),
    counts=lambda h: jnp.arange(1, h.shape[-1] + 1, dtype=h.dtype),
    eager=False,
    either=lambda condition, yes, no: jax.lax.cond(condition, lambda _: yes(), lambda _: no(), None),
    loop=jax.lax.while_loop,
    scalar=lambda number, like: jnp.asarray(number, like.dtype),
    counter=lambda: jnp.zeros((), jnp.int32),
)
