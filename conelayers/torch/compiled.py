"""The layer as custom operators, which torch.compile keeps in its graph: the solve, and its gradient.

The solve returns a handle, an integer tensor (a digest of the arguments), which the gradient is given. The last few
solutions are kept with their factors under their handles; if a solution has been forgotten, the gradient solves again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from conelayers.layer.layer import Layer
from conelayers.layer.solution import LayerSolution
from conelayers.support.recent import Recent, digest
from conelayers.torch.conversion import from_array, output_type, to_array

__all__ = ["register", "solve_in_graph"]

_LAYERS: WeakValueDictionary[int, Layer] = WeakValueDictionary()
_NUMBERS = itertools.count()


# The last solutions by their handles. A training step needs one for each layer from its forward to its backward pass.
KEPT: Recent[int, LayerSolution] = Recent(8)


def register(layer: Layer) -> int:
    """The number by which the operators find a layer, for as long as it lives in this process."""
    number = next(_NUMBERS)
    _LAYERS[number] = layer
    return number


def solve_in_graph(params: Sequence[Tensor], number: int) -> tuple[Tensor, ...]:
    """The variables for these parameter values."""
    *variables, _ = torch.ops.conelayers.solve(list(params), number)
    return tuple(variables)


@torch.library.custom_op("conelayers::solve", mutates_args=())
def _solve(params: list[Tensor], number: int) -> list[Tensor]:
    arrays = [to_array(p) for p in params]
    solution = _LAYERS[number].solve_parts(*arrays)
    handle = _handle(number, arrays)
    KEPT.add(handle, solution)
    dtype, device = output_type(params)
    return [*(from_array(v.copy(), dtype, device) for v in solution.variables), torch.tensor(handle)]


def _handle(number: int, arrays: Sequence[np.ndarray]) -> int:
    """The handle of these arguments: the same for equal ones, as torch asks of an operator's results."""
    return int.from_bytes(digest(*arrays, of=str(number), size=8), "big") >> 1


@_solve.register_fake
def _(params: list[Tensor], number: int) -> list[Tensor]:
    layer = _LAYERS[number]
    dtype, device = output_type(params)
    specs = layer.compiled_for().parameters
    batch: list[Any] = []
    for p, spec in zip(params, specs, strict=True):
        if p.dim() > len(spec.shape):
            batch = [p.shape[0]]
    shapes = [(*batch, *o.shape) for o in layer.compiled_for().outputs]
    return [
        *(torch.empty(shape, dtype=dtype, device=device) for shape in shapes),
        torch.empty((), dtype=torch.int64),
    ]


@torch.library.custom_op("conelayers::solve_backward", mutates_args=())
def _gradient(
    params: list[Tensor], cotangents: list[Tensor], handle: Tensor, needed: list[bool], number: int
) -> list[Tensor]:
    solution = KEPT.get(int(handle))
    if solution is None:
        solution = _LAYERS[number].solve_parts(*[to_array(p) for p in params])
    gradients = solution.vjp(*[to_array(g) for g in cotangents], needed=needed)
    return [
        torch.zeros_like(p) if g is None else from_array(g, p.dtype, p.device)
        for g, p in zip(gradients, params, strict=True)
    ]


@_gradient.register_fake
def _(params: list[Tensor], cotangents: list[Tensor], handle: Tensor, needed: list[bool], number: int) -> list[Tensor]:
    return [torch.empty(p.shape, dtype=p.dtype, device=p.device) for p in params]


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], int], output: list[Tensor]) -> None:
    params, ctx.number = inputs
    ctx.needed = [p.requires_grad for p in params]
    ctx.save_for_backward(*params, output[-1])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[list[Tensor | None], None]:
    *params, handle = ctx.saved_tensors
    gradients = torch.ops.conelayers.solve_backward(params, list(grads[:-1]), handle, ctx.needed, ctx.number)
    return [g if need else None for g, need in zip(gradients, ctx.needed, strict=True)], None


_solve.register_autograd(_backward, setup_context=_setup_context)
