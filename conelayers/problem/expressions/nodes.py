"""The nodes of an expression's graph: parameters, constants, and operations on other nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np

__all__ = ["Constant", "Expression", "Node", "Parameter", "positions_in"]


@final
@dataclass(frozen=True, eq=False)
class Parameter:
    """The value at a position among those that are passed in."""

    position: int
    shape: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Constant:
    """An array of float64 or complex128."""

    array: np.ndarray

    def __post_init__(self) -> None:
        kind = np.complex128 if np.iscomplexobj(self.array) else np.float64
        object.__setattr__(self, "array", np.array(self.array, dtype=kind))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@final
@dataclass(frozen=True, eq=False)
class Node:
    """An operation (a name in ``problem.expressions.operations``) on children; ``data``: fixed arguments by name."""

    operation: str
    children: tuple[Expression, ...]
    shape: tuple[int, ...]
    data: tuple[tuple[str, Any], ...] = ()


Expression: TypeAlias = Parameter | Constant | Node


def positions_in(expression: Expression) -> frozenset[int]:
    """The positions of the parameters in an expression."""
    found, seen, waiting = set(), set(), [expression]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Parameter):
            found.add(node.position)
        elif isinstance(node, Node):
            waiting += node.children
    return frozenset(found)
