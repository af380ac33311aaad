"""osqp's torch layer."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from osqp.nn.torch import OSQP

from benchmarks.suite.case import Case, Model
from benchmarks.suite.contenders.contender import Contender, quadratic_only
from benchmarks.suite.contenders.stacked_qp import TorchQP, sparsity
from benchmarks.suite.contenders.torch_layer import TorchLayer

__all__ = ["OSQP_LAYER"]

TOLERANCE = 1e-7  # its default, 1e−5, often misses active constraints; it does not pass an iteration limit on


def _by_columns(pattern: sp.csr_array) -> tuple[tuple[np.ndarray, np.ndarray], torch.Tensor]:
    """Row and column of each entry by columns, as the layer wants them, and their places among those by rows."""
    numbered = sp.csr_array((np.arange(1.0, pattern.nnz + 1), pattern.indices, pattern.indptr), shape=pattern.shape)
    by_columns = sp.csc_array(numbered)
    by_columns.sort_indices()
    cols = np.repeat(np.arange(pattern.shape[1]), np.diff(by_columns.indptr))
    return (by_columns.indices, cols), torch.as_tensor(by_columns.data.astype(np.int64) - 1)


def _build(model: Model, case: Case) -> TorchLayer:
    """P, and A over G with lower bounds b and −∞."""
    form = model.quadratic
    P, A, G = (sparsity(form, case, name) for name in "PAG")
    linear = P.nnz == 0
    if linear:  # it takes no matrix without entries
        P = sp.csr_array(sp.eye_array(form.n))
    rows = sp.csr_array(sp.vstack([A, G]))
    (P_index, P_order), (A_index, A_order) = _by_columns(P), _by_columns(rows)
    solve = OSQP(P_index, P.shape, A_index, rows.shape, eps_rel=TOLERANCE, eps_abs=TOLERANCE)
    qp = TorchQP(form, case)

    def layer(*tensors: torch.Tensor) -> list[torch.Tensor]:
        P, q, A, b, G, h = qp.stored(tensors)
        if linear:
            P = torch.zeros_like(q)
        lower = torch.cat([b, torch.full_like(h, -np.inf)], 1)
        matrix = torch.cat([A, G], 1)[:, A_order]
        return qp.recover(solve(P[:, P_order], q, matrix, lower, torch.cat([b, h], 1)))

    return TorchLayer(layer)


OSQP_LAYER = Contender("osqp", _build, quadratic_only)
