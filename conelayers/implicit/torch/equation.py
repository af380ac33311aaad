"""An equation in PyTorch: tensors that the user's function closes over become arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from conelayers.implicit.equation import Equation, Theta, check_returned, prepared
from conelayers.implicit.options import Options
from conelayers.implicit.torch.arrays import TENSORS
from conelayers.implicit.torch.capture import capture

__all__ = ["mapped", "pose"]

Tensor = torch.Tensor


def mapped(equation: Equation, dims: Sequence[int | None]) -> Equation:
    """The equation with one more axis of instances, which is in front of z and at ``dims`` of the leaves."""
    return equation.with_axis(torch.func.vmap(equation.function, in_dims=(0, *dims)))


def pose(
    options: Options, function: Callable[..., Any], z0: Any, theta: tuple[Any, ...]
) -> tuple[Equation, Tensor, list[Tensor]]:
    """The equation as a function of tensors alone, z0 in its dtype, and these tensors.

    They are the tensors of theta, and those that the function closes over.
    """
    options, as_written, z0, restored = prepared(TENSORS, options, function, z0)
    z0 = z0.detach().clone()
    found = capture(options.name, getattr(as_written, "_torchdynamo_orig_callable", as_written), z0, theta)
    check_returned(TENSORS, options, found.output, Tensor, z0)
    leaves, structure = tree_flatten(theta)
    own = Theta.of(TENSORS, leaves, lambda values: tree_unflatten(values, structure))

    def of_tensors(z: Tensor, *values: Tensor) -> Tensor:
        return found.call(values[len(own.places) :], z, *own.unflatten(values))

    def direct(z: Tensor, *values: Tensor) -> Tensor:
        return as_written(z, *own.unflatten(values))

    plain = not torch._C._are_functorch_transforms_active()
    equation = Equation(
        options=options,
        function=of_tensors,
        axes=int(options.batched),
        unflatten=own.unflatten,
        flatten=lambda given: [leaf for leaf in tree_flatten(tuple(given))[0] if isinstance(leaf, Tensor)],
        restored=restored,
        direct=direct if plain else None,
    )
    z0 = z0.to(torch.promote_types(z0.dtype, found.output.dtype))
    return equation, z0, [*(leaves[i] for i in own.places), *found.tensors]
