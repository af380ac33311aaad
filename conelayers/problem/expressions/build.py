"""Shorthands that make nodes, with the shapes of their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from conelayers.problem.expressions.nodes import Expression, Node

__all__ = ["function", "labels", "matmul", "multiply", "node", "size", "take", "total", "unary"]


def node(operation: str, *children: Expression, shape: Sequence[int], **data: Any) -> Node:
    """An operation with its fixed arguments by name."""
    return Node(operation, children, tuple(int(n) for n in shape), tuple(data.items()))


def take(shape: Sequence[int], positions: np.ndarray, *children: Expression) -> Expression:
    """Entry k of the flattened result is entry positions[k] of the children, flattened row by row and joined."""
    flat = np.ravel(positions).astype(np.int64)
    if len(children) == 1 and np.array_equal(flat, np.arange(size(children[0]))):
        return node("reshape", children[0], shape=shape)
    return node("take", *children, shape=shape, index=flat)


def size(x: Expression) -> int:
    """The number of entries."""
    return int(np.prod(x.shape, dtype=np.int64))


def labels(*children: Expression) -> list[np.ndarray]:
    """Positions in the children, flattened and joined, in their shapes."""
    starts = np.cumsum([0, *(size(c) for c in children)])
    return [start + np.arange(size(c)).reshape(c.shape) for start, c in zip(starts[:-1], children, strict=True)]


def total(x: Expression, axes: Sequence[int] | None = None, shape: Sequence[int] = ()) -> Node:
    """The sum over axes, all of them for None."""
    return node("sum", x, shape=shape, axes=tuple(range(len(x.shape)) if axes is None else axes))


def multiply(x: Expression, y: Expression, operation: str = "multiply") -> Node:
    """An operation on two broadcast operands."""
    return node(operation, x, y, shape=np.broadcast_shapes(x.shape, y.shape))


def matmul(x: Expression, y: Expression) -> Node:
    """x @ y by NumPy's rules."""
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return node("matmul", x, y, shape=(*batch, *x.shape[-2:-1], *y.shape[1:][-1:]))


def function(name: str, x: Expression) -> Node:
    """A function that NumPy calls by that name."""
    return node("function", x, shape=x.shape, name=name)


def unary(operation: str, x: Expression, **data: Any) -> Node:
    """An operation that keeps the shape."""
    return node(operation, x, shape=x.shape, **data)
