"""A contender that is a function of torch tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.suite.case import Arrays
from benchmarks.suite.contenders.contender import Layer

__all__ = ["TorchLayer"]

torch.set_num_threads(2)


class TorchLayer(Layer):
    """function: tensors of the parameters ↦ tensors of the variables, differentiable."""

    def __init__(self, function: Callable[..., tuple[torch.Tensor, ...] | list[torch.Tensor]]) -> None:
        self._function = function
        self._outputs: list[torch.Tensor] = []
        self._tensors: list[torch.Tensor] = []

    def inputs(self, arrays: Arrays) -> list[torch.Tensor]:
        return [torch.tensor(np.asarray(a)) for a in arrays]

    def forward(self, inputs: list[torch.Tensor], warm: bool) -> list[torch.Tensor]:
        self._tensors = [t.requires_grad_() for t in inputs]
        self._outputs = list(self.call(self._tensors, warm))
        return self._outputs

    def call(self, tensors: list[torch.Tensor], warm: bool) -> Any:
        """One call of the function."""
        return self._function(*tensors)

    def backward(self, cotangents: list[torch.Tensor]) -> list[torch.Tensor]:
        # A copy of each leaf's gradient would be part of .backward(); grad returns what the layer computed.
        return list(torch.autograd.grad(self._outputs, self._tensors, cotangents, materialize_grads=True))

    def arrays(self, outputs: list[torch.Tensor]) -> Arrays:
        return [t.detach().numpy() for t in outputs]
