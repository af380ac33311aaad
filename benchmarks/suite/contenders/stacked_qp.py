"""A model's quadratic program as torch tensors with a batch axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.suite.case import Case, QuadraticForm
from benchmarks.suite.contenders.contender import DENSE_ORDER

__all__ = ["TorchQP", "sparsity"]


def sparsity(form: QuadraticForm, case: Case, name: str) -> sp.csr_array:
    """The pattern of P, A or G with its constant values, full (of ones) where a parameter enters it."""
    if name in form.constants:
        return sp.csr_array(form.constants[name])
    sample = form.parametric(torch, *[torch.as_tensor(v[:1]) for v in case.values(case.model(), 0)])
    return sp.csr_array(np.ones(sample[name].shape[1:]))


@final
class TorchQP:
    """Parameters' tensors ↦ the data of the QP. Unbatched tensors get a batch axis of one, outputs lose it again."""

    def __init__(self, form: QuadraticForm, case: Case) -> None:
        self._form, self._case = form, case
        self._dense = {
            name: torch.as_tensor(value if isinstance(value, np.ndarray) else value.toarray())
            for name, value in form.constants.items()
            if isinstance(value, np.ndarray) or form.n <= DENSE_ORDER
        }
        self._stored = {
            name: torch.as_tensor(sp.csr_array(value).data)
            for name, value in form.constants.items()
            if not isinstance(value, np.ndarray)
        }

    def dense(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """P, q, A, b, G, h, those that no parameter enters without a batch axis."""
        moving = self._moving(tensors)
        return [moving.get(name, self._dense.get(name)) for name in "PqAbGh"]

    def stored(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The same, matrices as their stored entries by rows, and all with a batch axis."""
        moving = self._moving(tensors)
        constants = {**self._dense, **self._stored}
        return [
            moving[name].flatten(1) if name in moving else constants[name].expand(self._case.batch, -1)
            for name in "PqAbGh"
        ]

    def recover(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The variables from x (B, n)."""
        variables = self._form.recover(x)
        return variables if self._case.batched else [v.squeeze(0) for v in variables]

    def _moving(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        stacked = tensors if self._case.batched else [t.unsqueeze(0) for t in tensors]
        return self._form.parametric(torch, *stacked)
