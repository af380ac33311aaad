"""The optimal value as an autograd Function, with the gradient that the envelope theorem gives: no linear solve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from conelayers.torch.call import Call
from conelayers.torch.functions import zero_where_nan
from conelayers.torch.outside_graphs import outside_graphs
from conelayers.torch.rules import tangent_rule

__all__ = ["optimal_value"]


def optimal_value(call: Call, phi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The cone program's optimal value, (B,), at its solution."""
    return _Value.apply(call, phi, x, y)


class _Value(Function):
    """½ xᵀPx + qᵀx + c with the gradient of the Lagrangian: by the envelope theorem x and y count as constants.

    dV = ½ xᵀdP x + dqᵀx + yᵀ(dA x − db) + dc. In instances without a solution it is NaN, or zero for a cotangent zero.
    """

    generate_vmap_rule = True

    @staticmethod
    @outside_graphs
    def forward(call: Call, phi: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return call.traced.optimal_value(phi, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @outside_graphs
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor, None, None]:
        _, x, y = ctx.saved_tensors
        f = ctx.call.traced
        lost = x.isnan().any(1, keepdim=True)
        x, y = zero_where_nan(x), zero_where_nan(y)
        moved = 0.5 * f.P_gradient(x, x) + f.q.matrix.transposed_times(x) + f.A_gradient(y, x)
        moved = moved - f.b.matrix.transposed_times(y) + f.constant.matrix.transposed_times(torch.ones_like(x[:, :1]))
        nothing = lost & (g[:, None] == 0)
        return None, torch.where(nothing, 0.0, g[:, None] * torch.where(lost, torch.nan, moved)), None, None

    @staticmethod
    @tangent_rule
    def jvp(
        ctx: Any, saved: list[Tensor], call: None, dphi: Tensor | None, dx: Tensor | None, dy: Tensor | None
    ) -> Tensor:
        _, x, y = saved
        if dphi is None:
            return torch.zeros_like(x[:, 0])
        return ctx.call.traced.optimal_value_tangent(dphi, x, y)
