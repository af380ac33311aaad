"""The value of expressions for a batch of values of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from conelayers.problem.expressions.arithmetic import Arithmetic, Array
from conelayers.problem.expressions.nodes import Constant, Expression, Node, Parameter
from conelayers.problem.expressions.numpy_arithmetic import NumpyArithmetic
from conelayers.problem.expressions.operations import OPERATIONS

__all__ = ["Evaluation", "evaluate"]


@final
class Evaluation:
    """values ↦ the values of expressions, every common subexpression (one object) once.

    Each value is (B, *shape) or (1, *shape), shared by the batch; so is each result, (1, *shape) where nothing batched
    enters. Constants become the framework's here, once, so that a call can be traced, compiled and transformed.
    """

    def __init__(self, nodes: Sequence[Expression], arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        order = _ordered(nodes)
        slot = {id(node): i for i, node in enumerate(order)}
        self.results = tuple(slot[id(node)] for node in nodes)
        self.parameters = [(slot[id(n)], n.position, n.shape) for n in order if isinstance(n, Parameter)]
        self.constants = [(slot[id(n)], arithmetic.constant(n.array[None])) for n in order if isinstance(n, Constant)]
        self.steps = [
            (slot[id(n)], OPERATIONS[n.operation], tuple(slot[id(c)] for c in n.children), n.shape, self._data(n))
            for n in order
            if isinstance(n, Node)
        ]
        self.length = len(order)

    def _data(self, node: Node) -> dict[str, Any]:
        return {k: self.arithmetic.constant(v) if isinstance(v, np.ndarray) else v for k, v in node.data}

    def __call__(self, values: Sequence[Array]) -> list[Array]:
        slots: list[Array] = [None] * self.length
        for i, constant in self.constants:
            slots[i] = constant
        batch = 1
        for i, position, shape in self.parameters:
            value = values[position]
            if tuple(value.shape[1:]) != shape:
                raise ValueError(f"value {position}: got shape {tuple(value.shape)}, expected (batch, *{shape})")
            if value.shape[0] != 1:
                if batch not in (1, value.shape[0]):
                    raise ValueError(f"value {position}: got a batch of {value.shape[0]}, the others have {batch}")
                batch = value.shape[0]
            slots[i] = value
        for i, operation, children, shape, data in self.steps:
            slots[i] = operation(self.arithmetic, shape, *[slots[c] for c in children], **data)
        return [slots[i] for i in self.results]


def evaluate(
    nodes: Sequence[Expression] | Evaluation, values: Sequence[Array], arithmetic: Arithmetic | None = None
) -> list[Array]:
    """The values of expressions, without NumPy's warnings; an ``Evaluation`` kept from call to call saves time."""
    if not isinstance(nodes, Evaluation):
        nodes = Evaluation(nodes, arithmetic or NumpyArithmetic())
    with np.errstate(all="ignore"):
        return nodes(values)


def _ordered(nodes: Sequence[Expression]) -> list[Expression]:
    """Every node after its children."""
    order: list[Expression] = []
    seen: set[int] = set()
    stack = [(node, False) for node in reversed(nodes)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if isinstance(node, Node):
                stack.extend((child, False) for child in reversed(node.children))
    return order
