"""qpax in JAX: dense QPs by an interior-point method, differentiated at a relaxed solution; jit and vmap over the batch."""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import qpax

from benchmarks.suite.case import Arrays, Case, Model
from benchmarks.suite.contenders.contender import Contender, Layer, no_dense

__all__ = ["QPAX"]

# Its defaults, 1e-5 and 1e-3, are for smooth gradients; these are about the smallest that converge.
TOLERANCE, RELAXATION = 1e-8, 1e-6


@final
class Qpax(Layer):
    """Compiled forward and backward functions; compilation is part of the first call."""

    def __init__(self, model: Model, case: Case) -> None:
        jax.config.update("jax_enable_x64", True)
        form = model.quadratic
        fixed = {k: jnp.asarray(v if isinstance(v, np.ndarray) else v.toarray()) for k, v in form.constants.items()}

        def one(*data: jax.Array) -> jax.Array:
            return qpax.solve_qp_primal(*data, solver_tol=TOLERANCE, target_kappa=RELAXATION)

        def variables(*values: jax.Array) -> list[jax.Array]:
            stacked = values if case.batched else [v[None] for v in values]
            moving = form.parametric(jnp, *stacked)
            data = [moving.get(name, fixed.get(name)) for name in "PqAbGh"]
            axes = [0 if name in moving else None for name in "PqAbGh"]
            outputs = form.recover(jax.vmap(one, in_axes=axes)(*data))
            return outputs if case.batched else [v[0] for v in outputs]

        self._forward = jax.jit(lambda *values: jax.vjp(variables, *values))
        self._backward = jax.jit(lambda vjp, cotangents: vjp(cotangents))
        self._vjp: Any = None

    def inputs(self, arrays: Arrays) -> list[jax.Array]:
        return [jnp.asarray(a) for a in arrays]

    def forward(self, inputs: list[jax.Array], warm: bool) -> list[jax.Array]:
        outputs, self._vjp = jax.block_until_ready(self._forward(*inputs))
        return outputs

    def backward(self, cotangents: list[jax.Array]) -> list[jax.Array]:
        return jax.block_until_ready(list(self._backward(self._vjp, cotangents)))

    def arrays(self, outputs: list[jax.Array]) -> Arrays:
        return [np.asarray(a) for a in outputs]


QPAX = Contender("qpax", Qpax, no_dense)
