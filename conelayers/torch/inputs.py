"""The tensors of a call: their checks, and their values for the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor

from conelayers.problem.parameter_checks import in_order
from conelayers.problem.parameters import ParameterSpec
from conelayers.torch.conversion import to_array
from conelayers.torch.values import TENSORS

__all__ = ["checked_tensors", "host_value"]

_HOST = torch.device("cpu")


def checked_tensors(
    specs: Sequence[ParameterSpec], params: tuple[Tensor, ...], named: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """The call's tensors in the order of the parameters, given by position or by name.

    Raises TypeError or ValueError naming the parameter whose tensor has no values, is of another kind or device.
    """
    params = in_order(specs, params, named)
    host = _HOST if all(p.device == _HOST for p in params if isinstance(p, Tensor)) else None
    for i, p in enumerate(params):
        if isinstance(p, Tensor) and p.is_floating_point() and p.layout is torch.strided and p.device == host:
            continue  # the usual case, quickly
        name = specs[i].numbered(i) if i < len(specs) else f"parameter {i}"
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: got {type(p).__name__}, expected a torch.Tensor; wrap it with torch.as_tensor")
        spec = specs[i] if i < len(specs) else None
        if p.dtype == torch.bool or (p.dtype.is_complex and not (spec is not None and spec.is_complex)):
            raise TypeError(
                f"{name}: got dtype {p.dtype}, expected a floating-point one; convert it with .to(torch.float64)"
            )
        if p.layout is not torch.strided and not (spec is not None and spec.positions is not None):
            raise TypeError(
                f"{name}: got a tensor of layout {p.layout}, expected a dense one; convert it with .to_dense()"
            )
        if p.is_meta:
            raise ValueError(
                f"{name}: got one that is on meta, expected a tensor with values, on the CPU or a GPU; make it there"
            )
        if p.device != params[0].device:
            raise ValueError(f"{name}: is on {p.device}, expected {params[0].device} like parameter 0; move it there")
    return params


def host_value(value: Tensor) -> Any:
    """The tensor's values for the engine: an array, or a matrix of SciPy's for a sparse tensor."""
    if value.layout is not torch.strided and value.dim() == 2:
        stored = value.detach().cpu().to_sparse_coo().coalesce()
        return sp.coo_array((stored.values().double().numpy(), tuple(stored.indices().numpy())), shape=value.shape)
    array = TENSORS.dense(value.detach())
    return array.cpu().resolve_conj().numpy() if array.is_complex() else to_array(array)
