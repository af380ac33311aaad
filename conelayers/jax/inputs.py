"""The arrays of a call: their checks, their values for the engine, and the dtype of what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

from conelayers.problem.parameter_checks import in_order
from conelayers.problem.parameters import ParameterSpec

__all__ = ["checked_values", "dtype_like", "host_value", "output_type", "traced"]


def checked_values(specs: Sequence[ParameterSpec], params: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """The call's values in the order of the parameters, given by position, by name, or as one dictionary.

    Raises TypeError or ValueError naming the parameter whose value is of another kind.
    """
    if len(params) == 1 and isinstance(params[0], Mapping) and not named:
        params, named = [], params[0]
    values = in_order(specs, params, named)
    for i, p in enumerate(values):
        spec = specs[i] if i < len(specs) else None
        name = spec.numbered(i) if spec is not None else f"parameter {i}"
        if isinstance(p, BCOO) and spec is not None and spec.positions is not None:
            continue
        if isinstance(p, bool) or not isinstance(p, jax.Array | np.ndarray | np.generic | int | float | complex):
            fix = ".todense()" if isinstance(p, BCOO) else "jnp.asarray"
            raise TypeError(
                f"{name}: got {type(p).__name__}, expected an array of JAX or NumPy, or a number; convert it with {fix}"
            )
        _check_host_array(name, p)
        dtype = jax.dtypes.result_type(p)
        taken = [
            jnp.floating,
            jnp.integer,
            *([jnp.complexfloating] if spec is not None and spec.is_complex else []),
        ]
        if not any(jnp.issubdtype(dtype, kind) for kind in taken):
            raise TypeError(f"{name}: got dtype {dtype}, expected a real one; convert it with .astype(float)")
    return values


def _check_host_array(name: str, value: Any) -> None:
    """Raises TypeError, naming the argument, for NumPy arrays that JAX would refuse, or whose mask it would ignore."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got a masked array, expected an array of JAX or NumPy, and its mask would be ignored; pass its "
            ".filled(…)"
        )
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OSUMm":
        raise TypeError(f"{name}: got dtype {value.dtype}, expected a real one; convert it with .astype(float)")


def output_type(values: Sequence[Any]) -> Any:
    """The inputs' common dtype by JAX's promotion: real for complex ones, the default float for integers."""
    dtype = jnp.result_type(*(v.data if isinstance(v, BCOO) else v for v in values)) if values else jnp.dtype("float64")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        dtype = jnp.finfo(dtype).dtype
    return jax.dtypes.canonicalize_dtype(dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float64)


def host_value(value: Any) -> Any:
    """A concrete value as JAX would hold it, in float64, or complex128."""
    if isinstance(value, BCOO):
        if value.n_batch == value.n_dense == 0 and value.ndim == 2:
            indices, data = np.asarray(value.indices), np.asarray(value.data, dtype=np.float64)
            stored = (indices < np.asarray(value.shape)).all(axis=1)  # BCOO pads with indices beyond the shape
            return sp.coo_array((data[stored], tuple(indices[stored].T)), shape=value.shape)
        value = value.todense()
    dtype = jax.dtypes.canonicalize_dtype(jax.dtypes.result_type(value))
    return np.asarray(
        np.asarray(value, dtype), np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64
    )


def traced(values: Sequence[Any]) -> bool:
    """Whether a transformation of JAX, or a compilation, is under way."""
    return any(isinstance(h, jax.core.Tracer) for h in jax.tree_util.tree_leaves(list(values)))


def dtype_like(dtype: Any, value: np.ndarray) -> Any:
    """The real dtype, or its complex counterpart for complex values."""
    return jnp.result_type(dtype, jnp.complex64) if np.iscomplexobj(value) else dtype
