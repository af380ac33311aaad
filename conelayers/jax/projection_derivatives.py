"""D(v)h and D²Π(v)[a, c] of projections onto cones, as primitives for all of JAX's transformations.

derivative  (v, h) ↦ D(v)h           linear in h; along dv: D²Π(v)[dv, h]
second      (v, a, c) ↦ D²Π(v)[a, c]   linear in a and c; a third derivative is refused where the cones are curved
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching

from conelayers.jax.host_primitive import alike, front, host_primitive, known, mapped_size, wide
from conelayers.layer.projection_derivatives import NO_THIRD_DERIVATIVES, ProjectionDerivatives
from conelayers.layer.traced_program import TracedProgram

__all__ = ["derivative", "second", "times_element"]

Array = jax.Array


def derivative(traced: TracedProgram, v: Array, h: Array) -> Array:
    """D(v)h for a program's cones and v, h (..., m), by JAX's own operations where D is diag(v > 0 or free)."""
    if traced.piecewise:
        # Where v is NaN (no solution), h passes through.
        return jnp.where(~(v <= 0) | traced.free, h, jnp.zeros_like(h))
    return times_element(traced.projection, v, h)


def times_element(projection: ProjectionDerivatives, v: Array, h: Array) -> Array:
    """D(v)h for v, h (..., m)."""
    return _derivative_p.bind(*alike(v, h), projection=projection)[0]


def second(projection: ProjectionDerivatives, v: Array, a: Array, c: Array) -> Array:
    """D²Π(v)[a, c] for v, a, c (..., m)."""
    return _second_p.bind(*alike(v, a, c), projection=projection)[0] if projection.curved else jnp.zeros_like(v)


def _pointwise_batch(
    function: Callable[..., Array],
    args: Sequence[Array],
    dims: Sequence[int | None],
    *,
    projection: ProjectionDerivatives,
) -> tuple[Any, Any]:
    size = mapped_size(args, dims)
    return [function(projection, *(front(a, dim, size) for a, dim in zip(args, dims, strict=True)))], [0]


def _derivative_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, projection: ProjectionDerivatives
) -> tuple[Any, Any]:
    (v, h), (dv, dh) = primals, map(known, tangents)
    moved = jnp.zeros_like(h)
    if dv is not None:
        moved += second(projection, v, dv, h)
    if dh is not None:
        moved += times_element(projection, v, dh)
    return [times_element(projection, v, h)], [moved]


def _derivative_transpose(cts: Sequence[Any], v: Any, h: Any, *, projection: ProjectionDerivatives) -> list[Any]:
    return [None, None if type(cts[0]) is ad.Zero else times_element(projection, v, cts[0])]


_derivative_p = host_primitive(
    "derivative",
    lambda v, h, projection: [projection.derivative(*wide(v, h)).astype(v.dtype)],
    lambda v, h, **_: [(v.shape, None)],
)
ad.primitive_jvps[_derivative_p] = _derivative_jvp
ad.primitive_transposes[_derivative_p] = _derivative_transpose
batching.primitive_batchers[_derivative_p] = partial(_pointwise_batch, times_element)


def _second_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, projection: ProjectionDerivatives
) -> tuple[Any, Any]:
    (v, a, c), (dv, da, dc) = primals, map(known, tangents)
    if dv is not None:
        raise NotImplementedError(NO_THIRD_DERIVATIVES)
    moved = jnp.zeros_like(v)
    if da is not None:
        moved += second(projection, v, da, c)
    if dc is not None:
        moved += second(projection, v, a, dc)
    return [second(projection, v, a, c)], [moved]


def _second_transpose(cts: Sequence[Any], v: Any, a: Any, c: Any, *, projection: ProjectionDerivatives) -> list[Any]:
    if type(cts[0]) is ad.Zero:
        return [None] * 3
    # ⟨g, D²Π(v)[a, c]⟩ is symmetric in its three arguments.
    if ad.is_undefined_primal(a):
        return [None, second(projection, v, cts[0], c), None]
    return [None, None, second(projection, v, a, cts[0])]


_second_p = host_primitive(
    "second",
    lambda v, a, c, projection: [projection.second_derivative(*wide(v, a, c)).astype(v.dtype)],
    lambda v, a, c, **_: [(v.shape, None)],
)
ad.primitive_jvps[_second_p] = _second_jvp
ad.primitive_transposes[_second_p] = _second_transpose
batching.primitive_batchers[_second_p] = partial(_pointwise_batch, second)
