"""Primitives of JAX that call NumPy functions on the host, and what their rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jax.sharding import PartitionSpec

__all__ = ["alike", "check_handed_over", "front", "host_primitive", "known", "mapped_size", "wide"]

Array = jax.Array


def host_primitive(name: str, host: Callable[..., Any], shapes: Callable[..., Sequence[tuple[Any, Any]]]) -> Primitive:
    """A primitive that calls ``host`` with NumPy arrays.

    shapes: gives the shape and dtype of each result; None stands for the dtype of the inputs.
    """
    primitive = Primitive(f"conelayers_{name}")
    primitive.multiple_results = True

    def impl(*args: Any, **params: Any) -> list[Array]:
        return [jnp.asarray(h) for h in host(*map(np.asarray, args), **params)]

    def abstract(*avals: Any, **params: Any) -> list[Any]:
        return [
            _aval(avals[0], shape, avals[0].dtype if dtype is None else dtype)
            for shape, dtype in shapes(*avals, **params)
        ]

    def compiled(*args: Array, **params: Any) -> Sequence[Array]:
        results = [
            jax.ShapeDtypeStruct(shape, args[0].dtype if dtype is None else dtype)
            for shape, dtype in shapes(*args, **params)
        ]

        dtypes = [a.dtype for a in args]  # the tracers themselves must not outlive the trace

        def call(*arrays: Any) -> tuple[np.ndarray, ...]:
            given = [np.asarray(a) for a in arrays]
            check_handed_over("ConeLayer", given, dtypes)
            return tuple(host(*given, **params))

        return jax.pure_callback(call, results, *args)

    primitive.def_impl(impl)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(compiled, multiple_results=True))
    return primitive


def _aval(like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The abstract value of a result, which varies over the same axes of a shard_map as ``like`` does."""
    if getattr(like, "mat", None) is None or like.sharding.mesh.empty:
        return ShapedArray(shape, dtype)
    sharding = like.sharding.update(spec=PartitionSpec(*(None,) * len(shape)))
    return like.update(shape=shape, dtype=np.dtype(dtype), weak_type=False, sharding=sharding)


def alike(*arrays: Array) -> Sequence[Array]:
    """The arrays, each made to vary over all axes of a shard_map over which one of them varies."""
    axes: list[frozenset[str]] = [getattr(getattr(jax.typeof(a), "mat", None), "varying", frozenset()) for a in arrays]
    union = frozenset().union(*axes)
    if not union:
        return arrays
    return [
        jax.lax.pcast(a, tuple(sorted(union - own)), to="varying") if union - own else a
        for a, own in zip(arrays, axes, strict=True)
    ]


def front(value: Array, dim: int | None, size: int) -> Array:
    """The array with the mapped axis in front; repeated along one where it has none."""
    return jnp.broadcast_to(value, (size, *value.shape)) if dim is None else jnp.moveaxis(value, dim, 0)


def known(tangent: Any) -> Any:
    """The tangent, or None for a symbolic zero."""
    return None if type(tangent) is ad.Zero else tangent


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in double precision."""
    return [a.astype(np.float64) for a in arrays]


def check_handed_over(name: str, given: Sequence[np.ndarray], dtypes: Sequence[Any]) -> None:
    """Raises TypeError where a callback is given other dtypes than the function ``name`` was compiled for."""
    if [g.dtype for g in given] != list(dtypes):
        raise TypeError(
            f"{name}: compiled for {dtypes[0]}, but JAX handed over {given[0].dtype}: its context manager enable_x64 "
            'does not reach the threads of callbacks; set jax.config.update("jax_enable_x64", True) at the start'
        )


def mapped_size(args: Sequence[Array], dims: Sequence[int | None]) -> int:
    """The length of the mapped axis."""
    return next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
