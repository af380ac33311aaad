"""Products with the Jacobians of functions of tensors, at points that may carry outer transformations of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

__all__ = ["each", "primal", "push"]

Tensor = torch.Tensor


def push(function: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The derivative along the tangents."""
    with _joined_dual_level():  # dual numbers do not take expanded tensors
        return torch.func.jvp(function, *(tuple(h.contiguous() for h in hs) for hs in (primals, tangents)))[1]


@contextlib.contextmanager
def _joined_dual_level() -> Iterator[None]:
    """Lets torch.func.jvp run inside of a plain ``forward_ad.dual_level``, as it runs inside of itself: torch opens no second level."""
    alone = forward_ad._current_level >= 0 and eager_transforms.JVP_NESTING == 0
    if alone:
        eager_transforms.JVP_NESTING += 1
    try:
        yield
    finally:
        if alone:
            eager_transforms.JVP_NESTING -= 1


def primal(t: Tensor) -> Tensor:
    """Without the tangent of an open dual level."""
    return forward_ad.unpack_dual(t).primal if forward_ad._current_level >= 0 else t


def each(function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """The function of each of h's rows."""
    return function(h[0])[None] if h.shape[0] == 1 else torch.func.vmap(function)(h)
