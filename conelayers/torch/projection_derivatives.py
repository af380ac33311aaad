"""D(v)h and D²Π(v)[a, c] of projections onto cones, as autograd Functions for all of torch's transformations.

    derivative  (v, h) ↦ D(v)h           along d: D²Π(v)[dv, h] + D dh
    second      (v, a, c) ↦ D²Π(v)[a, c]   linear in a and c; a third derivative is refused where the cones are curved

D is piecewise constant on orthants: there derivatives of every order exist almost everywhere, and are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from conelayers.layer.projection_derivatives import NO_THIRD_DERIVATIVES, ProjectionDerivatives
from conelayers.layer.traced_program import TracedProgram
from conelayers.torch.conversion import from_array, to_array
from conelayers.torch.outside_graphs import outside_graphs
from conelayers.torch.rules import added, dense, front, tangent_rule

__all__ = ["derivative", "second", "times_element"]


def derivative(traced: TracedProgram, v: Tensor, h: Tensor) -> Tensor:
    """D(v)h for a program's cones and v, h (..., m), by torch's own operations where D is diag(v > 0 or free)."""
    if traced.piecewise:
        # Where v is NaN (no solution), h passes through.
        return torch.where(~(v <= 0) | traced.free, h, torch.zeros_like(h))
    return times_element(traced.projection, v, h)


def times_element(projection: ProjectionDerivatives, v: Tensor, h: Tensor) -> Tensor:
    """D(v)h for v, h (..., m)."""
    return _Derivative.apply(projection, v, h)


def second(projection: ProjectionDerivatives, v: Tensor, a: Tensor, c: Tensor) -> Tensor | None:
    """D²Π(v)[a, c] for v, a, c (..., m); None for zero."""
    return _Second.apply(projection, v, a, c) if projection.curved else None


class _Derivative(Function):
    @staticmethod
    @outside_graphs
    def forward(projection: ProjectionDerivatives, v: Tensor, h: Tensor) -> Tensor:
        return from_array(projection.derivative(to_array(v), to_array(h)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.projection = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @outside_graphs
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        v, h = ctx.saved_tensors
        needs_v, needs_h = ctx.needs_input_grad[1:]
        return (
            None,
            second(ctx.projection, v, g, h) if needs_v else None,
            times_element(ctx.projection, v, g) if needs_h else None,
        )

    @staticmethod
    @tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, dv: Tensor | None, dh: Tensor | None) -> Tensor:
        v, h = saved
        projection = ctx.projection
        moved = added(
            None if dv is None else second(projection, v, dv, h),
            None if dh is None else times_element(projection, v, dh),
        )
        return dense(moved, h)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], projection: ProjectionDerivatives, v: Tensor, h: Tensor
    ) -> tuple[Any, Any]:
        return _mapped(info, in_dims[1:], lambda *a: times_element(projection, *a), v, h)


class _Second(Function):
    @staticmethod
    @outside_graphs
    def forward(projection: ProjectionDerivatives, v: Tensor, a: Tensor, c: Tensor) -> Tensor:
        return from_array(projection.second_derivative(to_array(v), to_array(a), to_array(c)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.projection = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @outside_graphs
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        v, a, c = ctx.saved_tensors
        needs_v, needs_a, needs_c = ctx.needs_input_grad[1:]
        if needs_v:
            raise NotImplementedError(NO_THIRD_DERIVATIVES)
        return (
            None,
            None,
            second(ctx.projection, v, g, c) if needs_a else None,
            second(ctx.projection, v, a, g) if needs_c else None,
        )

    @staticmethod
    @tangent_rule
    def jvp(ctx: Any, saved: list[Tensor], _: None, dv: Tensor | None, da: Tensor | None, dc: Tensor | None) -> Tensor:
        v, a, c = saved
        if dv is not None:
            raise NotImplementedError(NO_THIRD_DERIVATIVES)
        moved = added(
            None if da is None else second(ctx.projection, v, da, c),
            None if dc is None else second(ctx.projection, v, a, dc),
        )
        return dense(moved, v)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], projection: ProjectionDerivatives, v: Tensor, a: Tensor, c: Tensor
    ) -> tuple[Any, Any]:
        return _mapped(info, in_dims[1:], lambda *h: second(projection, *h), v, a, c)


def _mapped(info: Any, in_dims: tuple[Any, ...], function: Callable[..., Any], *tensors: Tensor) -> tuple[Any, Any]:
    """The vmap rule of a function of (..., m) arrays that takes any leading axes."""
    fronted = [front(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims, strict=True)]
    return function(*fronted), 0
