"""The outputs of one call as differentiable functions of its parameters' tensors.

Outside of transformations the plain way asks the engine for values and gradients. Under torch.func, forward mode or
``create_graph=True`` the outputs are composed from operations that every transformation differentiates and maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from conelayers.layer.solution import LayerSolution
from conelayers.problem.parameter_checks import batch_sizes
from conelayers.problem.parameters import moved_values
from conelayers.torch.call import Call
from conelayers.torch.conversion import from_array, output_type, to_array
from conelayers.torch.functions import solve
from conelayers.torch.operations import flatten
from conelayers.torch.outside_graphs import outside_graphs
from conelayers.torch.smoothed import solve_smoothed
from conelayers.torch.values import TENSORS

__all__ = ["phi_of", "solve_parameters", "transformed"]


class _PlainSolve(torch.autograd.Function):
    """θ ↦ variables outside of transformations: the engine's gradient, or the general one under create_graph."""

    @staticmethod
    @outside_graphs
    def forward(ctx: Any, call: Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        solution = call.layer.solve_parts(*[to_array(t) for t in tensors], **call.options)
        call.solution = ctx.solution = solution
        ctx.call = call
        ctx.save_for_backward(*tensors)
        dtype, device = output_type(tensors)
        # The cotangent of an output that is not used stays None, and costs nothing.
        ctx.set_materialize_grads(False)
        values = (solution.x, solution.y, solution.s) if call.points else solution.variables
        return tuple(from_array(v.copy(), dtype, device) for v in values)

    @staticmethod
    @outside_graphs
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or transformed():
            return (
                None,
                *_differentiable_gradient(ctx.call, ctx.solution, tensors, cotangents, ctx.needs_input_grad[1:]),
            )
        arrays = [None if g is None else to_array(g) for g in cotangents]
        pull = ctx.solution.vjp_points if ctx.call.points else ctx.solution.vjp
        gradients = pull(*arrays, needed=ctx.needs_input_grad[1:])
        return (
            None,
            *(None if g is None else from_array(g, t.dtype, t.device) for g, t in zip(gradients, tensors, strict=True)),
        )


def _differentiable_gradient(
    call: Call,
    solution: LayerSolution,
    tensors: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None],
    needed: Sequence[bool],
) -> list[torch.Tensor | None]:
    """The gradients as differentiable functions of parameters and cotangents, for ``create_graph=True``."""
    outputs = _solve_composably(call.with_solution(solution), tensors)
    used = [(o, g) for o, g in zip(outputs, cotangents, strict=True) if g is not None]
    wanted = [t for t, need in zip(tensors, needed, strict=True) if need]
    gradients = iter(
        torch.autograd.grad([o for o, _ in used], wanted, [g for _, g in used], create_graph=True, allow_unused=True)
        if used
        else [None] * len(wanted)
    )
    return [next(gradients) if need else None for need in needed]


def _solve_composably(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """θ ↦ variables, composed from operations that every transformation differentiates and maps."""
    phi, batch = phi_of(call, tensors)
    x, y, s = (solve if call.smoothing is None else solve_smoothed)(call, phi)
    dtype, device = output_type(tensors)
    values = [x, y, s] if call.points else call.traced.variables(x, y)
    return tuple((v[0] if batch is None else v).to(dtype=dtype, device=device) for v in values)


def phi_of(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, int | None]:
    """φ (B, ·) of a call's values, and B; None for an unbatched call."""
    f = call.traced
    specs = f.parameters
    sizes = batch_sizes(specs, [t.shape for t in tensors])
    batch = next((size for size in sizes if size is not None), None)
    columns = []
    for t, size, spec in zip(tensors, sizes, specs, strict=True):
        value = (t.unsqueeze(0) if size is None else t).to(device="cpu", dtype=torch.float64)
        value = moved_values(TENSORS.arithmetic, spec, value) if call.layer.validate else value
        columns.append(flatten(value, spec.shape).expand(1 if batch is None else batch, spec.size))
    theta = torch.cat(columns, dim=1) if columns else torch.zeros((1, 0), dtype=torch.float64)
    return f.phi(theta), batch


def solve_parameters(call: Call, params: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs of a call: in the plain way, or composably under a transformation."""
    return _solve_composably(call, params) if transformed() else _PlainSolve.apply(call, *params)


def transformed() -> bool:
    """Whether a transformation of torch.func, or forward mode, is under way."""
    if torch._C._are_functorch_transforms_active():
        return True
    return torch.autograd.forward_ad._current_level >= 0
