"""JAX's arrays as the values of the user's parameters, from which the program's are made (problem/input_map.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from conelayers.jax.arithmetic import JaxArithmetic
from conelayers.problem.expressions import Arithmetic
from conelayers.problem.parameters import ParameterSpec, flatten
from conelayers.problem.user_values import entries_at_positions

__all__ = ["ARRAYS"]


@final
class _Arrays:
    """Values that are dense arrays, or BCOO matrices."""

    arithmetic: Arithmetic = JaxArithmetic()

    def array(self, value: Any) -> Any:
        return value if isinstance(value, BCOO) else jnp.asarray(value)

    def wide(self, value: Any) -> Any:
        value = self.dense(value)
        wide = jnp.complex128 if jnp.iscomplexobj(value) else jnp.float64
        return value.astype(jax.dtypes.canonicalize_dtype(wide))

    def narrow(self, value: Any, given: Sequence[Any]) -> Any:
        kind = jnp.result_type(*(g.dtype for g in given))
        if not jnp.issubdtype(kind, jnp.inexact):
            kind = jax.dtypes.canonicalize_dtype(jnp.float64)
        real = jnp.finfo(kind).dtype
        return value.astype(jnp.result_type(real, jnp.complex64) if jnp.iscomplexobj(value) else real)

    def dense(self, value: Any) -> Any:
        return value.todense() if isinstance(value, BCOO) else jnp.asarray(value)

    def entries(self, value: Any, spec: ParameterSpec) -> Any:
        if isinstance(value, BCOO) and value.n_batch == 0 and value.n_dense == 0 and value.ndim == len(spec.shape):
            within = (value.indices < jnp.asarray(spec.shape)).all(axis=1)  # BCOO pads with indices beyond the shape
            rows, columns = value.indices.astype(jax.dtypes.canonicalize_dtype(np.int64)).T
            return entries_at_positions(_SparseOperations(), rows, columns, value.data, spec, within)
        positions = np.asarray(spec.positions or (), dtype=np.int64)
        value = self.dense(value)
        if value.ndim > len(spec.shape):
            return flatten(value)[:, positions]
        return flatten(value[None])[0, positions]

    def concrete(self, value: Any) -> np.ndarray | None:
        return None if isinstance(value, BCOO | jax.core.Tracer) else np.asarray(value)

    def joined(self, real: Any, imaginary: Any) -> Any:
        return real + 1j * imaginary


@final
class _SparseOperations:
    def index(self, array: np.ndarray) -> jax.Array:
        return jnp.asarray(array)

    def search(self, ordered: jax.Array, wanted: jax.Array) -> jax.Array:
        return jnp.searchsorted(ordered, wanted)

    def where(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(mask, x, 0)

    def holds_somewhere(self, mask: jax.Array) -> bool:
        return not isinstance(mask, jax.core.Tracer) and bool(mask.any())

    def add_at(self, size: int, places: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.zeros(size, values.dtype).at[places].add(values)


ARRAYS = _Arrays()
