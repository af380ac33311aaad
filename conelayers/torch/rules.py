"""What torch's rules of differentiation and of vmap share, for the autograd Functions of layers and of equations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from conelayers.torch.outside_graphs import outside_graphs

__all__ = ["added", "dense", "front", "tangent_rule"]


def tangent_rule(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A ``jvp`` made of ``rule(ctx, saved tensors, *tangents)``, whose own operations are differentiated too.

    Torch would drop the outer levels' tangents there, which forward over forward needs.
    """

    @outside_graphs
    @functools.wraps(rule)
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            primals = [forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors]
            return rule(ctx, primals, *tangents)

    return jvp


def front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The tensor with the mapped axis in front; repeated along one where it has none."""
    return tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def added(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms, of which None stands for zero; None where all are."""
    present = [t for t in terms if t is not None]
    return None if not present else present[0] if len(present) == 1 else torch.stack(present).sum(0)


def dense(value: Tensor | None, like: Tensor) -> Tensor:
    """The value, or zeros of the shape of ``like`` for None."""
    return torch.zeros_like(like) if value is None else value
