"""Expressions as graphs of plain data, which pickle, and their evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from conelayers.expressions.arithmetic import Arithmetic
from conelayers.expressions.operations import OPERATIONS

__all__ = ["Node", "evaluate"]


@final
@dataclass(frozen=True, eq=False)
class Node:
    """An ``operation`` (operations.py) on the ``children``, with ``data`` that is fixed; ``shape`` is its value's, of one instance.

    "parameter" has the parameter's position as its data, "constant" an array.
    """

    operation: str
    children: tuple[Node, ...]
    shape: tuple[int, ...]
    data: tuple[Any, ...] = ()

    @cached_property
    def parameters(self) -> frozenset[int]:
        """The positions of the parameters in it."""
        if self.operation == "parameter":
            return frozenset(self.data)
        return frozenset().union(*(child.parameters for child in self.children))


def evaluate(nodes: Sequence[Node], values: Sequence[Any], arithmetic: Arithmetic) -> list[Any]:
    """The values of the nodes, (B, *shape), for those of the parameters, (B, *shape) or (1, *shape) each; None for ones in no node.

    B is 1 where nothing with a batch enters. What several nodes share is computed once.
    """
    known: dict[int, Any] = {}
    like = next(v for v in values if v is not None)

    def value(node: Node) -> Any:
        if id(node) in known:
            return known[id(node)]
        if node.operation == "parameter":
            h = values[node.data[0]]
        elif node.operation == "constant":
            h = arithmetic.constant(np.asarray(node.data[0])[None], like)
        else:
            shapes = [child.shape for child in node.children]
            h = OPERATIONS[node.operation](
                arithmetic, [value(c) for c in node.children], shapes, node.shape, *node.data
            )
        known[id(node)] = h
        return h

    return [value(node) for node in nodes]
