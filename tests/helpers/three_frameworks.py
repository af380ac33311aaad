"""One problem through the NumPy, the PyTorch and the JAX layer: the same values, gradients and certificates are asked of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import jax
import numpy as np
import torch
from double_precision import double_precision

import conelayers.jax
import conelayers.torch
from conelayers import Certificates, Layer

__all__ = ["FRAMEWORKS", "Through", "across"]

FRAMEWORKS = ("numpy", "torch", "jax")


def across(*choices: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All combinations of the choices for NumPy, and two or three of them for each of the others: (framework, *choice)."""
    combinations = list(itertools.product(*choices))
    some = combinations[:: -(-len(combinations) // 3)]
    return [(f, *c) for f in FRAMEWORKS for c in (combinations if f == "numpy" else some)]


class Through:
    """A layer of a framework for a problem with one variable to return."""

    def __init__(
        self, framework: str, problem: cp.Problem, parameters: Sequence[cp.Parameter], x: cp.Variable, **options: Any
    ) -> None:
        kinds = {"numpy": Layer, "torch": conelayers.torch.ConeLayer, "jax": conelayers.jax.ConeLayer}
        self.framework = framework
        self.layer = kinds[framework](problem, parameters, [x], **options)

    def vjp(self, g: Any, *values: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """x, and the gradients of ⟨g, x⟩."""
        g, values = np.asarray(g, dtype=float), [np.asarray(v, dtype=float) for v in values]
        if self.framework == "numpy":
            solution = self.layer.solve(*values)
            return solution.variables[0], solution.vjp(g)
        if self.framework == "torch":
            tensors = [torch.tensor(v, requires_grad=True) for v in values]
            (x,) = self.layer(*tensors)
            return x.detach().numpy(), tuple(h.numpy() for h in torch.autograd.grad(x, tensors, torch.tensor(g)))
        with double_precision():
            x, pull = jax.vjp(lambda *v: self.layer(*v)[0], *map(jax.numpy.asarray, values))
            return np.asarray(x), tuple(np.asarray(h) for h in pull(jax.numpy.asarray(g)))

    def jvp(self, values: Sequence[Any], directions: Sequence[Any]) -> np.ndarray:
        """The tangent of x."""
        values, directions = ([np.asarray(v, dtype=float) for v in h] for h in (values, directions))
        if self.framework == "numpy":
            return self.layer.solve(*values).jvp(*directions)[0]
        if self.framework == "torch":
            pairs = [tuple(map(torch.tensor, h)) for h in (values, directions)]
            return torch.func.jvp(lambda *v: self.layer(*v)[0], *pairs)[1].numpy()
        with double_precision():
            pairs = [tuple(map(jax.numpy.asarray, h)) for h in (values, directions)]
            return np.asarray(jax.jvp(lambda *v: self.layer(*v)[0], *pairs)[1])

    def certify(self, *values: Any) -> Certificates:
        values = [np.asarray(v, dtype=float) for v in values]
        if self.framework == "torch":
            values = [torch.tensor(v) for v in values]
        if self.framework != "jax":
            return self.layer.certify(*values)
        with double_precision():
            return self.layer.certify(*map(jax.numpy.asarray, values))
