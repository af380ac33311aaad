"""What the operations compute, for arrays with a batch axis in front, of length B or 1.

Each takes the arithmetic, the values and shapes of its arguments, the shape of its result, and its fixed data. Where a function has a
kink its gradient is an element of the Clarke subdifferential: 0 of a norm and of |·| at 0, a convex combination where a maximum is tied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from conelayers.expressions.arithmetic import Arithmetic

__all__ = ["OPERATIONS"]

Shape = tuple[int, ...]
Operation = Callable[..., Any]

OPERATIONS: dict[str, Operation] = {}


def _operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__.rstrip("_")] = function
    return function


def _aligned(xp: Arithmetic, args: list[Any], shapes: list[Shape]) -> list[Any]:
    """With as many axes each, so that they broadcast instance by instance."""
    most = max(len(s) for s in shapes)
    return [xp.reshape(h, (h.shape[0], *(1,) * (most - len(s)), *s)) for h, s in zip(args, shapes, strict=True)]


def _flat(xp: Arithmetic, h: Any) -> Any:
    return xp.reshape(h, (h.shape[0], math.prod(h.shape[1:])))


def _together(xp: Arithmetic, parts: list[Any]) -> Any:
    """(B, sizes together) from flat parts."""
    batch = max(h.shape[0] for h in parts)
    return xp.concatenate([xp.broadcast(h, (batch, h.shape[1])) for h in parts], 1)


def _shaped(xp: Arithmetic, h: Any, shape: Shape) -> Any:
    return xp.reshape(h, (h.shape[0], *shape))


def _axes(shape: Shape, axis: Any) -> tuple[int, ...]:
    """cvxpy's axis as axes of an array with a batch in front."""
    if axis is None:
        return tuple(range(1, len(shape) + 1))
    chosen = axis if isinstance(axis, tuple) else (axis,)
    return tuple(a % len(shape) + 1 for a in chosen)


def _zero_safe(xp: Arithmetic, name: str, h: Any, at_zero: float = 0.0) -> Any:
    """A function of h ≥ 0 that is ``at_zero`` for h = 0, with the gradient 0 there."""
    positive = h > 0
    one = h * 0 + 1
    return xp.where(positive, xp.elementwise(name, xp.where(positive, h, one)), h * 0 + at_zero)


def _absolute(xp: Arithmetic, h: Any) -> Any:
    if not xp.is_complex(h):
        return xp.elementwise("abs", h)
    return _zero_safe(xp, "sqrt", xp.real(h) ** 2 + xp.imag(h) ** 2)


def _squares(xp: Arithmetic, h: Any) -> Any:
    return xp.real(h) ** 2 + xp.imag(h) ** 2 if xp.is_complex(h) else h * h


# Affine ones


