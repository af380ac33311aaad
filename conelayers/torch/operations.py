"""The operations of a traced program (layer/traced_program.py) over tensors of torch."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch

from conelayers.layer.traced_program import TracedProgram
from conelayers.numerics.cones import Selection
from conelayers.problem.parametric import ParametricProgram

__all__ = ["flatten", "traced_program"]

Tensor = torch.Tensor


def flatten(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) to (B, size), column by column."""
    if len(shape) > 1:
        value = value.permute(0, *range(len(shape), 0, -1))
    return value.reshape(value.shape[0], math.prod(shape))


@final
class _Operations:
    def constant(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    def take(self, h: Tensor, index: Tensor) -> Tensor:
        return h.index_select(1, index)

    def scatter(self, values: Tensor, target: Tensor, size: int) -> Tensor:
        return torch.zeros((), dtype=values.dtype).expand(values.shape[0], size).index_add(1, target, values)

    def log_where(self, mask: Tensor, h: Tensor) -> Tensor:
        return torch.where(mask, h, torch.ones_like(h)).log()

    def exp(self, h: Tensor) -> Tensor:
        solved = ~h.isnan()
        return torch.where(solved, h, 0.0).exp() + torch.where(solved, 0.0, h)

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], dim=1)

    def unflatten(self, flat: Tensor, shape: tuple[int, ...]) -> Tensor:
        value = flat.reshape(flat.shape[0], *reversed(shape))
        return value.permute(0, *range(len(shape), 0, -1)) if len(shape) > 1 else value


def traced_program(compiled: ParametricProgram, selection: Selection = Selection.DEFAULT) -> TracedProgram:
    """The program in operations on tensors."""
    # A tensor that is made under a transformation of torch.func cannot be used after the transformation has ended.
    with torch._C._DisableFuncTorch():
        return TracedProgram(compiled, _Operations(), selection)
