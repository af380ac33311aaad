"""References that the tests compare with: central differences and cvxpy's own solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def central_difference(function: Callable[[float], float], step: float) -> float:
    """Fourth-order central difference of a scalar function at 0."""
    return (8 * (function(step) - function(-step)) - (function(2 * step) - function(-2 * step))) / (12 * step)


def direction_for(
    attributes: frozenset[str], positions: Sequence[int] | None, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """A random direction that keeps a parameter's attributes."""
    d = rng.standard_normal(shape)
    if positions is not None:
        mask = np.zeros(d.size, dtype=bool)
        mask[list(positions)] = True
        d = np.where(mask.reshape(shape, order="F"), d, 0.0)
    if attributes & {"symmetric", "PSD", "NSD"}:
        d = d + d.T
    return d
