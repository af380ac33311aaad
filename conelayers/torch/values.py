"""Tensors as the values of the user's parameters, from which the program's are made (problem/input_map.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from conelayers.problem.expressions import Arithmetic
from conelayers.problem.parameters import ParameterSpec
from conelayers.problem.user_values import entries_at_positions
from conelayers.torch.arithmetic import TorchArithmetic
from conelayers.torch.conversion import output_type
from conelayers.torch.operations import flatten

__all__ = ["TENSORS"]

Tensor = torch.Tensor


@final
class _Tensors:
    """Values that are dense tensors, or sparse ones in any of torch's layouts."""

    arithmetic: Arithmetic = TorchArithmetic()

    def array(self, value: Tensor) -> Tensor:
        return value

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
        if value.layout is not torch.strided and value.dim() == len(spec.shape):
            stored = (value if value.layout is torch.sparse_coo else value.to_sparse_coo()).coalesce()
            rows, columns = stored.indices()
            return entries_at_positions(_SparseOperations(value.device), rows, columns, stored.values(), spec)
        positions = torch.tensor(spec.positions or (), dtype=torch.int64, device=value.device)
        value = self.dense(value)
        if value.dim() > len(spec.shape):
            return flatten(value, spec.shape).index_select(1, positions)
        return flatten(value[None], spec.shape)[0].index_select(0, positions)

    def concrete(self, value: Tensor) -> np.ndarray | None:
        hidden = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        if hidden or (value.layout is not torch.strided and value.dim() == 2):
            return None
        return self.dense(value.detach()).cpu().resolve_conj().numpy()

    def joined(self, real: Tensor, imaginary: Tensor) -> Tensor:
        return torch.complex(real, imaginary)


@final
class _SparseOperations:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def index(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)

    def search(self, ordered: Tensor, wanted: Tensor) -> Tensor:
        return torch.searchsorted(ordered, wanted)

    def where(self, mask: Tensor, x: Tensor) -> Tensor:
        return torch.where(mask, x, 0)

    def holds_somewhere(self, mask: Tensor) -> bool:
        return bool(mask.any())

    def add_at(self, size: int, places: Tensor, values: Tensor) -> Tensor:
        return values.new_zeros(size).index_add(0, places, values)


TENSORS = _Tensors()
