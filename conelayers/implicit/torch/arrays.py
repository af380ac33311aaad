"""PyTorch's functions for the formulas that both frameworks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from conelayers.implicit.arrays import Arrays, Trees

__all__ = ["TENSORS"]

Tensor = torch.Tensor


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    r = torch.where(a == 0, 0.0, a / b)
    return torch.where(torch.isfinite(r), r, torch.inf)


def _counts(h: Tensor) -> Tensor:
    return torch.arange(1, h.shape[-1] + 1, dtype=h.dtype, device=h.device)


def _made(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def _loop(unfinished: Callable[[Any], Any], step: Callable[[Any], Any], state: Any) -> Any:
    while bool(unfinished(state)):
        state = step(state)
    return state


TENSORS = Arrays(
    xp=torch,
    noun="a tensor",
    conversion="torch.as_tensor(z0, dtype=torch.get_default_dtype())",
    trees=Trees(tree_flatten, tree_unflatten, lambda leaves: torch.cat(list(leaves), -1)),
    leaves=tree_leaves,
    floats=(torch.float32, torch.float64),
    is_array=lambda value: isinstance(value, Tensor),
    dtype_of=lambda value: value.dtype,
    is_floating=lambda dtype: dtype.is_floating_point,
    given=lambda value: value if isinstance(value, Tensor) else None,
    parameter=lambda value, v: value if isinstance(value, Tensor) else _made(value, v),
    converted=lambda h, like: h.to(like.dtype),
    made=_made,
    constant=lambda h: h.detach(),
    ratio=_ratio,
    sorted_down=lambda h: h.sort(dim=-1, descending=True).values,
    taken=lambda h, indices: h.gather(-1, indices),
    counts=_counts,
    eager=True,
    either=lambda condition, yes, no: yes() if bool(condition) else no(),
    loop=_loop,
    scalar=lambda number, like: number,
    counter=lambda: 0,
)
