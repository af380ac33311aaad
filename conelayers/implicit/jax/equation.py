"""An equation in JAX: the user's function is traced, and arrays that it closes over become arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from conelayers.implicit.equation import Equation, Theta, check_returned, prepared
from conelayers.implicit.jax.arrays import ARRAYS
from conelayers.implicit.options import Options
from conelayers.jax.host_primitive import front

__all__ = ["mapped", "pose"]

Array = jax.Array


def mapped(
    equation: Equation, axis: Any, args: Sequence[Any], dims: Sequence[int | None]
) -> tuple[Equation, Sequence[Any]]:
    """The equation with one more axis of instances, which the user's function knows by name, and (z, *leaves) for it.

    dims: the position of the axis in each argument; z has it in front afterwards.
    """
    function = jax.vmap(equation.function, in_axes=(0, *dims[1:]), axis_name=axis.name)
    return equation.with_axis(function), (front(args[0], dims[0], axis.size), *args[1:])


def pose(
    options: Options, function: Callable[..., Any], z0: Any, theta: tuple[Any, ...]
) -> tuple[Equation, Array, tuple[Array, ...]]:
    """The equation as a function of arrays alone, z0 in its dtype, and these arrays.

    They are the arrays of theta, and those that the function closes over.
    """
    options, own_function, z0, restored = prepared(ARRAYS, options, function, z0)
    z0 = jax.lax.stop_gradient(jnp.asarray(z0, jnp.asarray(z0).dtype))
    leaves, structure = jax.tree.flatten(theta)
    own = Theta.of(ARRAYS, leaves, lambda values: jax.tree.unflatten(structure, values))
    arrays = [jnp.asarray(leaves[i]) for i in own.places]

    def flatten(given: Any) -> list[Array]:
        values = jax.tree.leaves(tuple(given))
        return [jnp.asarray(values[i]) for i in own.places]

    of_arrays = lambda z, *values: own_function(z, *own.unflatten(values))  # noqa: E731
    returned = jax.eval_shape(of_arrays, z0, *arrays)
    check_returned(ARRAYS, options, returned, jax.ShapeDtypeStruct, z0)
    z0 = z0.astype(jnp.promote_types(z0.dtype, returned.dtype))
    traced = jax.make_jaxpr(of_arrays)(z0, *arrays)
    jaxpr, count = traced.jaxpr, len(arrays)  # the equation must not hold tracers

    def of_leaves(z: Array, *leaves: Array) -> Array:
        return jaxpr_as_fun(ClosedJaxpr(jaxpr, leaves[count:]))(z, *leaves[:count])[0]

    equation = Equation(
        options=options,
        function=of_leaves,
        axes=int(options.batched),
        unflatten=own.unflatten,
        flatten=flatten,
        restored=restored,
    )
    return equation, z0, (*arrays, *traced.consts)
