"""Operations along axes: sums, products, norms, order statistics and cumulative ones.

``axes`` are those of the operand without its batch, in ascending order; the result's shape says whether they are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conelayers.problem.expressions.arithmetic import Arithmetic, Array

__all__ = [
    "cummax",
    "cumprod",
    "cumsum",
    "geo_mean",
    "log_sum_exp",
    "maximum",
    "pnorm",
    "product",
    "sort",
    "sorted_sum",
    "total",
]

Shape = tuple[int, ...]


def _last(xp: Arithmetic, x: Array, axes: Shape) -> Array:
    """(b, *kept, n): the axes as one, the last."""
    rank = len(x.shape) - 1
    kept = [a for a in range(rank) if a not in axes]
    if (order := (*kept, *axes)) != tuple(range(rank)):
        x = xp.permute(x, (0, *(a + 1 for a in order)))
    return xp.reshape(x, (*x.shape[: 1 + len(kept)], -1))


def _shaped(xp: Arithmetic, x: Array, shape: Shape) -> Array:
    return xp.reshape(x, (x.shape[0], *shape))


def total(xp: Arithmetic, shape: Shape, x: Array, axes: Shape) -> Array:
    """Σ x."""
    return _shaped(xp, xp.sum(x, tuple(a + 1 for a in axes)) if axes else x, shape)


def product(xp: Arithmetic, shape: Shape, x: Array, axes: Shape) -> Array:
    """Π x, pair by pair: no division, so that zeros do no harm to derivatives."""
    x = _last(xp, x, axes)
    while (n := x.shape[-1]) > 1:
        half = n // 2
        pairs = x[..., :half] * x[..., half : 2 * half]
        x = xp.join([pairs, x[..., 2 * half :]], len(x.shape) - 1) if n % 2 else pairs
    return _shaped(xp, x, shape)


def maximum(xp: Arithmetic, shape: Shape, x: Array, axes: Shape) -> Array:
    """max x."""
    return _shaped(xp, xp.amax(_last(xp, x, axes)), shape)


def log_sum_exp(xp: Arithmetic, shape: Shape, x: Array, axes: Shape) -> Array:
    """log Σ exp(x − m) + m with m the largest, a constant."""
    x = _last(xp, x, axes)
    m = xp.amax(xp.stop(x))
    m = xp.where(xp.elementwise("isfinite", m), m, 0.0)
    return _shaped(xp, xp.elementwise("log", xp.sum(xp.elementwise("exp", x - m[..., None]), (-1,))) + m, shape)


def pnorm(xp: Arithmetic, shape: Shape, x: Array, axes: Shape, p: float) -> Array:
    """(Σ|x|ᵖ)^(1/p), of x over its largest entry; 0 with the derivative 0 at 0.

    For p < 1 a negative entry gives −∞, for p < 0 a zero gives 0.
    """
    x = _last(xp, x, axes)
    size = xp.elementwise("abs", x)
    fixed = xp.stop(size)
    largest = xp.amax(fixed)
    scale = xp.where((largest > 0) & xp.elementwise("isfinite", largest), largest, 1.0)
    even = p % 2 == 0 and not _is_complex(x)
    y = (x if even else size) / scale[..., None]
    if p < 0:
        y = xp.where(fixed == 0, 1.0, y)
    powers = xp.sum(xp.power(y, p), (-1,))
    null = xp.stop(powers) == 0
    norm = scale * xp.where(null, 0.0, xp.power(xp.where(null, 1.0, powers), 1 / p))
    if p < 0:
        norm = xp.where(-xp.amax(-fixed) == 0, 0.0, norm)
    if p < 1:
        norm = xp.where(xp.amax(-xp.stop(x)) > 0, -np.inf, norm)
    return _shaped(xp, norm, shape)


def _is_complex(x: Array) -> bool:
    return "complex" in str(x.dtype)


def geo_mean(xp: Arithmetic, shape: Shape, x: Array, axes: Shape, index: Array, weights: Array) -> Array:
    """Π xᵢ^wᵢ over the entries with a positive weight; 0 with the derivative 0 where one of them is 0."""
    x = _last(xp, x, axes)[..., index]
    fixed = xp.stop(x)
    least = -xp.amax(-fixed)
    logarithm = xp.elementwise("log", xp.where(fixed > 0, x, 1.0))
    mean = xp.elementwise("exp", xp.sum(weights * logarithm, (-1,)))
    return _shaped(xp, xp.where(least > 0, mean, xp.where(least == 0, 0.0, 0 * least + np.nan)), shape)


def sorted_sum(xp: Arithmetic, shape: Shape, x: Array, axes: Shape, weights: Array) -> Array:
    """Σ wᵢ x₍ᵢ₎ with x₍₁₎ ≤ x₍₂₎ ≤ …."""
    return _shaped(xp, xp.sum(weights * xp.sort(_last(xp, x, axes)), (-1,)), shape)


def sort(xp: Arithmetic, shape: Shape, x: Array) -> Array:
    """All entries, ascending."""
    return xp.sort(xp.reshape(x, (x.shape[0], -1)))


def _scan(xp: Arithmetic, shape: Shape, x: Array, axis: int | None, combine: Callable[[Array, Array], Array]) -> Array:
    """yₖ = x₁ ∘ … ∘ xₖ in log₂ n steps, each joining windows that do not overlap."""
    axis = 0 if axis is None else axis
    axis, x = axis + 1, xp.reshape(x, (x.shape[0], *shape))
    before = (slice(None),) * axis
    step = 1
    while step < x.shape[axis]:
        joined = combine(x[(*before, slice(step, None))], x[(*before, slice(None, -step))])
        x = xp.join([x[(*before, slice(None, step))], joined], axis)
        step *= 2
    return x


def cumsum(xp: Arithmetic, shape: Shape, x: Array, axis: int | None) -> Array:
    """x₁ + … + xₖ."""
    return _scan(xp, shape, x, axis, lambda a, b: a + b)


def cumprod(xp: Arithmetic, shape: Shape, x: Array, axis: int | None) -> Array:
    """x₁ ⋯ xₖ."""
    return _scan(xp, shape, x, axis, lambda a, b: a * b)


def cummax(xp: Arithmetic, shape: Shape, x: Array, axis: int | None) -> Array:
    """max(x₁, …, xₖ)."""
    return _scan(xp, shape, x, axis, xp.maximum)
