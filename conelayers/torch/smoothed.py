"""The solution map with a smoothed derivative (derivatives/smoothing.py), for torch's transformations.

It has reverse mode only, and only once: what stands in for a gradient has no derivative of its own.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch.autograd import Function

from conelayers.torch.call import Call
from conelayers.torch.conversion import from_array, to_array
from conelayers.torch.outside_graphs import outside_graphs
from conelayers.torch.rules import front

__all__ = ["solve_smoothed"]

Tensor = torch.Tensor

_ONCE = "a layer with smoothing= has gradients only: no forward mode through torch, and no second derivatives"


def solve_smoothed(call: Call, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, n), y (B, m), s (B, m) at φ (B, ·)."""
    return _SmoothedSolve.apply(call, phi)


@final
class _SmoothedSolve(Function):
    @staticmethod
    @outside_graphs
    def forward(call: Call, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return call.points_at(phi)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call = inputs[0]
        ctx.save_for_backward(inputs[1])

    @staticmethod
    @outside_graphs
    def backward(ctx: Any, gx: Tensor, gy: Tensor, gs: Tensor) -> tuple[None, Tensor]:
        (phi,) = ctx.saved_tensors
        return None, ctx.call.traced.gradient(*_Adjoint.apply(ctx.call, phi, gx, gy, gs))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_ONCE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, phi: Tensor) -> tuple[Any, Any]:
        (phi,) = _folded(info.batch_size, in_dims[1:], phi)
        return _unfolded(info.batch_size, solve_smoothed(call, phi))


@final
class _Adjoint(Function):
    """(φ, gx, gy, gs) ↦ x̄, ȳ, λ, μ of smoothing.Adjoint."""

    @staticmethod
    @outside_graphs
    def forward(call: Call, phi: Tensor, gx: Tensor, gy: Tensor, gs: Tensor) -> tuple[Tensor, ...]:
        derivative = call.solve_at(phi).program_derivative
        return tuple(from_array(h) for h in derivative.adjoint(to_array(gx), to_array(gy), to_array(gs)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise NotImplementedError(_ONCE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_ONCE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, *tensors: Tensor) -> tuple[Any, Any]:
        folded = _folded(info.batch_size, in_dims[1:], *tensors)
        return _unfolded(info.batch_size, _Adjoint.apply(call, *folded))


def _folded(size: int, in_dims: tuple[int | None, ...], *tensors: Tensor) -> list[Tensor]:
    """Tensors (size·B, ·) from tensors (B, ·) with or without the mapped axis, which is folded into the batch."""
    return [front(t, dim, size).flatten(0, 1) for t, dim in zip(tensors, in_dims, strict=True)]


def _unfolded(size: int, tensors: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """The tensors with the mapped axis in front again, and where it is."""
    return tuple(t.unflatten(0, (size, t.shape[0] // size)) for t in tensors), (0,) * len(tensors)
