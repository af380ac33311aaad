"""Tensors as the values of parameters that are not the program's own; see interface.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from conelayers.expressions import Arithmetic
from conelayers.parameters import ParameterSpec
from conelayers.torch.arithmetic import TorchArithmetic
from conelayers.torch.conversion import output_type
from conelayers.torch.operations import flatten

__all__ = ["TENSORS"]

Tensor = torch.Tensor


@final
class _Tensors:
    """Dense tensors, and sparse ones in any of torch's layouts."""

    arithmetic: Arithmetic = TorchArithmetic()

    def wide(self, value: Tensor) -> Tensor:
        dtype = torch.complex128 if value.is_complex() else torch.float64
        return self.dense(value).to(device="cpu", dtype=dtype)

    def narrow(self, value: Tensor, given: Sequence[Tensor]) -> Tensor:
        dtype, device = output_type([g.real if g.is_complex() else g for g in given])
        if value.is_complex():
            dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
        return value.to(dtype=dtype, device=device)

    def dense(self, value: Tensor) -> Tensor:
        return value if value.layout is torch.strided else value.to_dense()

    def entries(self, value: Tensor, spec: ParameterSpec) -> Tensor:
        positions = torch.tensor(spec.positions or (), dtype=torch.int64, device=value.device)
        if value.layout is not torch.strided and value.dim() == len(spec.shape):
            return _sparse_entries(value, positions, spec)
        value = self.dense(value)
        if value.dim() > len(spec.shape):
            return flatten(value, spec.shape).index_select(1, positions)
        return flatten(value[None], spec.shape)[0].index_select(0, positions)

    def concrete(self, value: Tensor) -> np.ndarray | None:
        hidden = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        if hidden or (value.layout is not torch.strided and value.dim() == 2):
            return None
        return self.dense(value.detach()).cpu().resolve_conj().numpy()


TENSORS = _Tensors()


def _sparse_entries(value: Tensor, positions: Tensor, spec: ParameterSpec) -> Tensor:
    value = (value if value.layout is torch.sparse_coo else value.to_sparse_coo()).coalesce()
    rows, cols = value.indices()
    stored = rows + spec.shape[0] * cols
    order = torch.argsort(positions)
    place = torch.searchsorted(positions[order], stored).clamp(max=max(len(positions) - 1, 0))
    inside = positions[order][place] == stored if len(positions) else torch.zeros_like(stored, dtype=torch.bool)
    values = value.values()
    if bool((values[~inside] != 0).any()):
        raise ValueError(
            f"parameter {spec.label}: was declared with a sparsity pattern; got entries outside it that are not zero, expected zeros there"
        )
    return values.new_zeros(len(positions)).index_add(0, order[place[inside]], values[inside])
