"""The layer as a torch.nn.Module: translation between tensors and arrays, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import cvxpy as cp
import numpy as np
import torch

from conelayers.layer import Layer
from conelayers.layer_solution import LayerSolution

__all__ = ["ConeLayer", "CvxpyLayer"]


class _Solve(torch.autograd.Function):
    """θ ↦ variables, with the adjoint of the solution map as its backward."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, call: dict[str, Any], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        solution = layer.solve(*[_to_array(t) for t in tensors], **call["options"])
        call["solution"] = solution
        ctx.solution = solution
        ctx.inputs = [(t.dtype, t.device) for t in tensors]
        dtype, device = _output_type(tensors)
        # One gradient arrives for every output; a missing one stays None and costs nothing.
        ctx.set_materialize_grads(False)
        return tuple(torch.as_tensor(v.copy()).to(dtype=dtype, device=device) for v in solution.variables)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        arrays = [None if g is None else _to_array(g) for g in cotangents]
        gradients = ctx.solution.vjp(*arrays, needed=ctx.needs_input_grad[2:])
        tensors = [
            None if g is None else torch.as_tensor(np.ascontiguousarray(g)).to(dtype=dtype, device=device)
            for g, (dtype, device) in zip(gradients, ctx.inputs, strict=True)
        ]
        return (None, None, *tensors)


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    # .numpy() accepts any strides, stride 0 included; bfloat16 has no NumPy counterpart.
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def _output_type(tensors: Sequence[torch.Tensor]) -> tuple[torch.dtype, torch.device]:
    """The common dtype of the inputs (the default one without any), and their device."""
    if not tensors:
        return torch.get_default_dtype(), torch.device("cpu")
    dtype = tensors[0].dtype
    for t in tensors[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    return dtype, tensors[0].device


@final
class ConeLayer(torch.nn.Module):
    """A parametric convex problem as a differentiable layer: parameters in, solution out, gradients through.

    problem: a DPP-compliant cvxpy.Problem. parameters: all of its parameters, in the order of the call's tensors.
    variables: variables of the problem or ``constraint.dual_variables[i]``, in the order of the returned tensors.
    solver: "CLARABEL", "SCS", "ECOS" or None. gp: a geometric program. solver_args: defaults for every call, see
    conelayers/solvers/arguments.py for the table. warm_start: start at this thread's previous solution.
    canon_backend: cvxpy's canonicalization backend.

    Tensors may be (*shape) or (B, *shape); unbatched ones are broadcast in a batched call and get the sum of the
    gradients. Computation is in float64; the outputs have the inputs' dtype and device, gradients each input's own.

    Raises CanonicalizationError or ValueError for a problem, parameters, variables or options that do not fit.
    """

    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        solver: str | None = None,
        gp: bool = False,
        verbose: bool = False,
        canon_backend: str | None = None,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        self.engine = Layer(
            problem,
            parameters,
            variables,
            solver=solver,
            gp=gp,
            solver_args=solver_args,
            verbose=verbose,
            canon_backend=canon_backend,
            warm_start=warm_start,
        )

    def forward(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The solution for these parameter values, a tuple with one tensor for each of ``variables``.

        Raises ValueError for bad values, TypeError for anything that is not a real floating-point tensor, SolveError
        naming the instances that have no solution.
        """
        return self.solve(*params, solver_args=solver_args, warm_start=warm_start)[0]

    @torch.compiler.disable  # the engine is NumPy: a compiled model calls it between two graphs
    def solve(
        self,
        *params: torch.Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool | None = None,
    ) -> tuple[tuple[torch.Tensor, ...], LayerSolution]:
        """Like the call, and with it the engine's LayerSolution: statuses, residuals, value, x, y, s."""
        specs = self.engine.parameters
        for i, p in enumerate(params):
            name = f"parameter {i} ({specs[i].name})" if i < len(specs) else f"parameter {i}"
            if not isinstance(p, torch.Tensor):
                raise TypeError(
                    f"{name}: got {type(p).__name__}, expected a torch.Tensor; wrap it with torch.as_tensor"
                )
            if not p.dtype.is_floating_point:
                raise TypeError(
                    f"{name}: got dtype {p.dtype}, expected a floating-point one; convert it with .to(torch.float64)"
                )
            if p.layout is not torch.strided:
                raise TypeError(
                    f"{name}: got a tensor of layout {p.layout}, expected a dense one; convert it with .to_dense()"
                )
            if p.device != params[0].device:
                raise ValueError(
                    f"{name}: is on {p.device}, expected {params[0].device} like parameter 0; move it there"
                )
        call: dict[str, Any] = {"options": {"solver_args": solver_args, "warm_start": warm_start}}
        outputs = _Solve.apply(self.engine, call, *params)
        return outputs, call["solution"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints of models that held a cvxpylayers layer carry its matrices as buffers; the layer has no state here.
        for name in ("P", "q", "A"):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The names and shapes of the parameters."""
        return ", ".join(f"{spec.name}{list(spec.shape)}" for spec in self.engine.parameters)


CvxpyLayer = ConeLayer  # the name that people coming from cvxpylayers import
