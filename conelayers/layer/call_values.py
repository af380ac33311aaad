"""The values of a call over NumPy arrays: from what the user passes to a checked batch of the program's θ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from conelayers.problem.numpy_values import ARRAYS
from conelayers.problem.parameter_checks import check_theta, check_values, combine_batch, given_arrays
from conelayers.problem.parameters import Batch, ParameterSpec, flatten, moved_array, unflatten
from conelayers.problem.parametric import ParametricProgram

__all__ = ["batch_of_flat", "batch_of_theta", "batch_of_values", "pushed_values"]


def pushed_values(
    compiled: ParametricProgram, theta: Sequence[Any], *, validate: bool
) -> tuple[Sequence[Any], Sequence[Any]]:
    """The user's values as arrays, and the values that the input map makes of them for the program's parameters."""
    input_map = compiled.input_map
    if input_map.is_identity:  # the program makes arrays of its values itself
        return theta, theta
    given = input_map.arrays(theta)
    input_map.check_finite(given, ARRAYS)
    with np.errstate(all="ignore"):
        return given, input_map.push(given, ARRAYS, validate=validate)


def batch_of_values(compiled: ParametricProgram, values: Sequence[Any], *, validate: bool) -> Batch:
    """The checked batch of values of the program's own parameters, (*shape) or (B, *shape) each.

    Raises ValueError naming the parameter and the instance.
    """
    arrays = given_arrays(compiled.parameters, values)
    batch = combine_batch(compiled.parameters, arrays, validate=validate, infinite=compiled.infinite)
    if not batch.finite:
        compiled.check_bounds(batch.theta, batch.batched)
    return batch


def batch_of_theta(compiled: ParametricProgram, theta: np.ndarray, *, validate: bool) -> Batch:
    """The checked batch of θ (B, p), the program's parameters flattened column by column, one after the other.

    Raises ValueError naming the parameter and the instance.
    """
    specs = compiled.parameters
    given = theta = check_theta(specs, theta)
    for spec in specs:
        values, infinite = unflatten(theta[:, spec.columns], spec.shape), compiled.infinite[spec.columns]
        check_values(spec, values, True, attributes=validate, infinite=infinite)
        if validate and spec.moved:
            theta = theta.copy() if theta is given else theta
            theta[:, spec.columns] = flatten(moved_array(spec, values))
    compiled.check_bounds(theta, True)
    return batch_of_flat(specs, theta)


def batch_of_flat(specs: Sequence[ParameterSpec], theta: np.ndarray) -> Batch:
    """The batch of θ (B, p) that was checked before."""
    return Batch(specs, (True,) * len(specs), len(theta), theta=theta, finite=bool(np.isfinite(theta).all()))