@_operation
def add(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    total, *others = _aligned(xp, args, shapes)
    for h in others:
        total = total + h
    return _shaped(xp, total, shape)


@_operation
def negative(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return -args[0]


@_operation
def multiply(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    a, b = _aligned(xp, args, shapes)
    return _shaped(xp, a * b, shape)


@_operation
def divide(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    a, b = _aligned(xp, args, shapes)
    return _shaped(xp, a / b, shape)


@_operation
def matmul(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    (a, b), (s, t) = args, shapes
    if not s or not t:
        return multiply(xp, args, shapes, shape)
    s, t = (1, *s) if len(s) == 1 else s, (*t, 1) if len(t) == 1 else t
    a, b = _aligned(xp, [_shaped(xp, a, s), _shaped(xp, b, t)], [s, t])
    return _shaped(xp, xp.matmul(a, b), shape)


@_operation
def select(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, index: np.ndarray) -> Any:
    """Entries of the arguments, row by row and one after the other, at ``index``; −1 stands for zero."""
    flat = _together(xp, [_flat(xp, h) for h in args])
    if (index < 0).any():
        flat = xp.concatenate([flat, flat[:, :1] * 0], 1)
        index = np.where(index < 0, flat.shape[1] - 1, index)
    return _shaped(xp, xp.take(flat, index), shape)


@_operation
def linear(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, matrix: np.ndarray) -> Any:
    """matrix times the argument, row by row."""
    (h,) = args
    return _shaped(xp, xp.matmul(_flat(xp, h), xp.constant(matrix.T, h)), shape)


@_operation
def bilinear(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, index: np.ndarray) -> Any:
    """Sums of products aᵢbⱼ, the one of number i·len(b) + j counted in the entry index[i·len(b) + j]."""
    a, b = (_flat(xp, h) for h in args)
    products = _flat(xp, a[:, :, None] * b[:, None, :])
    matrix = np.zeros((index.size, math.prod(shape)))
    matrix[np.arange(index.size), index] = 1.0
    return _shaped(xp, xp.matmul(products, xp.constant(matrix, products)), shape)


@_operation
def sum_(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, axis: Any) -> Any:
    return _shaped(xp, xp.reduce("sum", args[0], _axes(shapes[0], axis)), shape)


@_operation
def cumsum(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, axis: Any) -> Any:
    if axis is None:  # column by column
        h = xp.transpose(args[0], (0, *range(len(shapes[0]), 0, -1)))
        return _shaped(xp, xp.cumsum(_flat(xp, h), 1), shape)
    return xp.cumsum(args[0], _axes(shapes[0], axis)[0])


@_operation
def part(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, which: str) -> Any:
    return {"real": xp.real, "imag": xp.imag, "conj": xp.conj}[which](args[0])


@_operation
def same(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return args[0]


# Elementwise ones


@_operation
def elementwise(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, name: str) -> Any:
    result, *others = _aligned(xp, args, shapes)
    if not others:
        return xp.elementwise(name, result)
    for h in others:
        result = xp.elementwise(name, result, h)
    return _shaped(xp, result, shape)


@_operation
def absolute(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return _absolute(xp, args[0])


@_operation
def power(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, exponent: float) -> Any:
    (h,) = args
    if exponent == int(exponent):
        result, base = h * 0 + 1, h
        k = abs(int(exponent))
        while k:
            result = result * base if k % 2 else result
            base, k = base * base, k // 2
        return 1 / result if exponent < 0 else result
    return (
        xp.elementwise("sqrt", h) if exponent == 0.5 else xp.elementwise("power", h, xp.constant(np.array(exponent), h))
    )


@_operation
def entropy(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return _entropy(xp, args[0])


def _entropy(xp: Arithmetic, h: Any) -> Any:
    return -h * _zero_safe(xp, "log", h)


@_operation
def relative_entropy(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, kl: bool) -> Any:
    """x log(x/y), and − x + y for Kullback and Leibler's."""
    x, y = _aligned(xp, args, shapes)
    value = -_entropy(xp, x) - x * xp.elementwise("log", y)
    return _shaped(xp, value - x + y if kl else value, shape)


@_operation
def huber(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    x, M = _aligned(xp, args, shapes)
    size = xp.elementwise("abs", x)
    inner = xp.elementwise("minimum", size, M)
    return _shaped(xp, inner * (2 * size - inner), shape)


@_operation
def logistic(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return xp.elementwise("logaddexp", args[0], args[0] * 0)


@_operation
def x_exp(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return args[0] * xp.elementwise("exp", args[0])


@_operation
def one_minus(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return 1 - args[0]


# Norms, reductions


@_operation
def norm(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, p: float, axis: Any) -> Any:
    (h,), axes = args, _axes(shapes[0], axis)
    if p == 1:
        value = xp.reduce("sum", _absolute(xp, h), axes)
    elif p == math.inf:
        value = xp.reduce("max", _absolute(xp, h), axes)
    elif p == 2:
        # Scaled, so that squares neither overflow nor vanish.
        size = xp.stop(xp.reduce("max", _absolute(xp, h), axes))
        size = xp.where(size > 0, size, size * 0 + 1)
        value = size * _zero_safe(xp, "sqrt", xp.reduce("sum", _squares(xp, h / size), axes))
    else:
        exponent, root = xp.constant(np.array(p), h), xp.constant(np.array(1 / p), h)
        size = _absolute(xp, h)
        positive = size > 0
        terms = xp.where(positive, xp.elementwise("power", xp.where(positive, size, size * 0 + 1), exponent), size * 0)
        total = xp.reduce("sum", terms, axes)
        some = total > 0
        value = xp.where(some, xp.elementwise("power", xp.where(some, total, total * 0 + 1), root), total * 0)
    return _shaped(xp, value, shape)


@_operation
def extremum(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, name: str, axis: Any) -> Any:
    return _shaped(xp, xp.reduce(name, args[0], _axes(shapes[0], axis)), shape)


@_operation
def sum_largest(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, k: float, axis: Any) -> Any:
    (h,) = args
    if axis is None:
        h = _flat(xp, h)
    else:
        (last,) = _axes(shapes[0], axis)
        h = xp.transpose(h, (*(i for i in range(h.ndim) if i != last), last))
    return _shaped(xp, xp.reduce("sum", h * _weights(xp, h, k), (h.ndim - 1,)), shape)


def _weights(xp: Arithmetic, h: Any, k: float) -> Any:
    """1 for the k largest entries along the last axis, the fraction that remains for the next."""
    left = k - xp.ranks(h)
    return xp.elementwise("minimum", xp.elementwise("maximum", left, left * 0), left * 0 + 1)


@_operation
def sorted_product(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    """⟨sort(x), sort(w)⟩, the shorter one filled up with zeros."""
    x, w = (_flat(xp, h) for h in args)
    size = max(x.shape[1], w.shape[1])
    x, w = (xp.concatenate([h, xp.broadcast(h[:, :1] * 0, (h.shape[0], size - h.shape[1]))], 1) for h in (x, w))
    # Entry i meets entry j of the same rank.
    meet = xp.where(
        xp.ranks(x)[:, :, None] == xp.ranks(w)[:, None, :],
        1 + 0 * xp.stop(x[:, :, None] * w[:, None, :]),
        0 * xp.stop(x[:, :, None] * w[:, None, :]),
    )
    return _shaped(xp, xp.reduce("sum", meet * x[:, :, None] * w[:, None, :], (1, 2)), shape)


@_operation
def log_sum_exp(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, axis: Any) -> Any:
    (h,), axes = args, _axes(shapes[0], axis)
    top = xp.stop(xp.reduce("max", h, axes))
    return _shaped(xp, top + xp.elementwise("log", xp.reduce("sum", xp.elementwise("exp", h - top), axes)), shape)


@_operation
def product(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, axis: Any) -> Any:
    (h,), axes = args, _axes(shapes[0], axis)
    return _shaped(xp, _scan(xp, h, axes, lambda a, b: a * b)[-1], shape)


@_operation
def accumulate(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, name: str, axis: Any) -> Any:
    """Partial products, or maxima."""
    step = (lambda a, b: a * b) if name == "multiply" else (lambda a, b: xp.elementwise("maximum", a, b))
    if axis is None:
        flat = _flat(xp, xp.transpose(args[0], (0, *range(len(shapes[0]), 0, -1))))
        return _shaped(xp, xp.concatenate(_scan(xp, flat, (1,), step), 1), shape)
    axes = _axes(shapes[0], axis)
    return xp.concatenate(_scan(xp, args[0], axes, step), axes[0])


def _scan(xp: Arithmetic, h: Any, axes: tuple[int, ...], step: Callable[[Any, Any], Any]) -> list[Any]:
    """Partial results along the axes, which come last and together."""
    if len(axes) > 1:
        others = tuple(i for i in range(h.ndim) if i not in axes)
        h = xp.transpose(h, (*others, *axes))
        h = xp.reshape(h, (*h.shape[: len(others)], -1))
        axes = (h.ndim - 1,)
    (axis,) = axes
    slices = [h[(slice(None),) * axis + (slice(i, i + 1),)] for i in range(h.shape[axis])]
    found = slices[:1]
    for one in slices[1:]:
        found.append(step(found[-1], one))
    return found


@_operation
def geometric_mean(
    xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, weights: np.ndarray, axis: Any
) -> Any:
    """∏ xᵢ^wᵢ."""
    (h,), axes = args, _axes(shapes[0], axis)
    used = np.flatnonzero(weights)
    others = tuple(i for i in range(h.ndim) if i not in axes)
    h = xp.transpose(h, (*others, *axes))
    h = xp.reshape(h, (*h.shape[: len(others)], -1))
    result = None
    for i in used.tolist():
        term = xp.elementwise("power", h[..., i], xp.constant(np.array(weights[i]), h))
        result = term if result is None else result * term
    return _shaped(xp, result, shape)


# Quadratic ones, and functions of matrices


@_operation
def quadratic_over_linear(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, axis: Any) -> Any:
    x, y = args
    squares = xp.reduce("sum", _squares(xp, x), _axes(shapes[0], axis))
    return _shaped(xp, squares / xp.reshape(y, (y.shape[0], *(1,) * len(shapes[0]))), shape)


@_operation
def quadratic_form(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    x, P = args
    x = xp.reshape(x, (x.shape[0], -1, 1))
    Px = xp.matmul(P, x)
    return _shaped(xp, xp.real(xp.reduce("sum", xp.conj(x) * Px, (1, 2))), shape)


@_operation
def matrix_fraction(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    X, P = args
    X = xp.reshape(X, (X.shape[0], shapes[0][0], -1))
    return _shaped(xp, xp.real(xp.reduce("sum", xp.conj(X) * xp.matmul(xp.inverse(P), X), (1, 2))), shape)


@_operation
def eigenvalue_sum(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, k: float) -> Any:
    """The sum of the k largest eigenvalues; of the −k smallest for k < 0."""
    values = xp.eigenvalues(_hermitian(xp, args[0]))
    weights = _weights(xp, values, k) if k > 0 else _weights(xp, -values, -k)
    return _shaped(xp, xp.reduce("sum", values * weights, (values.ndim - 1,)), shape)


@_operation
def general_eigenvalue(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    """The largest λ with A v = λ B v."""
    A, B = (_hermitian(xp, h) for h in args)
    inverse = xp.inverse(xp.cholesky(B))
    values = xp.eigenvalues(_hermitian(xp, xp.matmul(xp.matmul(inverse, A), _adjoint(xp, inverse))))
    return _shaped(xp, values[..., -1], shape)


@_operation
def matrix_norm(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, name: str) -> Any:
    """The sum, or the maximum, of the singular values."""
    values = xp.singular_values(args[0])
    return _shaped(xp, xp.reduce(name, values, (values.ndim - 1,)), shape)


@_operation
def matrix_entropy(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    values = xp.eigenvalues(_hermitian(xp, args[0]))
    return _shaped(
        xp, xp.reduce("sum", _entropy(xp, xp.elementwise("maximum", values, values * 0)), (values.ndim - 1,)), shape
    )


@_operation
def log_determinant(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    return _shaped(xp, xp.log_determinant(args[0]), shape)


@_operation
def inverse_trace(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    inverse = xp.inverse(args[0])
    n = shapes[0][0]
    diagonal = xp.take(_flat(xp, inverse), np.arange(n) * (n + 1))
    return _shaped(xp, xp.real(xp.reduce("sum", diagonal, (1,))), shape)


@_operation
def resolvent(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape) -> Any:
    """(I − X)⁻¹."""
    (X,) = args
    return xp.inverse(xp.constant(np.eye(shapes[0][0])[None], X) - X)


@_operation
def cholesky(xp: Arithmetic, args: list[Any], shapes: list[Shape], shape: Shape, sign: int, name: str) -> Any:
    """L with sign·P = L Lᴴ. Raises ValueError where sign·P is not positive definite."""
    try:
        return xp.cholesky(_hermitian(xp, sign * args[0]))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"{name}: got a value that is not {'positive' if sign > 0 else 'negative'} definite, expected one, as its factor is a parameter of the "
            "cone program (quad_form in a constraint, or for a solver without a quadratic objective); add a small multiple of the "
            "identity, or write quad_form(x, psd_wrap(M.T @ M))"
        ) from error


def _adjoint(xp: Arithmetic, h: Any) -> Any:
    return xp.conj(xp.transpose(h, (*range(h.ndim - 2), h.ndim - 1, h.ndim - 2)))


def _hermitian(xp: Arithmetic, h: Any) -> Any:
    return (h + _adjoint(xp, h)) / 2
