"""Products with the Jacobians of functions of tensors, at points that may carry outer transformations of torch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

from conelayers.implicit.equation import Equation

__all__ = ["Products", "each", "primal", "push"]

Tensor = torch.Tensor


def push(function: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The derivative of ``function`` at the primals along the tangents."""
    with _joined_dual_level():  # dual numbers do not take expanded tensors
        return torch.func.jvp(function, *(tuple(h.contiguous() for h in hs) for hs in (primals, tangents)))[1]


@contextlib.contextmanager
def _joined_dual_level() -> Iterator[None]:
    """Lets torch.func.jvp run inside of a plain ``forward_ad.dual_level``, as it runs inside of itself.

    Torch refuses to open a second level there.
    """
    alone = forward_ad._current_level >= 0 and eager_transforms.JVP_NESTING == 0
    if alone:
        eager_transforms.JVP_NESTING += 1
    try:
        yield
    finally:
        if alone:
            eager_transforms.JVP_NESTING -= 1


def primal(t: Tensor) -> Tensor:
    """t without the tangent of an open dual level."""
    return forward_ad.unpack_dual(t).primal if forward_ad._current_level >= 0 else t


def each(function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """The function of each of h's rows."""
    return function(h[0])[None] if h.shape[0] == 1 else torch.func.vmap(function)(h)


@final
class Products:
    """Products with B and Bᵀ at a point, of plain vectors (K, N, n)."""

    def __init__(self, equation: Equation, z: Tensor, leaves: Sequence[Tensor]) -> None:
        self._shape, self._z = z.shape, z
        self._of_z = lambda h: equation.residual(h, *leaves)

    @functools.cached_property
    def _pull(self) -> Callable[[Tensor], tuple[Tensor]]:
        return torch.func.vjp(self._of_z, self._z)[1]

    def times(self, h: Tensor) -> Tensor:
        # For tensors without axes torch's forward mode returns double precision.
        pushed = each(lambda t: push(self._of_z, (self._z,), (t,)), h.reshape(len(h), *self._shape))
        return pushed.reshape(h.shape).to(h.dtype)

    def transposed_times(self, h: Tensor) -> Tensor:
        return each(lambda t: self._pull(t)[0], h.reshape(len(h), *self._shape)).reshape(h.shape)
