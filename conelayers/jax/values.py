"""JAX's arrays as the values of parameters that are not the program's own; see interface.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from conelayers.expressions import Arithmetic
from conelayers.jax.arithmetic import JaxArithmetic
from conelayers.parameters import ParameterSpec, flatten

__all__ = ["ARRAYS", "check_host_array"]


def check_host_array(name: str, value: Any) -> None:
    """Raises TypeError, naming the argument, for arrays of NumPy's that JAX would refuse in words of its own, or whose mask it would ignore."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got a masked array, expected an array of JAX or NumPy, and its mask would be ignored; pass its .filled(…)"
        )
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OSUMm":
        raise TypeError(f"{name}: got dtype {value.dtype}, expected a real one; convert it with .astype(float)")


@final
class _Arrays:
    """Dense arrays, and BCOO matrices."""

    arithmetic: Arithmetic = JaxArithmetic()

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
        positions = np.asarray(spec.positions or (), dtype=np.int64)
        if isinstance(value, BCOO) and value.n_batch == 0 and value.n_dense == 0 and value.ndim == len(spec.shape):
            return _sparse_entries(value, positions, spec)
        value = self.dense(value)
        if value.ndim > len(spec.shape):
            return flatten(value)[:, positions]
        return flatten(value[None])[0, positions]

    def concrete(self, value: Any) -> np.ndarray | None:
        return None if isinstance(value, BCOO | jax.core.Tracer) else np.asarray(value)


ARRAYS = _Arrays()


def _sparse_entries(value: BCOO, positions: np.ndarray, spec: ParameterSpec) -> jax.Array:
    if not positions.size:
        return jnp.zeros(0, value.dtype)
    # BCOO pads with indices beyond the shape.
    within = (value.indices < jnp.asarray(spec.shape)).all(axis=1)
    order = np.argsort(positions)
    ranks = jnp.asarray(positions[order])
    stored = value.indices[:, 0].astype(ranks.dtype) + spec.shape[0] * value.indices[:, 1].astype(ranks.dtype)
    place = jnp.clip(jnp.searchsorted(ranks, stored), 0, positions.size - 1)
    inside = within & (ranks[place] == stored)
    outside = within & ~inside & (value.data != 0)
    if not isinstance(outside, jax.core.Tracer) and bool(outside.any()):
        raise ValueError(
            f"parameter {spec.label}: was declared with a sparsity pattern; got entries outside it that are not zero, expected zeros there"
        )
    data = jnp.where(inside, value.data, 0)
    return jnp.zeros(positions.size, value.dtype).at[jnp.asarray(order)[place]].add(data)
